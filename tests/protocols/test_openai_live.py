"""OpenAI's GPT-Live alone: what its events come to, and that no event makes an exception."""

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocols_openai import append, events, is_answered, say, sent

from personaplex_cli.audio.g711 import A_LAW, MU_LAW
from personaplex_cli.events import Began, Step, UserWords
from personaplex_cli.protocols.adapter import Begin, Closing, Did, Lost, Queued, Upgrade
from personaplex_cli.protocols.openai_live import UNHEARD, OpenAILive
from personaplex_cli.protocols.wire import Request
from personaplex_cli.samples import FRAME, pcm16

BEGAN = Began("a custom persona", "NATM1", "demo", "cpu", "fp32", 3, 92, 3000)
SOUND = np.random.default_rng(0).standard_normal(FRAME).astype(np.float32) * np.float32(0.1)


def started(**session: Any) -> OpenAILive:
    live = OpenAILive()
    say(live, "session.start", session=session)
    list(live.encode(BEGAN))
    return live


KINDS = ["session.start", "session.update", "session.close", *UNHEARD]
KINDS += [f"session.input_audio.{deed}" for deed in ("append", "mute", "unmute")]


@given(st.lists(events(KINDS) | st.text() | st.binary(), max_size=6))
def test_any_message_is_understood_or_refused(messages: list[str | bytes]) -> None:
    live = OpenAILive()
    for message in messages:
        is_answered(live, message)
    assert sent(live.encode(BEGAN)) and sent(live.encode(Closing("left")))


def test_a_session_starts_with_who_shall_talk_and_is_told_when_it_does() -> None:
    live = OpenAILive()
    assert list(live.open(Upgrade({"seed": "3"}))) == []
    audio = {"format": {"type": "audio/pcm", "rate": 16000}, "output": {"voice": "NATM1"}}
    session = {"model": "gpt-live-1", "instructions": "You cook.", "audio": audio}
    asked = Request("NATM1", prompt="You cook.", seed=3)
    assert say(live, "session.start", event_id="e1", session=session) == [Begin(asked, any_voice=True)]
    (begun,) = sent(live.encode(BEGAN))
    assert begun["type"] == "session.started" and begun["client_event_id"] == "e1"
    assert begun["session"].items() >= {"model": "gpt-live-1", "status": "active", "instructions": "You cook."}.items()
    assert begun["session"]["audio"] == audio
    assert not list(live.encode(BEGAN))  # again, after a broken connection to a model elsewhere
    (error,) = sent(say(live, "session.start", event_id="e2", session=session))
    assert error["error"]["code"] == "session_already_started" and error["error"]["client_event_id"] == "e2"


@pytest.mark.parametrize("voice", ["marin", {"id": "marin"}, 7, "\ud800", "x" * 2000, None])
def test_the_voice_in_force_is_told_whatever_was_asked_for(voice: object) -> None:
    live = OpenAILive()
    (begin,) = say(live, "session.start", session={"audio": {"output": {"voice": voice}}})
    assert isinstance(begin, Begin) and begin.any_voice and begin.request
    (begun,) = sent(live.encode(BEGAN))
    assert begun["session"]["audio"]["output"] == {"voice": "NATM1"}


