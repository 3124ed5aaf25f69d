"""What clients do wrong."""

import asyncio
import json
from pathlib import Path

import pytest
from runningserver import (
    SEED,
    RunningServer,
    connected,
    next_json,
    next_message,
    opus,
    pcm,
    speech,
    talk_moshi,
    wav,
)

from personaplex_cli.protocols.wire import PATH, Failure, Handshake, unpack


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("voice=NATF9", "no voice named 'NATF9'"),
        ("voice_prompt=/etc/passwd", "no voice named"),
        ("voice=../secret.wav", "no voice named"),
        ("voice_prompt=..%2Fx.pt", "no voice named"),
        ("persona=nobody", "no persona named"),
        ("persona=../personas/chef", "no persona named"),
        ("seed=tomorrow", "seed is 'tomorrow'"),
        ("seed=-7", "seed is -7"),
        ("text_temperature=hot", "text_temperature is 'hot'"),
        ("audio_temperature=nan", "temperature is nan"),
        ("text_topk=0", "top k is 0"),
    ],
)
def test_a_request_for_what_does_not_exist_is_refused(server: RunningServer, query: str, said: str) -> None:
    async def ask() -> None:
        async with connected(server.socket(f"{PATH}?{query}")) as socket:
            assert said in (await next_message(socket, Failure)).text
            assert (await socket.receive()).type and socket.close_code == 4400
        async with connected(server.socket(f"/pcm?{query}")) as socket:
            error = await next_json(socket, "error")
            assert said in error["message"] and error["code"] == "request"
            assert (await next_json(socket, "state")) == {"type": "state", "state": "ended", "reason": "refused"}
            await socket.receive()
            assert socket.close_code == 4400

    asyncio.run(ask())
    server.wait(lambda: any(said in note for note in server.notes))  # the operator learns why


def test_a_client_is_not_sent_to_commands_of_this_machine(server: RunningServer) -> None:
    async def ask(query: str) -> str:
        async with connected(server.socket(f"/pcm?{query}")) as socket:
            return str((await next_json(socket, "error"))["hint"])

    for query in ("voice=NATF9", "persona=nobody"):
        hint = asyncio.run(ask(query))
        assert "/api/info" in hint and "personaplex" not in hint


@pytest.mark.model
def test_a_file_is_no_voice_and_text_with_an_at_sign_is_text(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wav(tmp_path / "mine.wav", speech(20))
    (tmp_path / "secret").write_text("a secret " * 50)

    async def ask() -> None:
        async with connected(server.socket("/pcm?voice=mine.wav")) as socket:
            assert (await next_json(socket, "error"))["code"] == "request"
        async with connected(server.socket("/pcm?prompt=@secret")) as socket:
            assert (await next_json(socket, "ready"))["prompt_frames"] < 100

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("path", "message", "said"),
    [
        (PATH, b"", "empty"),
        (PATH, b"\x03\x09", "control"),
        (PATH, b"\x04{", "JSON"),
        ("/pcm", "{", "JSON"),
        ("/pcm", "[1]", "JSON object"),
        ("/pcm", "[" * 100_000, "JSON"),
        ("/pcm", '{"type": "sing"}', "sing"),
        ("/pcm", '{"type": "tool_result", "result": 1}', "tools"),
        ("/pcm", '{"type": "image", "data": ""}', "nor see"),
        ("/ws", b"\x00\x00", "JSON"),
        ("/ws", '{"type": "audio", "data": "?"}', "base64"),
        ("/ws", '{"type": "audio", "data": 5}', "base64"),
        ("/ws", '{"type": "audio"}', "base64"),
    ],
)
def test_a_message_without_sense_is_an_error_and_the_talk_goes_on(
    server: RunningServer, path: str, message: bytes | str, said: str
) -> None:
    async def talk() -> None:
        async with connected(server.socket(f"{path}?{SEED}")) as socket:
            await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
            complaint, is_ready = "", False
            while not (complaint and is_ready):  # in either order
                heard = await socket.receive()
                if path == PATH:
                    event = unpack(heard.data)
                    complaint = event.text if isinstance(event, Failure) else complaint
                    is_ready |= isinstance(event, Handshake)
                else:
                    values = json.loads(heard.data)
                    complaint = values["message"] if values["type"] == "error" else complaint
                    is_ready |= values["type"] == "ready"
            assert said in complaint

    asyncio.run(talk())


def test_unknown_kinds_and_text_are_ignored_in_moshis_protocol(server: RunningServer) -> None:
    async def talk() -> None:
        async with connected(server.socket(f"{PATH}?{SEED}")) as socket:
            await next_message(socket, Handshake)
            await socket.send_bytes(b"\x63whatever")
            await socket.send_str("hello?")
            await socket.send_bytes(b"\x00")
            assert len((await talk_moshi(socket, opus(speech(5))))[0])

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("path", "messages", "code"),
    [
        (PATH, [b"\x01this is no Opus at all, is it?"], 1007),
        (PATH, [b"\x03\x09"] * 50, 1007),
        ("/pcm", ["{"] * 50, 1007),
        ("/pcm", ['{"type": "config", "sample_rate": "fast"}'], 4400),
        ("/pcm", ['{"type": "config", "sample_rate": 1e999}'], 4400),
        ("/pcm", ['{"type": "config", "seed": [1]}'], 4400),
        ("/pcm", ['{"type": "config", "prompt": "\\ud800"}'], 4400),
        ("/pcm", [bytes(10_000_000)], 1009),
        ("/pcm", ["x" * 10_000_000], 1009),
        (PATH, [b"\x01" + bytes(10_000_000)], 1009),
        (PATH, [b"\x01" + bytes(100_000)] * 20, 1007),
    ],
)
def test_a_client_that_cannot_be_understood_is_disconnected_and_the_next_one_served(
    server: RunningServer, path: str, messages: list[bytes | str], code: int
) -> None:
    async def talk() -> None:
        async with connected(server.socket(f"{path}?{SEED}")) as socket:
            for message in messages:
                await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
            async for _ in socket:
                pass
            assert socket.close_code == code

    asyncio.run(talk())
    asyncio.run(pcm(server))


def test_half_a_message_and_no_http_at_all_do_no_harm(server: RunningServer) -> None:
    async def knock() -> None:
        port = int(server.url.rpartition(":")[2])
        for noise in (b"\x16\x03\x01 hello", b"GET /pcm HTTP/1.1\r\nHost: x\r\n", b"\r\n" * 9, b"\x00" * 70_000):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(noise)
            writer.close()
            await writer.wait_closed()
        async with connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            # The beginning of a frame of 100 bytes, and then the line is cut.
            transport = socket._writer.transport
            assert transport is not None
            transport.write(b"\x82\xe4\x00\x00\x00\x00half")
            transport.abort()

        async with asyncio.timeout(10):
            while server.app._admission.places:  # for a moment
                await asyncio.sleep(0.01)

    asyncio.run(knock())
    asyncio.run(pcm(server))
