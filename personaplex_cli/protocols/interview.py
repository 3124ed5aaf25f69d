"""JSON messages with base64 sound at 16 kHz, as the voice servers of interview trainers speak them.

In: hello, context (role, level, topic), audio (data), end_utterance, reset. Out: ready, audio_out (data), text_out
(text), error (message).
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from personaplex_cli.audio.resample import Resampler
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Began, Step
from personaplex_cli.protocols.adapter import (
    Adapter,
    Begin,
    Opening,
    Out,
    Send,
    ServerEvent,
    error_message,
    facts,
    samples,
)
from personaplex_cli.protocols.wire import Request, WireError, json_object
from personaplex_cli.samples import SAMPLE_RATE, pcm16

RATE = 16_000
MAX_FIELD_CHARACTERS = 200  # of a role, a level or a topic


class Interview(Adapter):
    def __init__(self) -> None:
        self._inward = Resampler(RATE, SAMPLE_RATE)
        self._outward = Resampler(SAMPLE_RATE, RATE)
        self._asked = Request()

    def open(self, opening: Opening) -> Iterator[Out]:
        self._asked = Request.from_query(opening.query)
        if self._asked != Request():
            yield Begin(self._asked)

    def decode(self, message: str | bytes) -> Iterator[Out]:
        if isinstance(message, bytes):
            raise WireError("Sound comes in JSON here.", 'Send {"type": "audio", "data": BASE64}.')
        values = json_object(message, "The text message")
        match values.get("type"):
            case "audio":
                yield self._inward(samples(_decoded(values.get("data"))))
            case "context":
                yield Begin(self._interviewer(values))
            case "reset":
                yield Begin(None)
            case "hello" | "end_utterance":  # the model hears by itself when the user has finished
                pass
            case kind:
                raise WireError(
                    f"There is no message type {kind!r:.40}.", "Send hello, context, audio, end_utterance or reset."
                )

    def encode(self, event: ServerEvent) -> Iterator[Out]:
        match event:
            case np.ndarray():
                if sound := pcm16(self._outward(event)):
                    yield Send(json.dumps({"type": "audio_out", "data": base64.b64encode(sound).decode()}))
            case Step(text=text) if text:
                yield Send(json.dumps({"type": "text_out", "text": text}))
            case Began():
                yield Send(json.dumps({"type": "ready", "sample_rate": RATE, **facts(event)}))
            case PersonaplexError():
                yield error_message(event)

    def _interviewer(self, values: Mapping[str, Any]) -> Request:
        """The persona, in a form that the model was trained with (FIELD: "You enjoy having a good conversation")."""
        role, level, topic = (" ".join(str(values.get(name) or "").split()) for name in ("role", "level", "topic"))
        place = " ".join(word for word in (level[:MAX_FIELD_CHARACTERS], role[:MAX_FIELD_CHARACTERS]) if word)
        about = f" Talk about {topic[:MAX_FIELD_CHARACTERS]}." if topic else ""
        prompt = (
            "You enjoy having a good conversation. You are a friendly interviewer and ask one question at a time. "
            f"The person you talk with applies for a job{f' as {place}' if place else ''}.{about}"
        )
        return replace(self._asked, prompt=prompt)


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise WireError("The sound is not base64.", "Send the 16-bit samples as base64 under `data`.") from error
