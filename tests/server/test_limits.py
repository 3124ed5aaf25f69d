"""What clients may not use up: time, memory, connections."""

import asyncio
import gc
import json
import threading
import time
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession, WSMsgType
from runningserver import (
    SEED,
    RunningServer,
    connected,
    fetched,
    next_json,
    next_message,
    pcm,
    speech,
)

from personaplex_cli.options import ServeOptions
from personaplex_cli.protocols.adapter import Upgrade
from personaplex_cli.protocols.pcm import Pcm
from personaplex_cli.protocols.wire import PATH, Failure
from personaplex_cli.samples import SAMPLE_RATE, pcm16
from personaplex_cli.server import app, fairness, session


def test_a_silent_client_is_disconnected(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "IDLE_TIMEOUT", 0.2)
    monkeypatch.setattr(session, "TICK_SECONDS", 0.05)

    async def keep_silent() -> None:
        async with connected(server.socket(f"{PATH}?{SEED}")) as socket:
            assert "No sound" in (await next_message(socket, Failure)).text
            await socket.receive()
            assert socket.close_code == 4408

    asyncio.run(keep_silent())


def test_a_talk_that_has_lasted_too_long_is_ended(random_folder: Path) -> None:
    async def talk_on(server: RunningServer) -> None:
        async with connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            saying = asyncio.create_task(say_something(socket))
            assert "minutes" in (await next_json(socket, "error"))["message"]
            await next_json(socket, "state")
            await socket.receive()
            assert socket.close_code == 4408
            saying.cancel()

    async def say_something(socket: Any) -> None:
        while True:
            await socket.send_bytes(pcm16(speech(1)))
            await asyncio.sleep(0.02)

    with RunningServer(random_folder, ServeOptions(max_minutes=0.005)) as server:
        asyncio.run(talk_on(server))


@pytest.mark.slow
def test_a_client_that_reads_nothing_is_cut_off_and_keeps_no_other_waiting(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "SEND_TIMEOUT", 0.3)
    monkeypatch.setattr(fairness, "TALKERS", 1e6)  # on a slow machine its sound would not come too fast
    before = len(server.notes)

    async def talk_and_never_listen() -> None:
        frame = bytes(2 * 15_360)
        async with connected(server.socket("/pcm?sample_rate=192000")) as socket:
            await next_json(socket, "ready")
            with pytest.raises(ConnectionError):
                while True:
                    await socket.send_bytes(frame)
                    await asyncio.sleep(0.002)

    asyncio.run(talk_and_never_listen())
    asyncio.run(pcm(server))
    assert any("stuck" in note and "lost" in note for note in server.notes[before:])


def test_a_client_that_answers_no_ping_is_given_up(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play_dead() -> None:
        async with connected(server.socket(f"/pcm?{SEED}"), autoping=False) as socket:
            await next_json(socket, "ready")
            while (await socket.receive()).type not in (WSMsgType.CLOSED, WSMsgType.ERROR, WSMsgType.CLOSE):
                pass

    with monkeypatch.context() as patch:
        patch.setattr(app, "PING_SECONDS", 0.1)
        asyncio.run(play_dead())
    asyncio.run(pcm(server))


def test_sound_that_comes_too_fast_is_dropped_not_kept(server: RunningServer) -> None:
    async def flood() -> None:
        async with connected(server.socket(f"/pcm?{SEED}")) as socket:
            await next_json(socket, "ready")
            for _ in range(10):
                await socket.send_bytes(pcm16(speech(100)))
            await socket.send_json({"type": "ping"})
            answered = 0
            async for message in socket:
                answered += message.type.name == "BINARY"
                if message.type.name == "TEXT" and json.loads(message.data)["type"] == "pong":
                    break
            assert answered < 500

    before = len(server.notes)
    asyncio.run(flood())
    asyncio.run(pcm(server))
    assert any("of sound lost" in note for note in server.notes[before:])


@pytest.mark.slow
def test_a_thousand_come_and_go_and_nothing_stays(server: RunningServer) -> None:
    async def come_and_go(times: int) -> None:
        async with ClientSession() as session:
            for number, path in enumerate(islice(cycle(("/pcm", "/ws", "/")), times)):
                async with session.ws_connect(server.socket(f"{path}?{SEED}")) as socket:
                    if number % 50 == 0:
                        await next_json(socket, "ready")
        while json.loads((await fetched(f"{server.url}/health"))[1])["state"] == "busy":
            await asyncio.sleep(0.01)

    def alive() -> tuple[int, int, int]:
        server.events.clear()
        gc.collect()
        objects = gc.get_objects()
        # Python keeps some threads for reading files, as many as it likes up to a few.
        threads = [each for each in threading.enumerate() if not each.name.startswith("asyncio_")]
        return len(threads), sum(isinstance(each, asyncio.Task) for each in objects), len(objects)

    asyncio.run(come_and_go(200))
    before = alive()
    asyncio.run(come_and_go(800))
    threads, tasks, objects = alive()
    assert threads == before[0] and tasks < before[1] + 10
    assert objects < before[2] + 800  # less than one for each


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (PATH, b"\x03\x02"),
        (PATH, b"\x04{}"),
        (PATH, b"\x77"),
        (PATH, "x"),
        (PATH, None),
        ("/pcm", b""),
        ("/pcm", '{"type": "ping"}'),
        ("/ws", '{"type": "hello"}'),
    ],
)
def test_messages_without_end_are_not_listened_to(
    server: RunningServer, path: str, message: bytes | str | None
) -> None:
    async def flood() -> None:
        async with connected(server.socket(f"{path}?{SEED}")) as socket:
            with suppress(ConnectionError):
                for _ in range(2 * session.MESSAGES):
                    if message is None:
                        await socket.ping()
                    else:
                        await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
            began = time.monotonic()
            assert (await fetched(f"{server.url}/livez"))[0] == 200 and time.monotonic() - began < 2
            async for _ in socket:
                pass
            assert socket.close_code == 1008

    asyncio.run(flood())
    asyncio.run(pcm(server))


