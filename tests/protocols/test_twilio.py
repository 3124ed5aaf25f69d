"""Twilio's protocol alone: calls as its documentation describes them, and whatever else may come."""

import json
from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.audio.g711 import MU_LAW, PhoneWriter
from personaplex_cli.errors import UsageError
from personaplex_cli.events import Began, Hushed, Note, Phase, State, Step
from personaplex_cli.protocols.adapter import (
    Begin,
    Closing,
    Credentials,
    Lost,
    Out,
    Pace,
    Queued,
    ServerEvent,
    StopSpeaking,
    Upgrade,
)
from personaplex_cli.protocols.twilio import CHUNK, MAX_LATE, MOST, Twilio
from personaplex_cli.protocols.wire import MAX_PROMPT, Request, WireError
from personaplex_cli.samples import FRAME, FRAME_SECONDS, Samples

SID = "MZ" + "0" * 32
SILENCE: Samples = np.zeros(FRAME, dtype=np.float32)
SPEECH = (np.random.default_rng(0).normal(size=FRAME) * 0.1).astype(np.float32)
EVENTS = ("connected", "start", "media", "dtmf", "mark", "stop")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def message(event: str, **more: Any) -> str:
    return json.dumps({"event": event, "sequenceNumber": "1", "streamSid": SID, **more})


def start(parameters: Any = None, **more: Any) -> str:
    sound = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    facts = {"streamSid": SID, "accountSid": "AC1", "callSid": "CA1", "tracks": ["inbound"], "mediaFormat": sound}
    return message("start", start={**facts, "customParameters": parameters or {}, **more})


def media(codes: bytes, track: str = "inbound") -> str:
    sound = {"track": track, "chunk": "1", "timestamp": "20", "payload": b64encode(codes).decode()}
    return message("media", media=sound)


def mark(name: object) -> str:
    return message("mark", mark={"name": name})


def called() -> Twilio:
    """A call that has started."""
    call = Twilio()
    list(call.decode(start()))
    return call


def sent(call: Twilio, event: ServerEvent) -> list[dict[str, Any]]:
    return [json.loads(each) for each in call.encode(event) if isinstance(each, str)]


def test_a_call_as_it_is_documented() -> None:
    call = Twilio()
    assert call.shows_token_later and list(call.open(Upgrade({"token": "x", "persona": "chef"}))) == []
    assert list(call.decode(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))) == []
    asked = {"token": "secret", "persona": "chef", "voice": "NATM1", "prompt": "You cook.", "seed": "3", "from": "+1"}
    begin = Begin(Request("NATM1", "chef", "You cook.", seed=3))
    assert list(call.decode(start(asked))) == [Credentials("secret"), begin]
    codes = PhoneWriter(MU_LAW).write(np.tile(SPEECH, 5))
    heard = list[Out]()
    for at in range(0, len(codes), CHUNK):
        heard += call.decode(media(codes[at : at + CHUNK]))
    assert abs(sum(map(len, heard)) - 5 * FRAME) < FRAME / 4  # some stay in the resamplers
    assert list(call.decode(media(codes, track="outbound"))) == []
    assert list(call.decode(message("dtmf", dtmf={"track": "inbound_track", "digit": "1"}))) == [StopSpeaking()]
    assert list(call.decode(mark("greeting"))) == []
    assert list(call.decode(message("stop", stop={"accountSid": "AC1", "callSid": "CA1"}))) == [Closing("left")]


