"""The protocols alone: any message is an event or an error with words, never anything else."""

import json
from base64 import b64encode
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.events import Began, Hushed, Note, Phase, Renewed, State, Step, Timings, UserWords
from personaplex_cli.protocols.adapter import (
    Adapter,
    Begin,
    Closing,
    Did,
    Lost,
    Out,
    Pace,
    Queued,
    ServerEvent,
    StopSpeaking,
    Upgrade,
)
from personaplex_cli.protocols.interview import Interview
from personaplex_cli.protocols.json_adapter import Unsupported
from personaplex_cli.protocols.moshi import QUIET_SECONDS, Moshi
from personaplex_cli.protocols.pcm import DEEDS, Pcm
from personaplex_cli.protocols.wire import MAX_NAME, Handshake, Metadata, Ping, Request, WireError, pack, unpack
from personaplex_cli.samples import FRAME
from personaplex_cli.transcript import TURNING

ADAPTERS: list[Callable[[], Adapter]] = [Moshi, Pcm, Interview]
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
NAMES = st.sampled_from(
    [
        "persona",
        "voice",
        "prompt",
        "seed",
        "sample_rate",
        "text_topk",
        "audio_temperature",
        "data",
        "role",
        "topic",
        "text",
    ]
)
TYPES = st.sampled_from(
    [
        "config",
        "hush",
        "restart",
        "did",
        "ping",
        "image",
        "tool_result",
        "hello",
        "context",
        "audio",
        "reset",
        "end_utterance",
    ]
)
OBJECTS = st.builds(
    lambda kind, values: json.dumps({**values, "type": kind}),
    TYPES | VALUES,
    st.dictionaries(NAMES, VALUES | st.dictionaries(NAMES, VALUES, max_size=2), max_size=4),
)
ANYTHING = (
    st.binary()
    | st.text()
    | OBJECTS
    | st.builds(lambda kind, rest: bytes([kind]) + rest, st.integers(0, 7), st.binary())
)
EVENTS: list[ServerEvent] = [
    np.zeros(FRAME, dtype=np.float32),
    Step(3, " word", -20.0, -30.0, Timings(1, 2, 3)),
    Step(4, "", -20.0, -30.0, Timings(1, 2, 3)),
    Began("teacher", "NATF2", "demo", "cpu", "fp32", 3, 92, 3000),
    State(Phase.PRIMING),
    Note("between us"),
    Hushed(True),
    Queued(2),
    Pace(30.5, 41.0, 12),
    Lost(8.0, 0.4),
    Closing("shutdown"),
    UsageError("There is no voice named 'x'.", "Take another."),
    Unsupported("No."),
]


def opened(adapter: Adapter, **query: str) -> list[Out]:
    return list(adapter.open(Upgrade(query)))


def sent(outs: list[Out]) -> list[str | bytes]:
    assert all(isinstance(out, str | bytes) for out in outs)
    return [out for out in outs if isinstance(out, str | bytes)]


@pytest.mark.parametrize("kind", ADAPTERS)
@given(st.lists(ANYTHING, max_size=5))
def test_any_message_is_understood_or_refused(kind: Callable[[], Adapter], messages: list[bytes | str]) -> None:
    adapter = kind()
    for message in messages:
        try:
            outs = list(adapter.decode(message))
        except (WireError, UsageError, AudioError) as error:
            assert str(error)
        else:
            assert all(isinstance(out, np.ndarray | Begin | StopSpeaking | Did | str | bytes) for out in outs)
            assert all(out.dtype == np.float32 for out in outs if isinstance(out, np.ndarray))


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_can_be_encoded(kind: Callable[[], Adapter], event: ServerEvent) -> None:
    for message in sent(list(kind().encode(event))):
        if isinstance(message, str):
            assert json.loads(message)["type"]
        elif kind is Moshi:
            assert unpack(message) is not None
        else:
            assert kind is Pcm and len(message) == 2 * FRAME
    assert not list(kind().encode(Note("what the server says to its owner")))


def test_the_pace_is_sent_to_clients_that_know_metadata() -> None:
    """Moshi's own client complains about every message that it does not know."""
    adapter = Moshi()
    assert not list(adapter.encode(Pace(30.5, 41.0, 12)))
    assert not list(adapter.decode(pack(Metadata({}))))
    (message,) = sent(list(adapter.encode(Pace(30.5, 41.0, 12))))
    assert isinstance(message, bytes)
    assert unpack(message) == Metadata({"step_ms": 30.5, "max_step_ms": 41.0, "frame": 12})


