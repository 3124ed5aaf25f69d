"""What clients say and understand: three protocols for the same conversation, as pure translation.

A dialect belongs to one connection. `hear` turns a message into wishes, `say` turns news into messages. Neither does
any I/O; both run on the event loop, where encoding a frame of Opus takes 1 ms of its 80 and decoding 0.1 ms (one
conversation at a time: a thread for it would cost more than it gives).
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from personaplex_cli import __version__
from personaplex_cli.audio.opus import OpusReader, OpusWriter
from personaplex_cli.audio.recording import pcm16
from personaplex_cli.audio.resample import Resampler
from personaplex_cli.errors import AudioError, PersonaplexError, UsageError
from personaplex_cli.events import Began, Event, Hushed, State, Step
from personaplex_cli.protocols.wire import (
    Action,
    Control,
    Failure,
    Handshake,
    Metadata,
    Ping,
    Request,
    Sound,
    WireError,
    Words,
    pack,
    unpack,
)
from personaplex_cli.samples import FRAME_SECONDS, SAMPLE_RATE, Samples

MIN_RATE, MAX_RATE = 8_000, 192_000
INTERVIEW_RATE = 16_000
# Bytes of one message: a second of the best Opus, but minutes of the worst, which would take long to decode.
MAX_OPUS_BYTES = 1 << 16
MAX_FIELD_CHARACTERS = 200  # characters of a role, a level or a topic


class Unsupported(PersonaplexError):
    """A client wants what this model cannot do."""


@dataclass(frozen=True)
class Begin:
    """Begin a conversation in place of the one that goes on; None: the same one from its start."""

    request: Request | None


@dataclass(frozen=True)
class Hush:
    """Stop talking."""


@dataclass(frozen=True)
class Echo:
    """Send this straight back."""

    message: str


Wish = Samples | Begin | Hush | Echo


@dataclass(frozen=True)
class Queued:
    """So many others come first."""

    position: int


@dataclass(frozen=True)
class Pace:
    """How long the steps of the last second took, and how many there were in all."""

    step_ms: float
    max_step_ms: float
    frame: int


@dataclass(frozen=True)
class Quiet:
    """There was nothing to say for a second."""


@dataclass(frozen=True)
class Ended:
    """The server ends the conversation, for a reason in a word or two."""

    reason: str


News = Samples | Event | Queued | Pace | Quiet | Ended | PersonaplexError


class Adapter(Protocol):
    def open(self, query: Mapping[str, str]) -> Request | None:
        """What the URL asks for; None if that is nothing and the first message may say it. Raises UsageError."""

    def hear(self, message: bytes | str) -> Iterator[Wish]:
        """What a message asks for. Raises WireError for one that makes no sense, AudioError if sound cannot be
        understood any more, UsageError for wishes that cannot be had."""

    def say(self, news: News) -> Iterator[bytes | str]:
        """The messages that tell some news; none for what this protocol has no words for."""


class Moshi:
    """Binary messages as `wire` packs them. Text messages are ignored, as the official server does.

    The pace of the model is told to clients that send metadata themselves: Moshi's own ones know none, and complain of
    every message.
    """

    def __init__(self) -> None:
        self._knows_metadata = False
        self._reader = OpusReader()
        self._writer = OpusWriter()

    def open(self, query: Mapping[str, str]) -> Request | None:
        return Request.from_query(query)

    def hear(self, message: bytes | str) -> Iterator[Wish]:
        match unpack(message) if isinstance(message, bytes) else None:
            case Sound(ogg) if len(ogg) > MAX_OPUS_BYTES:
                raise WireError("Too much sound came at once.", "Send it as it is spoken.")
            case Sound(ogg):
                yield self._reader.read(ogg)
            case Control(Action.PAUSE):
                yield Hush()
            case Control(Action.RESTART):
                yield Begin(None)
            case Metadata():
                self._knows_metadata = True

    def say(self, news: News) -> Iterator[bytes | str]:
        match news:
            case np.ndarray():
                if ogg := self._writer.write(news):
                    yield pack(Sound(ogg))
            case Step(text=text) if text:
                yield pack(Words(text))
            case Pace() if self._knows_metadata:
                yield pack(Metadata(vars(news)))
            case Began():
                yield pack(Handshake())
                yield pack(Metadata({"personaplex": __version__, **_facts(news)}))
            case Queued(position):
                yield pack(Metadata({"queue": position}))
            case Hushed(on):
                yield pack(Metadata({"hushed": on}))
            case Quiet():
                yield pack(Ping())
            case PersonaplexError():
                yield pack(Failure(f"{news} {news.hint}".strip()))


class Pcm:
    """Binary messages are sound, 16-bit little-endian mono at 24 kHz or the rate that was asked for; text is JSON."""

    def __init__(self) -> None:
        self._tune(SAMPLE_RATE)

    def open(self, query: Mapping[str, str]) -> Request | None:
        if query.get("sample_rate"):
            self._tune(query["sample_rate"])
        request = Request.from_query(query)
        return None if request == Request() else request

    def hear(self, message: bytes | str) -> Iterator[Wish]:
        if isinstance(message, bytes):
            yield self._inward(_sound(message))
            return
        values = _object(message)
        match values.get("type"):
            case "config":
                if values.get("sample_rate"):
                    self._tune(values["sample_rate"])
                yield Begin(_request(values))
            case "hush":
                yield Hush()
            case "restart":
                yield Begin(None)
            case "ping":
                yield Echo(json.dumps({"type": "pong"}))
            case "tool_result" | "image" as kind:
                yield Echo(_error(Unsupported(f"The model can do nothing with {kind!r}: {_SENSELESS}")))
            case kind:
                raise WireError(f"There is no message type {kind!r:.40}.", _PCM_TYPES)

    def say(self, news: News) -> Iterator[bytes | str]:
        match news:
            case np.ndarray():
                if sound := pcm16(self._outward(news)):
                    yield sound
            case Step(index, text) if text:
                time = round(index * FRAME_SECONDS, 2)
                yield json.dumps({"type": "transcript", "role": "agent", "text": text, "time": time})
            case Pace():
                yield json.dumps({"type": "latency", **vars(news)})
            case Began():
                yield json.dumps({"type": "ready", "sample_rate": self._rate, **_facts(news)})
                yield json.dumps({"type": "state", "state": "live"})
            case State(name):
                yield json.dumps({"type": "state", "state": name})
            case Queued(position):
                yield json.dumps({"type": "state", "state": "queued", "position": position})
            case Hushed(on):
                yield json.dumps({"type": "hushed", "on": on})
            case Ended(reason):
                yield json.dumps({"type": "state", "state": "ended", "reason": reason})
            case PersonaplexError():
                yield _error(news)

    def _tune(self, rate: Any) -> None:
        try:
            self._rate = int(rate)
        except (TypeError, ValueError, OverflowError):
            self._rate = 0
        if not MIN_RATE <= self._rate <= MAX_RATE:
            raise UsageError(f"The sample rate is {rate!r:.40}.", f"Give a whole number from {MIN_RATE} to {MAX_RATE}.")
        self._inward = Resampler(self._rate, SAMPLE_RATE)
        self._outward = Resampler(SAMPLE_RATE, self._rate)


class Interview:
    """JSON messages with base64 sound at 16 kHz, as the voice servers of interview trainers speak them.

    In: hello, context (role, level, topic), audio (data), end_utterance, reset. Out: ready, audio_out (data),
    text_out (text), error (message).
    """

    def __init__(self) -> None:
        self._inward = Resampler(INTERVIEW_RATE, SAMPLE_RATE)
        self._outward = Resampler(SAMPLE_RATE, INTERVIEW_RATE)
        self._asked = Request()

    def open(self, query: Mapping[str, str]) -> Request | None:
        self._asked = Request.from_query(query)
        return None if self._asked == Request() else self._asked

    def hear(self, message: bytes | str) -> Iterator[Wish]:
        if isinstance(message, bytes):
            raise WireError("Sound comes in JSON here.", 'Send {"type": "audio", "data": BASE64}.')
        values = _object(message)
        match values.get("type"):
            case "audio":
                yield self._inward(_sound(_base64(values.get("data"))))
            case "context":
                yield Begin(self._interviewer(values))
            case "reset":
                yield Begin(None)
            case "hello" | "end_utterance":  # the model hears for itself when somebody has ended
                pass
            case kind:
                raise WireError(
                    f"There is no message type {kind!r:.40}.", "Send hello, context, audio, end_utterance or reset."
                )

    def say(self, news: News) -> Iterator[bytes | str]:
        match news:
            case np.ndarray():
                if sound := pcm16(self._outward(news)):
                    yield json.dumps({"type": "audio_out", "data": base64.b64encode(sound).decode()})
            case Step(text=text) if text:
                yield json.dumps({"type": "text_out", "text": text})
            case Began():
                yield json.dumps({"type": "ready", "sample_rate": INTERVIEW_RATE, **_facts(news)})
            case PersonaplexError():
                yield _error(news)

    def _interviewer(self, values: Mapping[str, Any]) -> Request:
        """The persona, in a form that the model was trained with (FIELD: "You enjoy having a good conversation")."""
        role, level, topic = (" ".join(str(values.get(name) or "").split()) for name in ("role", "level", "topic"))
        place = " ".join(word for word in (level[:MAX_FIELD_CHARACTERS], role[:MAX_FIELD_CHARACTERS]) if word)
        about = f" TokenGenerator about {topic[:MAX_FIELD_CHARACTERS]}." if topic else ""
        prompt = (
            "You enjoy having a good conversation. You are a friendly interviewer and ask one question at a time. "
            f"The person you talk with applies for a job{f' as {place}' if place else ''}.{about}"
        )
        return replace(self._asked, prompt=prompt)


def _facts(began: Began) -> dict[str, Any]:
    """What a client may know of the conversation that begins."""
    return {
        "voice": began.voice,
        "persona": began.persona,
        "seed": began.seed,
        "prompt_frames": began.prompt_frames,
        "context": began.context,
        "model": began.model,
        "precision": began.precision,
    }


def _error(error: PersonaplexError) -> str:
    code = _CODES.get(type(error), "failed")
    return json.dumps({"type": "error", "code": code, "message": str(error), "hint": error.hint})


def _object(message: str) -> dict[str, Any]:
    try:
        values = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise WireError("A text message came that is not JSON.", 'Send an object such as {"type": "ping"}.') from error
    if not isinstance(values, dict):
        raise WireError("A text message came that is not a JSON object.", 'Send one such as {"type": "ping"}.')
    return values


def _sound(pcm: bytes) -> Samples:
    """16-bit little-endian samples -> [n] in [-1, 1)."""
    if len(pcm) % 2:
        raise WireError("Half a sample came.", "Send 16-bit samples, an even number of bytes in each message.")
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) * np.float32(1 / 32768)


def _base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise WireError("Sound came that is not base64.", "Send the 16-bit samples as base64 under `data`.") from error


def _request(values: Mapping[str, Any]) -> Request:
    """What a `config` asks for: the names of the query, and a persona that may also be an object with a prompt."""
    persona = values.get("persona")
    wanted = {**values, **persona, "persona": persona.get("name")} if isinstance(persona, dict) else values
    return Request.from_query({name: str(value) for name, value in wanted.items() if value is not None})


_CODES: dict[type[PersonaplexError], str] = {
    UsageError: "request",
    WireError: "message",
    AudioError: "sound",
    Unsupported: "unsupported",
}
_PCM_TYPES = "Send config, hush, restart or ping; sound goes into binary messages."
_SENSELESS = "it has neither tools nor sight. The talk goes on."
