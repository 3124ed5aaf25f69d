"""A model that holds two conversations at once, and what surrounds it; the engine is a fake of a few lines."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from counting import FakeApp, at_any_speed, number
from runningserver import RunningServer, connected, fetched, frames, next_json, pcm, refused, speech, talk_pcm

from personaplex_cli.character import Character
from personaplex_cli.conversation import Conversation
from personaplex_cli.events import Ended, Event, ignore
from personaplex_cli.options import ServeOptions
from personaplex_cli.protocols.adapter import Begin
from personaplex_cli.protocols.pcm import Pcm
from personaplex_cli.samples import FRAME
from personaplex_cli.server import session
from personaplex_cli.server.admission import Admission, ConversationQueue, Place
from personaplex_cli.server.client_audio import ClientAudio
from personaplex_cli.server.connections import Connection, Connections
from personaplex_cli.server.metrics import Metrics


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    at_any_speed(monkeypatch)
    with RunningServer("demo", ServeOptions(queue=1), kind=FakeApp) as running:
        yield running


def test_two_talk_at_once_and_a_third_waits(server: RunningServer) -> None:
    async def talk() -> None:
        async with connected(server.socket("/pcm?seed=1")) as first:
            await next_json(first, "ready")
            assert (await state())["state"] == "ready"
            async with connected(server.socket("/pcm?seed=1")) as second:
                await next_json(second, "ready")
                assert (await state())["sessions"].items() >= {"active": 2, "waiting": 0}.items()
                answers = await asyncio.gather(*(talk_pcm(each, frames(speech(10))) for each in (first, second)))
                assert [number(sound) for sound, _ in answers] == [{1}, {2}]
                async with connected(server.socket("/pcm?seed=1")) as third:
                    assert (await next_json(third, "state"))["position"] == 1
                    assert (await state())["state"] == "busy"
                    assert (await refused(server.socket("/pcm")))[0] == 503
                    await second.close()
                    await next_json(third, "ready")
                    assert number((await talk_pcm(third, frames(speech(3))))[0]) == {3}
            assert number((await talk_pcm(first, frames(speech(3))))[0]) == {1}

    async def state() -> dict[str, Any]:
        return dict(json.loads((await fetched(f"{server.url}/health"))[1]))

    asyncio.run(talk())


def test_after_a_restart_nothing_old_is_heard_or_sent(server: RunningServer) -> None:
    async def talk() -> None:
        async with connected(server.socket("/pcm?seed=1")) as socket:
            await next_json(socket, "ready")
            for conversation in range(2, 7):
                for message in frames(speech(12)):
                    await socket.send_bytes(message)
                await socket.send_json({"type": "restart"})
                while (await next_json(socket, "state"))["state"] != "priming":
                    pass
                kinds = [(await socket.receive()).type.name for _ in range(2)]  # ready, live
                assert kinds == ["TEXT", "TEXT"]
                assert number((await talk_pcm(socket, frames(speech(3))))[0]) == {conversation}
                await socket.send_json({"type": "ping"})
                while (message := await socket.receive()).data != '{"type": "pong"}':
                    assert message.type.name == "TEXT"  # at most the pace

    asyncio.run(talk())
    assert number(asyncio.run(pcm(server))) == {7}


def test_a_restart_may_take_back_all_that_waits_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "TICK_SECONDS", 60.0)

    async def restart() -> None:
        place, character = Admission(queue=0).enter(), Character("a", "", "b", "c.pt")
        assert isinstance(place, Place)
        nobody = Connections(lambda: None, None)  # type: ignore[arg-type,return-value]
        host = session.Host(ServeOptions(), Metrics(), ignore, lambda conversation: None)
        visit = session.Session(web.WebSocketResponse(), {}, Pcm(), place, host, Connection(nobody))
        visit._character, visit._conversation = character, Conversation(character, visit._audio)
        sending = asyncio.create_task(visit._next_outs())
        await asyncio.sleep(0)
        visit._take(speech(1), character)
        await visit._handle(Begin(None))
        assert list(await sending) == []

    asyncio.run(restart())


def test_conversations_that_the_model_did_not_get_to_are_ended() -> None:
    ended = list[Event]()

    def conversation() -> Conversation:
        return Conversation(Character("a", "", "b", "c.pt"), ClientAudio(lambda pcm: None), ended.append)

    queue = ConversationQueue()
    queue.put(conversation())
    coming = iter(queue)
    assert next(coming) and next(coming) is None
    queue.put(conversation())
    queue.close()
    assert list(coming) == [] and not ended
    queue.abandon()
    queue.put(conversation())
    assert [isinstance(each, Ended) and bool(each.error) for each in ended] == [True, True]


def test_silence_is_filled_where_the_protocol_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("personaplex_cli.server.client_audio.time.monotonic", lambda: clock)
    audio = ClientAudio(lambda pcm: None, fills_silence=True)
    heard = audio.frames(lambda: None)
    assert next(heard) is None
    audio.hear(speech(1)[:100])
    clock = 0.2
    frame = next(heard)
    assert frame is not None and len(frame) == FRAME and frame[:100].any() and not frame[100:].any()
    assert next(heard) is None
    clock = 0.25
    assert next(heard) is not None and next(heard) is None
    woken = list[int]()
    patient = ClientAudio(lambda pcm: None)
    heard = patient.frames(lambda: woken.append(1))
    clock = 9.0
    assert next(heard) is None
    patient.hear(speech(1)[:1900])
    assert not woken
    patient.hear(speech(1)[1900:])
    frame = next(heard)
    assert woken and frame is not None and np.array_equal(frame, speech(1))