def test_a_renewed_memory_is_told() -> None:
    renewed = Renewed(1500, 1130, 1250)
    moshi, pcm = Moshi(), Pcm()
    assert not list(moshi.encode(renewed)) and not list(moshi.decode(pack(Metadata({}))))
    (message,) = sent(list(moshi.encode(renewed)))
    assert isinstance(message, bytes)
    assert unpack(message) == Metadata({"renewed": {"remembered": 1130, "filled": 1250}})
    (told,) = sent(list(pcm.encode(renewed)))
    assert json.loads(told) == {"type": "renewed", "time": 120.0, "remembered": 1130, "filled": 1250}


def test_metadata_waits_until_the_client_shows_that_it_knows_some() -> None:
    begun = Began("teacher", "NATF2", "demo", "cpu", "fp32", 3, 92, 3000)
    adapter = Moshi()
    opened(adapter)
    kinds = [unpack(out) for event in (Queued(2), Queued(1), begun) for out in sent(list(adapter.encode(event)))]
    assert kinds == [Handshake()]
    for event in (Pace(30.5, 41.0, 12), Hushed(True)):
        assert not list(adapter.encode(event))
    (facts,) = sent(list(adapter.decode(pack(Metadata({})))))
    description = unpack(facts)
    assert isinstance(description, Metadata) and description.values.items() >= {"seed": 3, "prompt_frames": 92}.items()
    assert "queue" not in description.values and not list(adapter.decode(pack(Metadata({}))))
    assert len(list(adapter.encode(Hushed(True)))) == 1
    asks = Moshi()
    opened(asks, metadata="1")
    assert [unpack(out) for out in sent(list(asks.encode(Queued(2))))] == [Metadata({"queue": 2})]


ASKED = st.none() | st.text(st.characters(codec="ascii"), min_size=1, max_size=MAX_NAME - len(".pt"))


@given(st.builds(Request, voice=ASKED, persona=ASKED, prompt=ASKED, seed=st.none() | st.integers(0, 2**63)))
def test_moshis_client_may_ask_for_another_conversation_as_in_a_query(request: Request) -> None:
    asked = {**request.to_query(), "strange": ["no", "text"]}
    begun = list(Moshi().decode(pack(Metadata({"begin": asked}))))
    assert begun == [Begin(Request.from_query(request.to_query()))]
    for none in (None, True, [], "persona"):
        assert not list(Moshi().decode(pack(Metadata({"begin": none}))))


def test_a_loss_is_told_in_every_protocol() -> None:
    for kind in ADAPTERS:
        (message,) = sent(list(kind().encode(Lost(8.0, 0.0))))
        assert "8.0 s of your sound" in (message if isinstance(message, str) else message.decode())


@given(st.binary(max_size=400), st.lists(st.integers(0, 400)))
def test_messages_of_sound_may_be_cut_anywhere(pcm: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(pcm), *(cut for cut in cuts if cut < len(pcm))})
    pieces = [pcm[start:end] for start, end in pairwise(edges)]
    whole = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32) / 32768
    adapter, interview, unresampled = Pcm(), Interview(), Interview()
    heard = [out for piece in pieces for out in adapter.decode(piece) if isinstance(out, np.ndarray)]
    assert np.array_equal(np.concatenate([np.empty(0, dtype=np.float32), *heard]), whole)
    messages = [json.dumps({"type": "audio", "data": b64encode(piece).decode()}) for piece in pieces]
    heard = [out for each in messages for out in interview.decode(each) if isinstance(out, np.ndarray)]
    at_once = json.dumps({"type": "audio", "data": b64encode(pcm).decode()})
    (expected,) = [out for out in unresampled.decode(at_once) if isinstance(out, np.ndarray)]
    assert sum(map(len, heard)) == len(expected)


def test_moshis_clients_get_a_ping_when_nothing_has_happened_for_a_second() -> None:
    adapter = Moshi()

    def pings(now: float) -> list[str | bytes]:
        return sent(list(adapter.tick(now)))

    assert not pings(100.0) and not pings(100.9)
    assert pings(100.0 + QUIET_SECONDS) == [pack(Ping())]
    assert not pings(101.5)
    assert pings(102.0) == [pack(Ping())]
    list(adapter.encode(Note("something has happened")))
    assert not pings(103.5) and pings(104.5)
    assert not list(Pcm().tick(1e6)) and not list(Interview().tick(1e6))


