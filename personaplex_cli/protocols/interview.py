"""JSON messages with base64 sound at 16 kHz, as the voice servers of interview trainers speak them.

In: hello, context (role, level, topic), audio (data), end_utterance, reset. Out: ready, audio_out (data), text_out
(text), text_in (text: the user's words, if the server writes them down), recorded (on: what is said is kept),
lost (message), error (message).
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from personaplex_cli.events import Step, UserWords
from personaplex_cli.protocols.adapter import Begin, Out, ServerEvent
from personaplex_cli.protocols.json_adapter import JsonAdapter, json_message
from personaplex_cli.protocols.wire import Request, WireError, json_object

MAX_FIELD_CHARACTERS = 200  # of a role, a level or a topic


class Interview(JsonAdapter):
    rate = 16_000

    def decode(self, message: str | bytes) -> Iterator[Out]:
        if isinstance(message, bytes):
            raise WireError("Sound comes in JSON here.", 'Send {"type": "audio", "data": BASE64}.')
        values = json_object(message, "The text message")
        match values.get("type"):
            case "audio":
                yield from self._heard(_decoded(values.get("data")))
            case "context":
                yield Begin(self._interviewer(values))
            case "reset":
                yield Begin(None)
            case "hello" | "end_utterance":  # the model hears by itself when the user has finished
                pass
            case kind:
                hint = "Send hello, context, audio, end_utterance or reset."
                raise WireError(f"There is no message type {kind!r:.40}.", hint)

    def encode(self, event: ServerEvent) -> Iterator[Out]:
        yield from super().encode(event)
        match event:
            case Step(text=text) if text:
                yield json_message("text_out", text=text)
            case UserWords(text, start) if start >= 0:
                yield json_message("text_in", text=text)

    def _sound(self, pcm: bytes) -> str:
        return json_message("audio_out", data=base64.b64encode(pcm).decode())

    def _interviewer(self, values: Mapping[str, Any]) -> Request:
        """The persona, in a form that the model was trained with (FIELD: "You enjoy having a good conversation")."""
        words = (" ".join(str(values.get(name) or "").split()) for name in ("role", "level", "topic"))
        role, level, topic = (each[:MAX_FIELD_CHARACTERS] for each in words)
        place = f"{level} {role}".strip()
        about = f" Talk about {topic}." if topic else ""
        prompt = (
            "You enjoy having a good conversation. You are a friendly interviewer and ask one question at a time. "
            f"The person you talk with applies for a job{f' as {place}' if place else ''}.{about}"
        )
        return replace(self._asked, prompt=prompt)


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise WireError("The sound is not base64.", "Send the 16-bit samples as base64 under `data`.") from error
