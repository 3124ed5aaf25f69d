"""What tests of OpenAI's protocols share: events with anything in their fields, and what an adapter answers."""

import json
from base64 import b64encode
from typing import Any

import numpy as np
from hypothesis import strategies as st

from personaplex_cli.protocols.adapter import Adapter, Begin, Closing, Did, Out, StopSpeaking
from personaplex_cli.protocols.wire import WireError

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800")
KEYS = st.sampled_from(
    [
        "session",
        "instructions",
        "audio",
        "format",
        "type",
        "rate",
        "output",
        "input",
        "voice",
        "id",
        "model",
        "delegation",
        "event_id",
        "content",
        "turn_detection",
        "silence_duration_ms",
        "interrupt_response",
        "item",
        "item_id",
        "role",
        "previous_item_id",
        "response",
        "metadata",
        "response_id",
        "content_index",
        "audio_end_ms",
        "modalities",
        "input_audio_format",
        "output_audio_format",
        "transcription",
        "tools",
    ]
)
VALUES = st.recursive(
    LEAVES | st.sampled_from(["audio/pcm", "audio/pcmu", "g711_alaw", "root", "AAAA", "message"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


def events(kinds: list[str]) -> st.SearchStrategy[str]:
    """Events of a protocol, with anything in their fields, and some that are none."""
    fields = st.dictionaries(KEYS, VALUES, max_size=5)
    return st.builds(lambda kind, more: json.dumps({**more, "type": kind}), st.sampled_from(kinds) | LEAVES, fields)


def is_answered(adapter: Adapter, message: str | bytes) -> None:
    """A message is understood, or refused with words."""
    try:
        outs = list(adapter.decode(message))
    except WireError as error:
        assert str(error)
        return
    for out in outs:
        assert isinstance(out, np.ndarray | Begin | Did | Closing | StopSpeaking | str)
        if isinstance(out, str):
            assert json.loads(out)["event_id"]


def sent(outs: Any) -> list[dict[str, Any]]:
    return [json.loads(out) for out in outs if isinstance(out, str)]


def say(adapter: Adapter, kind: str, **values: Any) -> list[Out]:
    return list(adapter.decode(json.dumps({"type": kind, **values})))


def append(sound: bytes) -> dict[str, str]:
    return {"audio": b64encode(sound).decode()}
