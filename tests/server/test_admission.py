"""Who may talk, who waits, who is refused."""

import asyncio
import json
import threading
from pathlib import Path

import pytest
from runningserver import (
    SEED,
    RunningServer,
    connected,
    fetched,
    frames,
    next_json,
    next_message,
    pcm,
    refused,
    speech,
    talk_pcm,
)

from personaplex_cli.events import Phase, State
from personaplex_cli.loader import load
from personaplex_cli.protocols import moshi
from personaplex_cli.protocols.wire import PATH, Metadata, Ping, pack
from personaplex_cli.samples import FRAME, pcm16
from personaplex_cli.server import session


def test_one_talks_and_fifty_are_refused_at_once(server: RunningServer) -> None:
    async def storm() -> None:
        async with connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            answers = await asyncio.gather(*(refused(server.socket(PATH)) for _ in range(49)))
            for status, body, headers in answers:
                assert (status, body["error"]) == (503, "busy") and int(headers["Retry-After"]) > 0
            assert len((await talk_pcm(socket, frames(speech(3))))[0]) == 3 * 2 * FRAME

    asyncio.run(storm())
    asyncio.run(pcm(server))  # and the next one is let in


def test_clients_that_wait_know_their_position(server_with_queue: RunningServer) -> None:
    server = server_with_queue

    async def queue() -> None:
        async with connected(server.socket("/pcm?seed=1")) as first:
            await next_json(first, "ready")
            async with connected(server.socket(f"/pcm?{SEED}")) as third:
                async with connected(server.socket(f"{PATH}?seed=1")) as second:
                    await second.send_bytes(pack(Metadata({})))
                    assert (await next_json(third, "state")) == {"type": "state", "state": "queued", "position": 1}
                    assert (await next_message(second, Metadata)).values == {"queue": 2}
                    assert (await refused(server.socket(PATH)))[0] == 503
                # One who waited has left; there is room again.
                async with connected(server.socket("/pcm?seed=1")) as fourth:
                    assert (await next_json(fourth, "state"))["position"] == 2
                    await first.close()
                    assert (await next_json(fourth, "state"))["position"] == 1
                await next_json(third, "ready")
                assert len((await talk_pcm(third, frames(speech(5))))[0]) == 5 * 2 * FRAME

    asyncio.run(queue())


def test_the_next_talk_begins_as_clean_as_the_first(server_with_queue: RunningServer) -> None:
    server = server_with_queue

    async def two() -> tuple[bytes, bytes]:
        async with connected(server.socket(f"/pcm?{SEED}")) as first:
            await next_json(first, "ready")
            async with connected(server.socket(f"/pcm?{SEED}")) as second:
                assert (await next_json(second, "state"))["state"] == "queued"
                said = (await talk_pcm(first, frames(speech(10))))[0]
                await first.close()
                await next_json(second, "ready")
                return said, (await talk_pcm(second, frames(speech(10))))[0]

    said, again = asyncio.run(two())
    assert said == again


def test_a_sign_of_life_comes_while_one_waits(
    server_with_queue: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(moshi, "QUIET_SECONDS", 0.02)

    async def wait() -> None:
        async with connected(server_with_queue.socket("/pcm")) as first:
            await next_json(first, "ready")
            async with connected(server_with_queue.socket(PATH)) as second:
                assert [await next_message(second, Ping) for _ in range(3)]

    asyncio.run(wait())


def test_while_the_model_loads_the_port_is_open_and_says_so(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = threading.Event()
    really = load.load
    monkeypatch.setattr(load, "load", lambda *arguments: (loaded.wait(), really(*arguments))[1])
    with RunningServer(random_folder, wait_for=Phase.LISTENING) as server:
        try:
            status, health, _ = asyncio.run(fetched(f"{server.url}/health"))
            assert (status, json.loads(health)["state"]) == (503, "loading")
            assert asyncio.run(fetched(f"{server.url}/livez"))[0] == 200
            status, body, headers = asyncio.run(refused(server.socket(PATH)))
            assert (status, body["error"]) == (503, "loading") and headers["Retry-After"]
        finally:
            loaded.set()
        server.wait(lambda: any(isinstance(each, State) and each.name == Phase.READY for each in server.events))
        status, health, _ = asyncio.run(fetched(f"{server.url}/health"))
        assert (status, json.loads(health)["state"]) == (200, "ready")
        asyncio.run(pcm(server))


def test_who_waits_too_long_makes_room(server_with_queue: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it sends meanwhile: pings, sound and wishes cost nothing there."""
    server = server_with_queue

    async def wait() -> None:
        async with connected(server.socket("/pcm")) as first:
            await next_json(first, "ready")
            async with connected(server.socket("/pcm")) as second:
                assert (await next_json(second, "state"))["state"] == "queued"
                monkeypatch.setattr(session, "WAITING_SECONDS", 0.05)
                await second.send_json({"type": "ping"})
                await second.send_bytes(pcm16(speech(2)))
                await second.ping()
                assert "waited" in (await next_json(second, "error"))["message"]
                await next_json(second, "state")
                await second.receive()
                assert second.close_code == 4408
            await first.send_json({"type": "ping"})  # who talks is not counted among them
            await next_json(first, "pong")

    asyncio.run(wait())
