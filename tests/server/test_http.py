"""What is asked over HTTP."""

import asyncio
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import ClientSession
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runningserver import (
    SEED,
    RunningServer,
    connected,
    fetched,
    frames,
    next_json,
    pcm,
    refused,
    speech,
    talk_pcm,
)
from yarl import URL

from personaplex_cli.options import AccessOptions
from personaplex_cli.protocols.wire import PATH


def test_health_and_metrics(random_folder: Path) -> None:
    async def look(server: RunningServer) -> None:
        health = json.loads((await fetched(f"{server.url}/health"))[1])
        idle = {"active": 0, "slots": 1, "waiting": 0, "served": 0, "refused": 0}
        assert (health["state"], health["sessions"]) == ("ready", idle)
        async with connected(server.socket(f"/pcm?{SEED}")) as socket:
            await next_json(socket, "ready")
            await refused(server.socket(PATH))
            await talk_pcm(socket, frames(speech(15)))
            health = json.loads((await fetched(f"{server.url}/health"))[1])
            assert (health["state"], health["sessions"]["active"]) == ("busy", 1)
        while (health := json.loads((await fetched(f"{server.url}/health"))[1]))["state"] != "ready":
            await asyncio.sleep(0.01)
        assert health["sessions"] == idle | {"served": 1, "refused": 1}
        status, figures, headers = await fetched(f"{server.url}/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain")
        for line in (
            'personaplex_step_seconds_count{conversations="1"} 15.0',
            'personaplex_conversations_total{end="left"} 1.0',
            'personaplex_refusals_total{reason="busy"} 1.0',
            'personaplex_dropped_samples_total{side="heard"} 0.0',
            "personaplex_ready 1.0",
            "personaplex_slots 1.0",
            "personaplex_talking 0.0",
        ):
            assert line in figures.splitlines()

    with RunningServer(random_folder) as server:
        asyncio.run(look(server))


def test_info_names_what_can_be_asked_for(server: RunningServer) -> None:
    info = json.loads(asyncio.run(fetched(f"{server.url}/api/info"))[1])
    assert (info["persona"], info["voice"]) == ("teacher", "NATF2")
    assert {"name", "description"} <= info["voices"][0].keys() and len(info["voices"]) >= 16
    assert "chef" in [each["name"] for each in info["personas"]]
    assert info["sockets"]["moshi"] == server.socket(PATH)
    assert info["sampling"]["text_top_k"] == 25
    assert (info["max_minutes"], info["note"]) == (None, "")  # no limit, nothing that one should know of the model


def test_another_client_can_be_served(random_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "dist" / "assets").mkdir(parents=True)
    (tmp_path / "dist" / "index.html").write_text("<p>theirs")
    (tmp_path / "dist" / "assets" / "a.js").write_text("1")
    (tmp_path / "secret").write_text("no")
    (tmp_path / "dist" / "link").symlink_to(tmp_path / "secret")

    async def look(server: RunningServer) -> None:
        assert (await fetched(f"{server.url}/"))[1] == "<p>theirs"
        status, text, headers = await fetched(f"{server.url}/assets/a.js")
        assert (status, text) == (200, "1") and "Content-Security-Policy" not in headers
        port = int(server.url.rpartition(":")[2])
        for path in ("/../secret", "/assets/../../secret", "/%2e%2e/secret", "/link", "/assets", "/nothing"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert (await reader.readline()).split()[1] in (b"403", b"404"), path
            writer.close()
            await writer.wait_closed()
        await pcm(server, path="/")

    with RunningServer(random_folder, access=AccessOptions(port=0, static=tmp_path / "dist")) as server:
        asyncio.run(look(server))


def test_our_page_may_load_nothing_from_elsewhere(server: RunningServer) -> None:
    _, _, headers = asyncio.run(fetched(f"{server.url}/"))
    assert "default-src 'self';" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_request_without_a_websocket_is_refused(server: RunningServer) -> None:
    assert asyncio.run(fetched(server.url + PATH))[0] == 426


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.text(st.characters(exclude_categories=["Cs"]), max_size=8), times=st.integers(1, 60))
def test_no_path_is_a_failure(server: RunningServer, part: str, times: int) -> None:
    """Such as one with a name that no file can have."""
    path = URL(f"{server.url}/" + quote(part * times, safe=""), encoded=True)
    assert asyncio.run(fetched(path))[0] in (200, 403, 404)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_wrong_address_is_told_in_json(server: RunningServer, method: str) -> None:
    async def ask() -> None:
        path = f"/v2/{method}"
        async with ClientSession() as session, session.request(method, f"{server.url}{path}") as answer:
            assert answer.status == (404 if method == "GET" else 405)
            told = await answer.json()
            assert (told["error"], told["message"]) == ("path", f"{method} '{path}' means nothing here.")
        assert not any(path in note for note in server.notes)
        assert (await refused(server.socket(path)))[0] == 404
        assert sum(path in note for note in server.notes) == 1  # somebody wanted to talk

    asyncio.run(ask())


def test_what_strangers_ask_for_is_not_logged(server: RunningServer, capfd: pytest.CaptureFixture[str]) -> None:
    """aiohttp's own words go to standard error where nobody listens to its loggers."""

    async def ask() -> None:
        async with connected(server.socket("/pcm"), protocols=["strange"]) as socket:
            await next_json(socket, "ready")

    asyncio.run(ask())
    assert capfd.readouterr().err == ""