@pytest.mark.parametrize(
    ("format", "encode", "bytes_"),
    [
        (None, pcm16, 2 * FRAME),
        ({"type": "audio/pcm", "rate": 24000}, pcm16, 2 * FRAME),
        ({"type": "audio/pcm", "rate": 16000}, pcm16, 2 * FRAME * 2 // 3),
        ({"type": "audio/pcmu", "rate": 8000}, lambda it: MU_LAW.encode((it * 32767).astype(np.int16)), FRAME // 3),
        ({"type": "audio/pcma", "rate": 8000}, lambda it: A_LAW.encode((it * 32767).astype(np.int16)), FRAME // 3),
    ],
)
def test_sound_flows_in_the_format_that_was_asked_for(
    format: object, encode: Callable[[Any], bytes], bytes_: int
) -> None:
    live = started(**({"audio": {"format": format}} if format else {}))
    heard = [out for _ in range(10) for out in say(live, "session.input_audio.append", **append(encode(SOUND)))]
    ratio = len(encode(SOUND)) / bytes_
    assert abs(sum(map(len, heard)) - 10 * FRAME * ratio) < FRAME  # type: ignore[arg-type]
    said = [event for _ in range(10) for event in sent(live.encode(SOUND))]
    assert {event["type"] for event in said} == {"session.output_audio.delta"}
    assert abs(sum(len(b64decode(event["delta"])) for event in said) - 10 * bytes_) < bytes_


def test_silence_is_sent_too_and_a_muted_user_is_heard_as_silence() -> None:
    live = started()
    assert len(sent(live.encode(np.zeros(FRAME, dtype=np.float32)))) == 1
    assert (
        sent(say(live, "session.input_audio.mute", event_id="m"))[0].items()
        >= {
            "type": "session.input_audio.muted",
            "client_event_id": "m",
        }.items()
    )
    (heard,) = say(live, "session.input_audio.append", **append(pcm16(SOUND)))
    assert isinstance(heard, np.ndarray) and len(heard) == FRAME and not heard.any()
    assert sent(say(live, "session.input_audio.unmute"))[0]["type"] == "session.input_audio.unmuted"
    (heard,) = say(live, "session.input_audio.append", **append(pcm16(SOUND)))
    assert isinstance(heard, np.ndarray) and heard.any()


def test_words_of_both_sides_carry_their_times() -> None:
    live = started()
    (agent,) = sent(live.encode(Step(3, " word", -20.0, -30.0, None)))
    assert agent.items() >= {"delta": " word", "start_ms": 240, "end_ms": 320}.items()
    (user,) = sent(live.encode(UserWords(" Hi", 5, 8)))
    assert user["type"] == "session.input_transcript.delta" and (user["start_ms"], user["end_ms"]) == (400, 640)
    assert not list(live.encode(Step(4, "", -20.0, -30.0, None)))
    assert not list(live.encode(UserWords(" before", -3, -1)))


def test_what_the_model_cannot_do_is_said() -> None:
    live = started(delegation={"type": "client"}, input=[{"role": "user"}])
    for kind in UNHEARD:
        (error,) = sent(say(live, kind, event_id="e", content="Hello"))
        assert error["error"].items() >= {"code": "unsupported", "client_event_id": "e"}.items()
    (updated,) = sent(say(live, "session.update", session={"delegation": {"type": "client"}}))
    assert updated["type"] == "session.updated" and "delegation" not in updated["session"]
    assert sent(say(live, "session.sing"))[0]["error"]["code"] == "unknown_event"
    (told, begin) = say(OpenAILive(), "session.start", session={"input": [{"role": "user"}]})
    assert isinstance(told, Did) and isinstance(begin, Begin)


@pytest.mark.parametrize("audio", ["?", 5, None, b64encode(bytes(2_000_000)).decode()])
def test_sound_that_is_none_or_too_much_is_refused_and_the_session_goes_on(audio: object) -> None:
    live = started()
    (error,) = sent(say(live, "session.input_audio.append", audio=audio))
    assert error["error"]["param"] == "audio"
    assert len(say(live, "session.input_audio.append", **append(pcm16(SOUND)))) == 1


def test_a_session_ends_as_it_was_asked_to_or_says_why() -> None:
    live = started()
    list(live.encode(Step(24, "", -20.0, -30.0, None)))
    assert say(live, "session.close", event_id="c") == [Closing("left")]
    (closed,) = sent(live.encode(Closing("left")))
    assert closed.items() >= {"reason": "close_requested", "client_event_id": "c", "usage": {"seconds": 2.0}}.items()
    assert sent(started().encode(Closing("time is up")))[0]["reason"] == "expired"
    assert sent(started().encode(Closing("shutdown")))[0]["reason"] == "connection_lost"
    assert sent(live.encode(Queued(2)))[0]["type"] == sent(live.encode(Lost(8.0, 0.0)))[0]["type"] == "info"