@pytest.mark.parametrize("message", [b"", bytes(2), '{"type": "restart"}', '{"type": "hush"}', '{"type": "ping"}'])
def test_what_is_no_sound_does_not_keep_the_place(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, message: bytes | str
) -> None:
    monkeypatch.setattr(session, "IDLE_TIMEOUT", 0.6)
    monkeypatch.setattr(session, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(session, "BEGINNINGS", 1_000)

    async def pretend() -> None:
        async with connected(server.socket(f"/pcm?{SEED}")) as socket:
            await next_json(socket, "ready")
            reading = asyncio.create_task(read(socket))
            with suppress(ConnectionError):
                while not reading.done():
                    await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
                    await asyncio.sleep(0.1)
            await reading
            assert socket.close_code == 4408

    async def read(socket: Any) -> None:
        async for _ in socket:
            pass

    asyncio.run(pretend())


def test_conversations_without_sound_are_counted(random_folder: Path, tmp_path: Path) -> None:
    async def restart(server: RunningServer) -> None:
        async with connected(server.socket(f"/pcm?{SEED}")) as socket:
            await next_json(socket, "ready")
            with suppress(ConnectionError):
                for _ in range(100):
                    await socket.send_json({"type": "restart"})
                    await socket.send_bytes(pcm16(speech(1)))
            async for _ in socket:
                pass
            assert socket.close_code == 1008

    with RunningServer(random_folder, ServeOptions(record=tmp_path / "talks")) as server:
        asyncio.run(restart(server))
    assert len(list((tmp_path / "talks").iterdir())) <= 1  # none if no frame was answered


def test_a_client_learns_what_it_lost_and_why(server: RunningServer) -> None:
    async def hurry() -> None:
        async with connected(server.socket(f"/pcm?{SEED}")) as socket:
            await next_json(socket, "ready")
            await socket.send_bytes(pcm16(speech(125)))
            lost = await next_json(socket, "lost")  # how much of it depends on how fast the model answers meanwhile
            assert 0 < lost["heard"] < 10 and "faster than it is spoken" in lost["message"]

    asyncio.run(hurry())


def test_who_is_hard_to_understand_is_listened_to_less_and_others_are_not(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairness, "BURST", 0.0)  # whatever it says is too hard ...
    monkeypatch.setattr(fairness, "COMMON", 1e-9)  # ... and takes for ever

    async def flood(server: RunningServer) -> None:
        async with connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            await socket.send_json({"type": "ping"})
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await next_json(socket, "pong")
            status, *_ = await fetched(server.url + "/health")
            assert status == 200

    with RunningServer(random_folder) as server:
        asyncio.run(flood(server))


def test_a_long_message_is_understood_a_second_at_a_time() -> None:
    adapter = Pcm()
    list(adapter.open(Upgrade({"sample_rate": "8000"})))
    pieces = [len(out) for out in adapter.decode(bytes(2 * 8_000 * 3 + 1)) if isinstance(out, np.ndarray)]
    assert len(pieces) == 4 and max(pieces) <= SAMPLE_RATE + 100
