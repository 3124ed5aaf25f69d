"""The loop over an engine that is elsewhere: beginnings, endings and events, as programs see them."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from fakeserver import CONTROL, HANDSHAKE, METADATA, FakeServer, Guest, answers, echo, echo_on
from remote import CHARACTER, Call, Remote, Serve, noise

from personaplex_cli.conversation import Conversation, Disconnected, converse, converse_all
from personaplex_cli.errors import NetworkError, UsageError
from personaplex_cli.events import Began, Ended, Event, Hushed, Phase, Step
from personaplex_cli.samples import SILENT_FRAME, Samples


class Talker:
    """An Audio: silence, but noise in the frames that are `loud`; each beginning has `frames` frames."""

    def __init__(self, frames: int, loud: range = range(0)) -> None:
        self.count, self.loud = frames, loud
        self.begun = 0
        self.said: list[Samples] = []

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples]:
        self.begun += 1
        for index in range(self.count):
            yield noise(1)[0] if index in self.loud else SILENT_FRAME

    def play(self, pcm: Samples) -> None:
        self.said.append(pcm)


def hold(here: Remote, audio: Talker, at: dict[int, Callable[[Conversation], None]]) -> list[Event]:
    """A whole conversation; `at` says what happens after which step."""
    events: list[Event] = []
    for conversation, event in converse_all(here.engine, [Conversation(here.character, audio)]):
        events.append(event)
        if isinstance(event, Step):
            at.pop(sum(isinstance(each, Step) for each in events), lambda conversation: None)(conversation)
    return events


def indices(events: list[Event]) -> list[int]:
    return [event.index for event in events if isinstance(event, Step)]


def test_a_conversation_begins_is_held_and_ends(serve: Serve, talk: Call) -> None:
    audio = Talker(10, range(10))
    events = hold(talk(serve().url), audio, {})
    assert isinstance(events[0], Began) and events[0].settings["voice"] == "NATF2"
    assert indices(events) == list(range(10)) and events[-1] == Ended()
    assert any(pcm.any() for pcm in audio.said)


def test_hushed_it_is_silent_until_the_user_speaks(serve: Serve, talk: Call) -> None:
    server = serve()
    audio = Talker(40, range(25, 40))
    events = hold(talk(server.url), audio, {10: Conversation.hush})
    assert [event.on for event in events if isinstance(event, Hushed)] == [True, False]
    assert server.guests[0].said.count(CONTROL + b"\x02") == 1
    assert not np.concatenate(audio.said[10:27]).any() and np.concatenate(audio.said[28:]).any()


def test_hushed_again_the_server_learns_of_it_again(serve: Serve, talk: Call) -> None:
    """Its own silence would otherwise end before ours."""
    server = serve()
    hold(talk(server.url), Talker(20, range(0)), {5: Conversation.hush, 9: Conversation.hush, 13: Conversation.hush})
    assert server.guests[0].said.count(CONTROL + b"\x02") == 3


def test_a_broken_connection_begins_the_conversation_anew(serve: Serve, talk: Call) -> None:
    async def leaves_once(guest: Guest) -> None:
        if len(server.guests) > 1:
            return await echo(guest)
        await guest.say(HANDSHAKE)
        for _ in range(5):
            await guest.hear()
        guest.cut()

    server: FakeServer = serve(leaves_once)
    here = talk(server.url)
    audio = Talker(30)
    events = hold(here, audio, {})
    first = indices(events).index(29) - 29  # how many steps there were before
    assert 0 < first < 30 and indices(events) == [*range(first), *range(30)]
    assert sum(isinstance(event, Began) for event in events) == audio.begun == 2 and events[-1] == Ended()
    called = [Phase.CONNECTING, Phase.WARMING_UP]
    assert here.states == [*called, Phase.DISCONNECTED, *called]


def test_a_paced_one_ends_where_the_connection_does(serve: Serve, talk: Call) -> None:
    async def leaves(guest: Guest) -> None:
        await guest.say(HANDSHAKE)
        for _ in range(3):
            await guest.hear()
        guest.cut()

    here = talk(serve(leaves).url, paced=True)
    events = hold(here, Talker(100), {})
    assert isinstance(events[-1], Ended) and isinstance(events[-1].error, Disconnected)
    with pytest.raises(NetworkError, match="broke off"):  # the next one is called at once, and ends like that one
        list(converse(here.engine, Talker(100), here.character))
    assert Phase.DISCONNECTED not in here.states


def test_a_first_call_that_fails_is_the_end(serve: Serve, talk: Call) -> None:
    events = hold(talk(serve(refuse=answers(503)).url), Talker(10), {})
    assert len(events) == 1 and isinstance(events[0], Ended) and "is busy" in str(events[0].error)


def test_what_no_server_can_be_asked_for_is_the_end_of_that_conversation_alone(serve: Serve, talk: Call) -> None:
    here = talk(serve().url)
    cloned = Conversation(replace(CHARACTER, sound=noise(20).reshape(-1)), Talker(3))
    usual = Conversation(CHARACTER, Talker(3))
    events = list(converse_all(here.engine, [cloned, usual]))
    (refused,) = (event for conversation, event in events if conversation is cloned)
    assert isinstance(refused, Ended) and isinstance(refused.error, UsageError)
    assert indices([event for conversation, event in events if conversation is usual]) == [0, 1, 2]


def test_restarted_as_another_character_the_server_is_asked_for_that_one(serve: Serve, talk: Call) -> None:
    async def ours(guest: Guest) -> None:
        await guest.say(HANDSHAKE)
        await guest.say(METADATA + b'{"personaplex": "1"}')
        while (message := await guest.hear()) is not None:
            if message == CONTROL + b"\x03":
                await guest.say(HANDSHAKE)

    server = serve(ours)
    other = replace(CHARACTER, voice="NATM1", sound="NATM1.pt")
    events = hold(talk(server.url), Talker(6), {3: Conversation.restart, 6: lambda it: it.restart(other)})
    assert indices(events) == [*range(3), *range(3), *range(6)]
    assert [guest.request.query["voice_prompt"] for guest in server.guests] == ["NATF2.pt", "NATM1.pt"]
    assert [event.voice for event in events if isinstance(event, Began)] == ["NATF2", "NATF2", "NATM1"]


def test_our_server_is_asked_for_another_character_on_the_same_call(serve: Serve, talk: Call) -> None:
    async def ours(guest: Guest) -> None:
        await guest.say(HANDSHAKE)
        await guest.say(METADATA + b'{"personaplex": "1", "begin": true}')
        while (message := await guest.hear()) is not None:
            if message == CONTROL + b"\x03" or b'"begin"' in message:
                await guest.say(HANDSHAKE)

    server = serve(ours)
    other = replace(CHARACTER, voice="NATM1", sound="NATM1.pt", prompt="Be kind.")
    events = hold(talk(server.url), Talker(6), {3: lambda it: it.restart(other), 6: Conversation.restart})
    assert indices(events) == [*range(3), *range(3), *range(6)]
    assert [event.voice for event in events if isinstance(event, Began)] == ["NATF2", "NATM1", "NATM1"]
    (guest,) = server.guests
    wishes = [each for each in guest.said if each[:1] == CONTROL or b'"begin"' in each]
    assert json.loads(wishes[0][1:])["begin"].items() >= {"voice_prompt": "NATM1.pt", "text_prompt": "Be kind."}.items()
    assert wishes[1:] == [CONTROL + b"\x03"]


def test_closed_from_another_thread_it_ends_the_conversation_and_the_loop(serve: Serve, talk: Call) -> None:
    async def goes_on(guest: Guest) -> None:
        await guest.say(HANDSHAKE)
        await echo_on(guest)

    here = talk(serve(goes_on).url)
    closing = threading.Thread(target=here.engine.close)
    events = hold(here, Talker(10**6), {5: lambda conversation: closing.start()})
    closing.join()
    assert isinstance(events[-1], Ended) and isinstance(events[-1].error, Disconnected)


def test_a_silent_sound_card_does_not_keep_a_closed_engine_waiting(serve: Serve, talk: Call) -> None:
    class Dead(Talker):
        def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:  # type: ignore[override]
            here.engine.close()
            while True:
                yield None

    here = talk(serve().url)
    events = hold(here, Dead(0), {})
    assert [type(event) for event in events] == [Began, Ended]
