"""What strangers may learn of this machine, and what of them is shown here."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from runningserver import RunningServer, connected, fetched, next_json, pcm

from personaplex_cli.library.settings import config_folder
from personaplex_cli.options import AccessOptions

SPOILED: dict[str, Callable[[Path], object]] = {
    "no TOML": lambda path: path.write_text("prompt = \n"),
    "another key": lambda path: path.write_text('prompt = ""\nvoise = ""'),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "deep": lambda path: path.write_text("a = " + "[" * 20_000),
    "large": lambda path: path.write_text('prompt = "' + "a" * 1_100_000 + '"'),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a broken link": lambda path: path.symlink_to(path.parent / "gone"),
    "a link to no end": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize(("kind", "suffix"), [("persona", ".toml"), ("voice", ".toml"), ("voice", ".wav")])
def test_a_spoiled_file_is_left_out_and_strangers_learn_its_name_only(
    random_folder: Path, kind: str, suffix: str, spoil: Callable[[Path], object]
) -> None:
    folder = config_folder() / f"{kind}s"
    folder.mkdir(parents=True)
    spoil(folder / f"bad{suffix}")

    async def look(server: RunningServer) -> None:
        for _ in range(2):
            status, text, _ = await fetched(f"{server.url}/api/info")
            assert status == 200 and str(folder) not in text
            names = [each["name"] for each in json.loads(text)[f"{kind}s"]]
            assert ("bad" in names) <= (suffix == ".wav") and len(names) >= 5
        async with connected(server.socket(f"/pcm?{kind}=bad")) as socket:
            error = await next_json(socket, "error")
            assert error["message"].startswith(f"The {kind} bad cannot be used") and "/" not in str(error)
            async for _ in socket:
                pass
            assert socket.close_code == 4400
        await pcm(server)

    with RunningServer(random_folder) as server:
        asyncio.run(look(server))
    (note,) = {each for each in server.notes if str(folder) in each and "Left out" in each} or {""}
    assert bool(note) or suffix == ".wav"
    assert any("cannot be used" in each for each in server.notes)


@pytest.mark.model
def test_a_saved_voice_that_is_none_is_not_described_to_strangers(server: RunningServer) -> None:
    folder = config_folder() / "voices"
    folder.mkdir(parents=True)
    (folder / "bad.pt").write_bytes(b"no voice")

    async def ask() -> None:
        async with connected(server.socket("/pcm?voice=bad")) as socket:
            error = await next_json(socket, "error")
            assert error["message"] == "The voice bad cannot be used here."

    asyncio.run(ask())
    server.wait(lambda: any(str(folder) in note for note in server.notes))


def test_a_persona_whose_voice_is_gone_does_not_say_where_it_was(server: RunningServer) -> None:
    folder = config_folder() / "personas"
    folder.mkdir(parents=True)
    (folder / "gone.toml").write_text('prompt = ""\nvoice = "/home/me/secret.wav"')

    async def ask() -> None:
        async with connected(server.socket("/pcm?persona=gone")) as socket:
            assert (await next_json(socket, "error"))["message"] == "The voice of gone cannot be used here."

    asyncio.run(ask())


def test_a_folder_that_is_none_is_left_out(server: RunningServer) -> None:
    config_folder().mkdir(parents=True)
    (config_folder() / "personas").write_text("a file where a folder belongs")

    async def look() -> None:
        info = json.loads((await fetched(f"{server.url}/api/info"))[1])
        assert "chef" in [each["name"] for each in info["personas"]]
        async with connected(server.socket("/pcm?persona=chef")) as socket:
            assert str(config_folder()) not in str(await next_json(socket, "error"))

    asyncio.run(look())


def test_dot_files_are_not_served(random_folder: Path, tmp_path: Path) -> None:
    for name in ("index.html", ".env", ".git/config", "a/.b/c", "a/.htpasswd"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("secret")

    async def look(server: RunningServer) -> None:
        assert (await fetched(f"{server.url}/index.html"))[0] == 200
        for path in ("/.env", "/.git/config", "/a/.b/c", "/a/.htpasswd", "/%2eenv", "//.env", "/a/..%2f.env"):
            assert (await fetched(server.url + path))[0] == 404, path

    with RunningServer(random_folder, access=AccessOptions(port=0, static=tmp_path)) as server:
        asyncio.run(look(server))


@pytest.mark.parametrize("query", ["persona=", "voice=", "voice_prompt=", "seed=", "text_topk=", "prompt="])
def test_long_names_stay_short_where_they_are_shown(server: RunningServer, query: str) -> None:
    async def ask() -> None:
        async with connected(server.socket(f"/pcm?{query}{'9' * 5_000}")) as socket:
            assert len(str(await next_json(socket, "error"))) < 400

    before = len(server.notes)
    asyncio.run(ask())
    assert all(len(note) < 400 for note in server.notes[before:])


@pytest.mark.parametrize("field", ["persona", "voice", "prompt", "voice_prompt", "text_prompt"])
def test_text_that_is_none_is_refused_at_the_door(server: RunningServer, field: str) -> None:
    async def ask() -> None:
        async with connected(server.socket("/pcm")) as socket:
            await socket.send_json({"type": "config", field: "\ud800"})
            assert (await next_json(socket, "error"))["code"] == "request"
            async for _ in socket:
                pass
            assert socket.close_code == 4400

    asyncio.run(ask())
