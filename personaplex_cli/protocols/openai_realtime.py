"""OpenAI's Realtime, in the names of its general release or, for clients that ask for them, of its beta.

It knows turns, which this model does not: `speech_turns` makes them up. What is in force is told by session.updated;
text, tools and pictures are kept as notes that nobody hears. Clients take almost any error for the end, so there are
few.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Began, Step, UserWords
from personaplex_cli.protocols.adapter import Out, ServerEvent, StopSpeaking, Upgrade
from personaplex_cli.protocols.openai_items import Items, Response, Told, as_beta, message, metadata_of
from personaplex_cli.protocols.openai_session import Settings
from personaplex_cli.protocols.openai_transcription import Transcription
from personaplex_cli.protocols.openai_wire import (
    OpenAIAdapter,
    Rejected,
    event_json,
    milliseconds,
    new_id,
    object_of,
    prose_of,
    text_of,
    voice_of,
    whole_of,
)
from personaplex_cli.protocols.speech_turns import (
    AgentBegan,
    AgentEnded,
    AgentSaid,
    Change,
    SpeechTurns,
    UserBegan,
    UserEnded,
)
from personaplex_cli.samples import Samples

SETTLED, UNSETTLED = 0.3, 1.0  # seconds without an update, and with ever new ones, after which the model may begin
ANSWER_SECONDS = 8.0  # in which the agent may say something when it is asked to; clients wait for ten
NO_SOUND: Samples = np.zeros(0, dtype=np.float32)


class OpenAIRealtime(OpenAIAdapter):
    def __init__(self) -> None:
        super().__init__()
        self._beta = False
        self._settings = Settings()
        self._voice: str | None = None  # the one that speaks, once the model hears
        self._items = Items()
        self._turns = SpeechTurns(self._settings.rules)
        self._transcription = Transcription()
        self._user_item = ""
        self._response: Response | None = None
        self._metadata: Mapping[str, str] | None = None  # for the next response
        self._asked_to_speak = False
        self._spoken = False  # by the agent: who it is stays
        self._unsettled = True  # who shall talk was said, and the model does not know yet
        self._news = True  # that was after the last tick
        self._since = self._settled_at = 0.0
        self._wait_until: float | None = None  # for the agent, when it was asked to speak
        self._sound = NO_SOUND  # of the frame whose step comes next

    def open(self, upgrade: Upgrade) -> Iterator[Out]:
        yield from super().open(upgrade)
        offered = upgrade.headers.get("Sec-WebSocket-Protocol", "")
        self._beta = "realtime=v1" in upgrade.headers.get("OpenAI-Beta", "") or "openai-beta.realtime" in offered
        yield from self._send([("session.created", {"session": self._session()})])

    def encode(self, event: ServerEvent) -> Iterator[Out]:
        match event:
            case np.ndarray():
                self._sound = event
            case Step() if not self._unsettled:
                sound, self._sound = self._sound, NO_SOUND
                if self._settings.transcribes:
                    yield from self._send(self._transcription.completed())
                for change in list(self._turns.hear(event, sound)):
                    yield from self._send(self._tell(change))
            case UserWords(start=start) if start >= 0:  # else of the conversation before this one
                self._transcription.hear(event)
            case Began(voice=voice):
                yield from self._end("client_cancelled")
                self._turns, self._sound = SpeechTurns(self._settings.rules), NO_SOUND
                self._transcription = Transcription()
                if self._voice != voice:
                    self._voice = voice
                    yield from self._send([("session.updated", {"session": self._session()})])
            case PersonaplexError():
                yield self._complaint(event)

    def tick(self, now: float) -> Iterator[Out]:
        if self._unsettled:
            if self._news:
                self._since = self._since or now
                self._settled_at, self._news = min(now + SETTLED, self._since + UNSETTLED), False
            if now >= self._settled_at:
                self._unsettled, self._since = False, 0.0
                yield self._begin()
        if self._asked_to_speak:
            self._wait_until = self._wait_until or now + ANSWER_SECONDS
            if now >= self._wait_until:
                yield from self._send(self._next_response().empty())

    # From the client.

    def _obey(self, event: Mapping[str, Any]) -> Iterator[Out]:
        match event.get("type"):
            case "input_audio_buffer.append":
                yield from self._heard(event.get("audio"))
            case "session.update":
                yield from self._update(object_of(event, "session"))
            case "conversation.item.create":
                item = self._items.from_client(object_of(event, "item"))
                yield from self._note("sent text, history or pictures, which this model cannot hear.")
                told = self._items.add(item, text_of(event, "previous_item_id"))
                yield from self._send([told, self._items.done(item)])
            case "response.create":
                self._ask_to_speak(object_of(event, "response"))
            case "response.cancel":
                if not self._response:
                    raise Rejected("Cancellation failed: no active response found.", "response_cancel_not_active")
                yield StopSpeaking()
                self._turns.interrupt()
                yield from self._end("client_cancelled")
            case kind:
                yield from self._send(self._acknowledge(kind, event))

    def _acknowledge(self, kind: object, event: Mapping[str, Any]) -> Iterator[Told]:
        """What changes nothing, as the model has heard or said it already."""
        item_id = text_of(event, "item_id") or ""
        match kind:
            case "input_audio_buffer.commit":
                yield from self._commit(new_id("item"))
            case "input_audio_buffer.clear":
                yield "input_audio_buffer.cleared", {}
            case "conversation.item.truncate":
                cut = {name: whole_of(event, name) for name in ("content_index", "audio_end_ms")}
                yield "conversation.item.truncated", {"item_id": item_id, **cut}
            case "conversation.item.delete":
                self._items.delete(item_id)
                yield "conversation.item.deleted", {"item_id": item_id}
            case "conversation.item.retrieve":
                if (item := self._items.get(item_id)) is None:
                    raise Rejected("There is no such item.", "item_retrieve_invalid_item_id", "item_id")
                yield "conversation.item.retrieved", {"item": item}
            case _:
                raise Rejected(f"There is no event {kind!r:.40} here.", "unknown_event", "type")

    def _update(self, session: Mapping[str, Any]) -> Iterator[Out]:
        settings = self._settings.updated(session)
        voice = voice_of(object_of(session, "audio", "output")) or voice_of(session)
        if not self._spoken and self._ask(prose_of(session, "instructions"), voice):
            self._unsettled, self._voice = True, None
        self._news = True
        self._settings = settings
        self._listen_in(settings.heard_in)
        self._speak_in(settings.said_in)
        self._turns.rules = settings.rules
        if session.get("tools"):
            yield from self._note("offered tools, which this model cannot use.")
        yield from self._send([("session.updated", {"session": self._session()})])

    def _ask_to_speak(self, response: Mapping[str, Any]) -> None:
        if self._response or self._asked_to_speak:
            what = "A response is going on: the model speaks when it likes to."
            raise Rejected(what, "conversation_already_has_active_response")
        self._asked_to_speak, self._metadata = True, metadata_of(response)

    # To the client.

    def _tell(self, change: Change) -> Iterator[Told]:
        match change:
            case UserBegan(frame):
                self._user_item = new_id("item")
                self._transcription.begin(self._user_item, frame)
                at = {"item_id": self._user_item, "audio_start_ms": milliseconds(frame)}
                yield "input_audio_buffer.speech_started", at
            case UserEnded(frame):
                at = {"item_id": self._user_item, "audio_end_ms": milliseconds(frame)}
                yield "input_audio_buffer.speech_stopped", at
                self._transcription.end(self._user_item)
                yield from self._commit(self._user_item)
            case AgentBegan():
                self._spoken = True
                self._response = self._next_response()
                yield from self._response.begin(self._items)
            case AgentSaid(pcm, text) if self._response:
                yield from self._response.say(self._said(pcm), text)
            case AgentEnded(interrupted) if self._response:
                response, self._response = self._response, None
                yield from response.end(self._items, "turn_detected" if interrupted else None)

    def _commit(self, item_id: str) -> Iterator[Told]:
        """What the user said is an item now."""
        item = message(item_id, "user", "completed", {"type": "input_audio", "transcript": None})
        yield "input_audio_buffer.committed", {"item_id": item_id, "previous_item_id": self._items.last}
        yield self._items.add(item)
        yield self._items.done(item)

    def _next_response(self) -> Response:
        response = Response(self._metadata)
        self._asked_to_speak, self._metadata, self._wait_until = False, None, None
        return response

    def _end(self, cancelled: str) -> Iterator[str]:
        """End the response that goes on, if one does."""
        if self._response:
            response, self._response = self._response, None
            yield from self._send(response.end(self._items, cancelled))

    def _session(self) -> dict[str, Any]:
        return self._settings.as_json(self._model, self._asked.prompt or "", self._voice, self._beta)

    def _send(self, told: Iterable[Told]) -> Iterator[str]:
        for kind, values in told:
            if event := (as_beta(kind, values) if self._beta else (kind, values)):
                yield event_json(event[0], **event[1])

    def _error(self, kind: str, code: str | None, what: str, param: str | None, event_id: str | None) -> str:
        error = {"type": kind, "code": code, "message": what, "param": param, "event_id": event_id}
        return event_json("error", error=error)
