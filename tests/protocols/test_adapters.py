"""The dialects alone: whatever arrives is a wish or an error with words, never anything else."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.events import Began, Hushed, Note, State, Step, Timings
from personaplex_cli.protocols.adapter import (
    Adapter,
    Begin,
    Echo,
    Ended,
    Hush,
    Interview,
    Moshi,
    News,
    Pace,
    Pcm,
    Queued,
    Quiet,
    Unsupported,
)
from personaplex_cli.protocols.wire import Metadata, Request, WireError, pack, unpack
from personaplex_cli.samples import FRAME

DIALECTS: list[Callable[[], Adapter]] = [Moshi, Pcm, Interview]
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
NAMES = st.sampled_from(
    ["persona", "voice", "prompt", "seed", "sample_rate", "text_topk", "audio_temperature", "data", "role", "topic"]
)
TYPES = st.sampled_from(
    ["config", "hush", "restart", "ping", "image", "tool_result", "hello", "context", "audio", "reset", "end_utterance"]
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
NEWS: list[News] = [
    np.zeros(FRAME, dtype=np.float32),
    Step(3, " word", -20.0, -30.0, Timings(1, 2, 3)),
    Step(4, "", -20.0, -30.0, Timings(1, 2, 3)),
    Began("teacher", "NATF2", "demo", "cpu", "fp32", 3, 92, 3000),
    State("priming"),
    Note("between us"),
    Hushed(True),
    Queued(2),
    Pace(30.5, 41.0, 12),
    Quiet(),
    Ended("shutdown"),
    UsageError("There is no voice named 'x'.", "Take another."),
    Unsupported("No."),
]


@pytest.mark.parametrize("dialect", DIALECTS)
@given(st.lists(ANYTHING, max_size=5))
def test_anything_is_understood_or_told(dialect: Callable[[], Adapter], messages: list[bytes | str]) -> None:
    speaking = dialect()
    for message in messages:
        try:
            wishes = list(speaking.hear(message))
        except (WireError, UsageError, AudioError) as told:
            assert str(told)
        else:
            assert all(isinstance(wish, np.ndarray | Begin | Hush | Echo) for wish in wishes)
            assert all(wish.dtype == np.float32 for wish in wishes if isinstance(wish, np.ndarray))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("news", NEWS, ids=lambda news: type(news).__name__)
def test_every_news_can_be_told(dialect: Callable[[], Adapter], news: News) -> None:
    for message in dialect().say(news):
        if isinstance(message, str):
            assert json.loads(message)["type"]
        elif dialect is Moshi:
            assert unpack(message) is not None
        else:
            assert dialect is Pcm and len(message) == 2 * FRAME
    assert not list(dialect().say(Note("what the server says to its owner")))


def test_the_pace_is_told_to_clients_that_know_metadata() -> None:
    """Moshi's own client complains of every message that it does not know."""
    speaking = Moshi()
    assert not list(speaking.say(Pace(30.5, 41.0, 12)))
    assert not list(speaking.hear(pack(Metadata({}))))
    (told,) = speaking.say(Pace(30.5, 41.0, 12))
    assert isinstance(told, bytes) and unpack(told) == Metadata({"step_ms": 30.5, "max_step_ms": 41.0, "frame": 12})


@given(st.lists(st.integers(-32768, 32767)))
def test_samples_arrive_as_they_were_sent(samples: list[int]) -> None:
    (heard,) = Pcm().hear(np.array(samples, dtype="<i2").tobytes())
    assert isinstance(heard, np.ndarray)
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
    assert list(Pcm().hear(json.dumps({"type": "config", **config}))) == [Begin(request_)]


def test_an_interview_becomes_a_prompt_in_a_trained_form() -> None:
    dialect = Interview()
    assert dialect.open({"voice": "NATM0"}) == Request("NATM0")
    context = {"type": "context", "role": "welder", "level": "senior", "topic": "safety\nat work" + "!" * 1000}
    (wish,) = dialect.hear(json.dumps(context))
    assert isinstance(wish, Begin) and wish.request is not None and wish.request.voice == "NATM0"
    prompt = wish.request.prompt or ""
    assert prompt.startswith("You enjoy having a good conversation.") and "senior welder" in prompt
    assert "safety at work" in prompt and len(prompt) < 600
    (wish,) = Interview().hear('{"type": "context"}')
    assert isinstance(wish, Begin) and wish.request is not None and "None" not in (wish.request.prompt or "")


def test_only_a_url_that_asks_for_nothing_leaves_room_for_a_first_message() -> None:
    for dialect in (Pcm, Interview):
        assert dialect().open({"worker": "x"}) is None
        assert dialect().open({"persona": "chef"}) == Request(persona="chef")
    assert Moshi().open({}) == Request()
