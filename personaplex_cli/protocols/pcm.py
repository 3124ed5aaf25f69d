"""Sound without a codec: binary messages of 16-bit little-endian mono samples, JSON for the rest.

In: config (sample_rate, and what a URL's query may have), hush, restart, ping. Out: ready, state, transcript, latency,
hushed, error, pong. The rate is 24 kHz unless the client asks for another.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from personaplex_cli.audio.resample import Resampler
from personaplex_cli.errors import PersonaplexError, UsageError
from personaplex_cli.events import Began, Hushed, State, Step
from personaplex_cli.protocols.adapter import (
    Adapter,
    Begin,
    Closing,
    Opening,
    Out,
    Pace,
    Queued,
    Send,
    ServerEvent,
    StopSpeaking,
    Unsupported,
    error_message,
    facts,
    samples,
)
from personaplex_cli.protocols.wire import Request, WireError, json_object
from personaplex_cli.samples import FRAME_SECONDS, SAMPLE_RATE, pcm16

MIN_RATE, MAX_RATE = 8_000, 192_000


class Pcm(Adapter):
    def __init__(self) -> None:
        self._set_rate(SAMPLE_RATE)

    def open(self, opening: Opening) -> Iterator[Out]:
        if opening.query.get("sample_rate"):
            self._set_rate(opening.query["sample_rate"])
        request = Request.from_query(opening.query)
        if request != Request():
            yield Begin(request)

    def decode(self, message: str | bytes) -> Iterator[Out]:
        if isinstance(message, bytes):
            yield self._inward(samples(message))
            return
        values = json_object(message, "The text message")
        match values.get("type"):
            case "config":
                if values.get("sample_rate"):
                    self._set_rate(values["sample_rate"])
                yield Begin(_request(values))
            case "hush":
                yield StopSpeaking()
            case "restart":
                yield Begin(None)
            case "ping":
                yield Send(json.dumps({"type": "pong"}))
            case "tool_result" | "image" as kind:
                yield error_message(Unsupported(f"The model can do nothing with {kind!r}: {_NEITHER}"))
            case kind:
                raise WireError(f"There is no message type {kind!r:.40}.", _TYPES)

    def encode(self, event: ServerEvent) -> Iterator[Out]:
        match event:
            case np.ndarray():
                if sound := pcm16(self._outward(event)):
                    yield Send(sound)
            case Step(index, text) if text:
                time = round(index * FRAME_SECONDS, 2)
                yield _message("transcript", role="agent", text=text, time=time)
            case Pace():
                yield _message("latency", **vars(event))
            case Began():
                yield _message("ready", sample_rate=self._rate, **facts(event))
                yield _message("state", state="live")
            case State(name):
                yield _message("state", state=name)
            case Queued(position):
                yield _message("state", state="queued", position=position)
            case Hushed(on):
                yield _message("hushed", on=on)
            case Closing(reason):
                yield _message("state", state="ended", reason=reason)
            case PersonaplexError():
                yield error_message(event)

    def _set_rate(self, rate: Any) -> None:
        try:
            self._rate = int(rate)
        except (TypeError, ValueError, OverflowError):
            self._rate = 0
        if not MIN_RATE <= self._rate <= MAX_RATE:
            raise UsageError(f"The sample rate is {rate!r:.40}.", f"Give a whole number from {MIN_RATE} to {MAX_RATE}.")
        self._inward = Resampler(self._rate, SAMPLE_RATE)
        self._outward = Resampler(SAMPLE_RATE, self._rate)


def _message(kind: str, **values: Any) -> Send:
    return Send(json.dumps({"type": kind, **values}))


def _request(values: Mapping[str, Any]) -> Request:
    """What a `config` asks for: the names of the query, and a persona that may also be an object with a prompt."""
    persona = values.get("persona")
    wanted = {**values, **persona, "persona": persona.get("name")} if isinstance(persona, dict) else values
    return Request.from_query({name: str(value) for name, value in wanted.items() if value is not None})


_TYPES = "Send config, hush, restart or ping; sound goes into binary messages."
_NEITHER = "it has neither tools nor sight. The conversation goes on."