def test_a_call_that_asks_for_nobody_gets_whom_the_server_likes() -> None:
    assert list(Twilio().decode(start())) == [Credentials(None), Begin(Request())]
    without = message("start", start={})  # as some who speak Twilio's protocol send it
    assert list(Twilio().decode(without)) == [Credentials(None), Begin(Request())]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (b"\0", WireError),
        ("[]", WireError),
        (media(bytes(160)), WireError),  # before the call has started
        (json.dumps({"event": "start", "start": {}}), WireError),
        (start(streamSid=7), WireError),
        (start(streamSid="x" * 81), WireError),
        (start(customParameters=["persona"]), WireError),
        (start({"persona": "x" * 81}), UsageError),
        (start({"prompt": "x" * (MAX_PROMPT + 1)}), UsageError),
        (start(mediaFormat={"encoding": "audio/x-l16"}), UsageError),
    ],
)
def test_what_is_no_call_is_refused(wrong: str | bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        list(Twilio().decode(wrong))


@pytest.mark.parametrize("payload", [None, 7, "!", "AAA", "\ud800", ["AAAA"], {"a": 1}])
def test_what_is_no_sound_is_refused(payload: Any) -> None:
    with pytest.raises(WireError, match="base64"):
        list(called().decode(message("media", media={"payload": payload})))


def test_a_message_brings_no_more_sound_than_is_kept() -> None:
    assert sum(isinstance(out, np.ndarray) for out in called().decode(media(bytes(MOST)))) == 1
    with pytest.raises(WireError, match="at once"):
        list(called().decode(media(bytes(MOST + 1))))


def test_a_call_starts_once() -> None:
    with pytest.raises(WireError, match="twice"):
        list(called().decode(start()))


@given(
    st.lists(
        st.text()
        | st.binary()
        | st.builds(
            lambda event, field, value: message(event, **{event: value} if field else {}),
            st.sampled_from(EVENTS),
            st.booleans(),
            JSON,
        )
        | st.builds(
            lambda name, value: start(**{name: value}),
            st.sampled_from(["streamSid", "mediaFormat", "customParameters"]),
            JSON,
        )
        | st.builds(
            lambda name, value: start({name: value}),
            st.sampled_from(["token", "voice", "persona", "prompt", "seed"]),
            JSON,
        )
        | st.builds(
            lambda name, value: message("media", media={"payload": "////", name: value}),
            st.sampled_from(["payload", "track"]),
            JSON,
        )
        | st.builds(mark, JSON)
        | st.builds(json.dumps, JSON),
        max_size=6,
    )
)
def test_any_message_is_understood_or_refused(messages: list[str | bytes]) -> None:
    call = Twilio()
    for each in messages:
        try:
            outs = list(call.decode(each))
        except (WireError, UsageError) as error:
            assert str(error)
        else:
            assert all(isinstance(out, np.ndarray | Begin | StopSpeaking | Closing | Credentials) for out in outs)
    sent(call, SPEECH)  # whatever came, sound goes out


@pytest.mark.parametrize("name", [None, True, 7, float("inf"), "", "-1", "\u00b2", "1" * 5000, "1" * 80, ["1"], {}])
def test_a_mark_that_is_not_ours_is_ignored(name: Any) -> None:
    call = called()
    assert list(call.decode(mark(name))) == []
    assert any(sent(call, SILENCE) for _ in range(20))


def test_sound_goes_out_all_the_time_in_whole_pieces_each_with_a_mark() -> None:
    call, codes = called(), b""
    for sound in [SPEECH, SILENCE] * 10:
        for out in sent(call, sound):
            assert out["streamSid"] == SID
            if out["event"] == "media":
                piece = b64decode(out["media"]["payload"])
                assert piece and len(piece) % CHUNK == 0
                codes += piece
            else:
                assert out == {"event": "mark", "streamSid": SID, "mark": {"name": str(len(codes))}}
    assert codes == PhoneWriter(MU_LAW).write(np.tile(np.concatenate([SPEECH, SILENCE]), 10))[: len(codes)]
    assert 8000 * 20 * FRAME_SECONDS - len(codes) < 2 * CHUNK


def test_silence_is_left_out_while_too_much_is_not_played_yet() -> None:
    call = called()

    def codes(sound: Samples) -> int:
        return sum(len(b64decode(each["media"]["payload"])) for each in sent(call, sound) if each["event"] == "media")

    played = codes(SILENCE)
    on_its_way = sum(codes(SILENCE) for _ in range(30))  # nobody has told yet that something is late
    assert on_its_way > 3 * MAX_LATE
    list(call.decode(mark(str(played))))
    sent_now = [codes(SILENCE) for _ in range(10)]
    assert 0 < sum(sent_now) <= MAX_LATE + 5 * CHUNK and sent_now[-1] == 0
    assert codes(SPEECH) > 0 and codes(SILENCE) == 0
    list(call.decode(mark(str(played + on_its_way))))
    assert codes(SILENCE) > 0


def test_hushed_it_throws_away_what_is_not_played_yet() -> None:
    call = called()
    assert sent(call, Hushed(True)) == [{"event": "clear", "streamSid": SID}]
    assert sent(call, Hushed(False)) == []


@pytest.mark.parametrize(
    "event",
    [
        Began("teacher", "NATF2", "demo", "cpu", "fp32", 3, 92, 3000),
        Step(3, " word", -20.0, -30.0, None),
        State(Phase.PRIMING),
        Note("between us"),
        Queued(2),
        Pace(30.5, 41.0, 12),
        Lost(8.0, 0.4),
        Closing("shutdown"),
        UsageError("There is no voice named 'x'.", "Take another."),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_telephone_is_told_nothing_else(event: ServerEvent) -> None:
    assert sent(called(), event) == []
