"""OpenAI's GPT-Live: full-duplex as this model is, without turns. Both sides' sound flows all the time, silence too.

In: session.start (who shall talk, the format of sound), session.input_audio.append, .mute, .unmute, session.update,
session.close; context that cannot be heard (.instructions, .thinking, .commentary .append) is answered with an error.
Out: session.started when the model is ready, session.output_audio.delta, .output_transcript.delta,
.input_transcript.delta (where the server transcribes), info, error, session.closed.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Began, Step, UserWords
from personaplex_cli.protocols.adapter import Closing, Lost, Out, Queued, Recorded, ServerEvent
from personaplex_cli.protocols.openai_wire import (
    VALID_SECONDS,
    OpenAIAdapter,
    Rejected,
    event_json,
    format_of,
    milliseconds,
    new_id,
    object_of,
    prose_of,
    text_of,
    voice_of,
)
from personaplex_cli.samples import FRAME_SECONDS

UNHEARD = ("session.instructions.append", "session.thinking.append", "session.commentary.append")
RECORDED, UNRECORDED = "The server keeps what is said.", "The server no longer keeps what is said."
REASONS = {"left": "close_requested", "time is up": "expired", "idle": "expired", "waited": "expired"}


class OpenAILive(OpenAIAdapter):
    def __init__(self) -> None:
        super().__init__()
        self._id = new_id("sess")
        self._expires_at = int(time.time()) + VALID_SECONDS
        self._began: Began | None = None
        self._start_id: str | None = None  # of the event that asked for the session; None as well if it had none
        self._close_id: str | None = None
        self._starting = False
        self._muted = False
        self._frames = 0  # answered

    def encode(self, event: ServerEvent) -> Iterator[Out]:
        match event:
            case np.ndarray():
                if sound := self._said(event):
                    yield event_json("session.output_audio.delta", delta=sound)
            case Step(index, text):
                self._frames = index + 1
                if text:
                    yield _words("output", text, index, index + 1)
            case UserWords(text, start, end) if start >= 0:
                yield _words("input", text, start, end)
            case Began() if self._began is None:
                self._began = event
                yield self._told("session.started", self._start_id)
            case Queued(position):
                yield event_json(
                    "info", code="queued", message=f"All places are taken. Yours in the queue: {position}."
                )
            case Recorded(on):
                yield event_json("info", code="recorded", message=RECORDED if on else UNRECORDED)
            case Lost():
                yield event_json("info", code="lost", message=str(event))
            case Closing(reason):
                usage = {"seconds": round(self._frames * FRAME_SECONDS, 2)}
                reason = REASONS.get(reason, "connection_lost")
                yield self._told("session.closed", self._close_id, reason=reason, usage=usage)
            case PersonaplexError():
                yield self._complaint(event)

    def _obey(self, event: Mapping[str, Any]) -> Iterator[Out]:
        kind, event_id = event.get("type"), text_of(event, "event_id")
        match kind:
            case "session.start":
                yield from self._start(object_of(event, "session"), event_id)
            case "session.input_audio.append":
                for heard in self._heard(event.get("audio")):
                    yield np.zeros_like(heard) if self._muted else heard
            case "session.input_audio.mute" | "session.input_audio.unmute":
                self._muted = kind.endswith(".mute")
                yield event_json(f"{kind}d", **_answering(event_id))
            case "session.update":
                yield self._told("session.updated", event_id)
            case "session.close":
                self._close_id = event_id
                yield Closing("left")
            case str() if kind in UNHEARD:
                raise Rejected("This model hears nothing but sound, once it talks.", "unsupported")
            case _:
                raise Rejected(f"There is no event {kind!r:.40} here.", "unknown_event", "type")

    def _start(self, session: Mapping[str, Any], event_id: str | None) -> Iterator[Out]:
        if self._starting:
            raise Rejected("The session has started already.", "session_already_started")
        audio = object_of(session, "audio")
        format = format_of(audio, "format")
        self._ask(prose_of(session, "instructions"), voice_of(object_of(audio, "output")))
        if format:
            self._listen_in(format)
            self._speak_in(format)
        self._starting, self._start_id = True, event_id
        self._model = text_of(session, "model") or self._model
        if session.get("input"):
            yield from self._note("sent what was said before, which this model cannot hear.")
        if session.get("delegation"):
            yield from self._note("offered GPT-Live's delegation, which this model makes no use of; nothing to do.")
        yield self._begin()

    def _told(self, kind: str, event_id: str | None, **values: Any) -> str:
        """An event that shows the session as it is."""
        session: dict[str, Any] = {
            "id": self._id,
            "model": self._model,
            "status": "active",
            "expires_at": self._expires_at,
            "audio": {"format": vars(self._format_out)},
        }
        if self._asked.prompt:
            session["instructions"] = self._asked.prompt
        if self._began:
            session["audio"]["output"] = {"voice": self._began.voice}
        return event_json(kind, session=session, **values, **_answering(event_id))

    def _error(self, kind: str, code: str | None, what: str, param: str | None, event_id: str | None) -> str:
        error = {"type": kind, "code": code or kind, "message": what, "param": param, **_answering(event_id)}
        return event_json("error", error=error, **_answering(event_id))


def _words(side: str, text: str, start: int, end: int) -> str:
    """Words of one side, from frame `start` until frame `end`."""
    times = {"start_ms": milliseconds(start), "end_ms": milliseconds(end)}
    return event_json(f"session.{side}_transcript.delta", delta=text, **times)


def _answering(event_id: str | None) -> dict[str, str]:
    return {"client_event_id": event_id} if event_id else {}