@given(st.lists(st.integers(-32768, 32767)))
def test_samples_arrive_as_they_were_sent(samples: list[int]) -> None:
    pieces = [out for out in Pcm().decode(np.array(samples, dtype="<i2").tobytes()) if isinstance(out, np.ndarray)]
    heard = np.concatenate([np.zeros(0, dtype=np.float32), *pieces])
    assert np.array_equal(heard * 32768, np.array(samples, dtype=np.float32))


@pytest.mark.parametrize(
    ("config", "request_"),
    [
        ({}, Request()),
        ({"persona": "chef", "voice": "NATF2.pt", "seed": 3}, Request("NATF2", "chef", seed=3)),
        (
            {"prompt": "You sing.", "text_topk": 5, "text_temperature": 0.5},
            Request(prompt="You sing.", text_top_k=5, text_temperature=0.5),
        ),
        ({"persona": {"prompt": "You sing.", "voice": "NATM0"}}, Request("NATM0", prompt="You sing.")),
        ({"persona": {"name": "chef", "prompt": ""}, "voice": None}, Request(persona="chef")),
    ],
)
def test_a_config_asks_by_the_same_names_as_a_url(config: dict[str, Any], request_: Request) -> None:
    assert list(Pcm().decode(json.dumps({"type": "config", **config}))) == [Begin(request_)]


def did(text: object) -> str:
    return json.dumps({"type": "did", "text": text})


@given(st.text() | st.text("ab \n\x1b\x9b\u2028\u202e\u2066") | VALUES)
def test_what_a_client_did_is_one_short_line_or_refused(text: object) -> None:
    try:
        (out,) = Pcm().decode(did(text))
    except WireError:
        assert not isinstance(text, str) or not text.strip() or len(text.strip()) > MAX_NAME
    else:
        assert isinstance(out, Did) and isinstance(text, str)
        assert 0 < len(out.text) <= MAX_NAME and not {*"\n\r\x1b\x9b\u2028", *TURNING} & {*out.text}


def test_a_client_cannot_tell_of_deeds_without_end() -> None:
    adapter = Pcm()
    assert [list(adapter.decode(did("Looked left.\n"))) for _ in range(DEEDS)] == [[Did("Looked left.")]] * DEEDS
    with pytest.raises(WireError, match="cannot be noted"):
        list(adapter.decode(did("Looked left.")))


def test_an_interview_becomes_a_prompt_in_a_trained_form() -> None:
    adapter = Interview()
    assert opened(adapter, voice="NATM0") == [Begin(Request("NATM0"))]
    context = {"type": "context", "role": "welder", "level": "senior", "topic": "safety\nat work" + "!" * 1000}
    (begin,) = adapter.decode(json.dumps(context))
    assert isinstance(begin, Begin) and begin.request is not None and begin.request.voice == "NATM0"
    prompt = begin.request.prompt or ""
    assert prompt.startswith("You enjoy having a good conversation.") and "senior welder" in prompt
    assert " Talk about safety at work" in prompt and len(prompt) < 600
    (begin,) = Interview().decode('{"type": "context"}')
    assert isinstance(begin, Begin) and begin.request is not None and "None" not in (begin.request.prompt or "")


def test_only_a_url_that_asks_for_nothing_leaves_room_for_a_first_message() -> None:
    for kind in (Pcm, Interview):
        assert opened(kind(), worker="x") == []
        assert opened(kind(), persona="chef") == [Begin(Request(persona="chef"))]
    assert opened(Moshi()) == [Begin(Request())]


def test_words_of_the_users_say_whose_they_are_but_none_of_a_talk_that_is_over() -> None:
    said, over = UserWords(" Hello", 5, 8), UserWords(" before", -3, -1)
    pcm, interview = ([json.loads(out) for out in each.encode(said)] for each in (Pcm(), Interview()))
    assert pcm == [{"type": "transcript", "role": "user", "text": " Hello", "time": 0.4}]
    assert interview == [{"type": "text_in", "text": " Hello"}]
    assert not [out for each in ADAPTERS for out in each().encode(over)]
