"""Several talk at once: nobody is disturbed by the others, and who finds no place learns why."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType
from aiohttp.test_utils import make_mocked_request
from counting import FakeApp, at_any_speed, number
from runningserver import RunningServer, connected, fetched, frames, next_json, refused, samples, speech, talk_pcm

from personaplex_cli.events import Visitors
from personaplex_cli.options import ServeOptions
from personaplex_cli.samples import FRAME, pcm16
from personaplex_cli.server import admission, rounds, session
from personaplex_cli.server.access import client_address
from personaplex_cli.server.admission import LOOK_SECONDS


@pytest.fixture(autouse=True)
def any_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    at_any_speed(monkeypatch)


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with RunningServer("demo", kind=FakeApp) as running:
        yield running


async def asked(server: RunningServer, path: str) -> tuple[int, dict[str, Any]]:
    status, text, _ = await fetched(f"{server.url}{path}")
    return status, json.loads(text)


def test_it_is_ready_while_one_more_finds_a_place(server: RunningServer) -> None:
    async def fill() -> None:
        assert await asked(server, "/ready") == (200, {"state": "ready"})
        async with connected(server.socket("/pcm")) as first:
            await next_json(first, "ready")
            assert (await asked(server, "/ready"))[0] == 200
            async with connected(server.socket("/pcm")) as second:
                await next_json(second, "ready")
                status, text, headers = await fetched(f"{server.url}/ready")
                assert (status, json.loads(text)["state"]) == (503, "busy") and int(headers["Retry-After"]) > 0
                assert (await asked(server, "/health"))[0] == 200
        while (await asked(server, "/ready"))[0] == 503:
            await asyncio.sleep(0.01)

    asyncio.run(fill())


def test_one_more_than_the_model_can_is_refused_with_the_reason(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def come() -> None:
        async with connected(server.socket("/pcm")) as first:
            await next_json(first, "ready")
            await talk_pcm(first, frames(speech(3)))
            monkeypatch.setattr(rounds, "MAX_ROUND_MS", 0.0)
            status, body, headers = await refused(server.socket("/pcm"))
            assert (status, body["error"]) == (503, "slow") and "late" in body["message"] and headers["Retry-After"]
            assert await asked(server, "/ready") == (503, {"state": "slow", "message": body["message"]})
            assert (await asked(server, "/health"))[1]["state"] == "busy"
            await talk_pcm(first, frames(speech(3)))
        while (await asked(server, "/health"))[1]["sessions"]["active"]:
            await asyncio.sleep(0.01)
        async with connected(server.socket("/pcm")) as alone:
            await next_json(alone, "ready")

    asyncio.run(come())


def test_one_who_waits_gets_in_when_rounds_are_quick_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(server: RunningServer) -> None:
        async with connected(server.socket("/pcm")) as first:
            await next_json(first, "ready")
            await talk_pcm(first, frames(speech(3)))
            monkeypatch.setattr(rounds, "MAX_ROUND_MS", 0.0)
            async with connected(server.socket("/pcm")) as second:
                assert (await next_json(second, "state"))["position"] == 1
                monkeypatch.setattr(rounds, "MAX_ROUND_MS", float("inf"))
                await next_json(second, "ready")  # though nobody has left

    monkeypatch.setattr(admission, "LOOK_SECONDS", LOOK_SECONDS / 10)
    with RunningServer("demo", ServeOptions(queue=1), kind=FakeApp) as server:
        asyncio.run(wait(server))


async def read_nothing(socket: ClientWebSocketResponse) -> None:
    while True:
        await socket.send_bytes(pcm16(speech(1)))
        await asyncio.sleep(0.002)


async def flood(socket: ClientWebSocketResponse) -> None:
    while True:
        await socket.send_bytes(pcm16(speech(100)))
        await asyncio.sleep(0)


async def restart_again_and_again(socket: ClientWebSocketResponse) -> None:
    while True:
        await socket.send_json({"type": "restart"})
        await asyncio.sleep(0.005)


async def say_nothing(socket: ClientWebSocketResponse) -> None:
    async for _ in socket:
        pass


@pytest.mark.parametrize("misbehave", [read_nothing, flood, restart_again_and_again, say_nothing])
def test_a_client_that_misbehaves_harms_no_other(
    server: RunningServer, misbehave: Callable[[ClientWebSocketResponse], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "BEGINNINGS", 10_000)

    async def talk() -> None:
        async with connected(server.socket("/pcm")) as good, connected(server.socket("/pcm")) as bad:
            await next_json(good, "ready")
            mine = number((await talk_pcm(good, frames(speech(1))))[0])
            await next_json(bad, "ready")
            misbehaving = asyncio.create_task(misbehave(bad))
            said, others = await talk_pcm(good, frames(speech(50)))
            misbehaving.cancel()
            await asyncio.wait([misbehaving])
            assert len(said) == 50 * 2 * FRAME and number(said) == mine
            assert {each["type"] for each in others} <= {"latency"}  # nothing is lost, nothing is wrong

    asyncio.run(talk())


def test_each_conversation_is_recorded_in_its_own_folder(tmp_path: Path) -> None:
    async def talk(server: RunningServer) -> None:
        async with connected(server.socket("/pcm")) as first, connected(server.socket("/pcm")) as second:
            await next_json(first, "ready")
            await next_json(second, "ready")
            await asyncio.gather(talk_pcm(first, frames(speech(10, 1))), talk_pcm(second, frames(speech(10, 2))))
            await first.send_json({"type": "restart"})
            await next_json(first, "ready")
            await asyncio.gather(talk_pcm(first, frames(speech(5, 3))), talk_pcm(second, frames(speech(5, 4))))

    with RunningServer("demo", ServeOptions(record=tmp_path), kind=FakeApp) as server:
        asyncio.run(talk(server))
    kept = [samples(path) for path in tmp_path.glob("*/conversation.wav")]
    heard = sorted(each[:, 0].astype("<i2").tobytes() for each in kept)
    assert heard == sorted(
        b"".join([*frames(speech(10, one)), *frames(speech(5, other))]) for one, other in ((1, 3), (2, 4))
    )
    assert sorted(sorted(number(each[:, 1].tobytes())) for each in kept) in ([[1, 3], [2]], [[1], [2, 3]])


def test_the_owner_sees_how_many_there_are(server: RunningServer) -> None:
    async def come() -> None:
        async with connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            server.wait(lambda: Visitors(1, 2, 0) in server.events)

    asyncio.run(come())
    server.wait(lambda: [each for each in server.events if isinstance(each, Visitors)][-1] == Visitors(0, 2, 0))


# Whom an address stands for.


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("203.0.114.9", "198.51.100.7", "203.0.114.9"),  # anybody could say that
        ("10.0.0.2", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.2", "1.1.1.1, 198.51.100.7", "198.51.100.7"),  # only the last entry is the web server's own
        ("10.0.0.2", "nonsense", "10.0.0.2"),
        ("10.0.0.2", None, "10.0.0.2"),
        ("127.0.0.1", None, ""),  # by ssh, or through a web server that does not say for whom it asks
        ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("::1", "2001:db8::7", "2001:db8::/64"),
        ("::ffff:127.0.0.1", None, ""),
        ("::ffff:203.0.114.9", "198.51.100.7", "203.0.114.9"),
        (None, None, ""),
    ],
)
def test_whom_an_address_stands_for(peer: str | None, forwarded: str | None, client: str) -> None:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    assert client_address(make_mocked_request("GET", "/pcm", headers=headers).clone(remote=peer or "")) == client


def test_one_address_does_not_get_all_places(server: RunningServer) -> None:
    mine, other = ({"X-Forwarded-For": f"198.51.100.{number}"} for number in (1, 2))

    async def come() -> None:
        async with connected(server.socket("/pcm"), headers=mine) as first:
            await next_json(first, "ready")
            status, body, headers = await refused(server.socket("/pcm"), headers=mine)
            assert (status, body["error"]) == (503, "address") and headers["Retry-After"]
            assert (await asked(server, "/ready"))[0] == 200
            async with connected(server.socket("/pcm"), headers=other) as second:
                await next_json(second, "ready")

    asyncio.run(come())
    assert any("X-Forwarded-For" in note for note in server.notes)


# The end.


def test_who_talks_may_go_on_while_it_drains() -> None:
    async def drain(server: RunningServer) -> None:
        async with connected(server.socket("/pcm")) as first, connected(server.socket("/pcm")) as second:
            await next_json(first, "ready")
            await next_json(second, "ready")
            async with connected(server.socket("/pcm")) as third:
                await next_json(third, "state")
                server.app._call(server.app._drain)
                assert (await next_json(third, "error"))["message"] == "The server shuts down."
                await next_json(third, "state")
                await third.receive()
                assert third.close_code == 1001
            status, body, _ = await refused(server.socket("/pcm"))
            assert (status, body["error"]) == (503, "shutdown")
            assert (await asked(server, "/ready"))[0] == 503
            status, health = await asked(server, "/health")
            assert (status, health["state"], health["sessions"]["active"]) == (200, "draining", 2)
            await second.close()
            assert len((await talk_pcm(first, frames(speech(5))))[0]) == 5 * 2 * FRAME

    with RunningServer("demo", ServeOptions(queue=1, drain=1000), kind=FakeApp) as server:
        asyncio.run(drain(server))
        server._thread.join(60)  # with the last one who talks it ends by itself
        assert not server._thread.is_alive()
    assert any("1000 seconds" in note for note in server.notes)


@pytest.mark.parametrize(("drain", "signals"), [(0.0, 1), (0.05, 1), (1000.0, 2)])
def test_talks_end_when_their_time_is_over_or_at_the_second_signal(drain: float, signals: int) -> None:
    async def talk(server: RunningServer) -> None:
        async with connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            for _ in range(signals):
                server.app._call(server.app._drain)
            assert (await next_json(socket, "error"))["message"] == "The server shuts down."
            while (await socket.receive()).type is WSMsgType.TEXT:
                pass
            assert socket.close_code == 1001

    with RunningServer("demo", ServeOptions(drain=drain), kind=FakeApp) as server:
        asyncio.run(talk(server))


def test_without_anybody_who_talks_it_ends_at_once(server: RunningServer) -> None:
    server.app._call(server.app._drain)
    server._thread.join(60)
    assert not server._thread.is_alive()
