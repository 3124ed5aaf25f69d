"""Sound without a codec: binary messages of 16-bit little-endian mono samples, JSON for the rest.

In: config (sample_rate, and what a URL's query may have), hush, restart, did (text: what the client has done), ping.
Out: ready, state, transcript, latency, hushed, renewed (frames of the talk that are remembered, of the context that
are taken), lost (seconds of sound heard and said), error, pong. The rate is 24 kHz unless the client asks for another.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from personaplex_cli.errors import UsageError
from personaplex_cli.events import Began, Hushed, Renewed, State, Step, UserWords
from personaplex_cli.protocols.adapter import (
    Begin,
    Closing,
    Did,
    Out,
    Pace,
    Queued,
    ServerEvent,
    StopSpeaking,
    Upgrade,
)
from personaplex_cli.protocols.budget import Budget
from personaplex_cli.protocols.json_adapter import JsonAdapter, Unsupported, json_message
from personaplex_cli.protocols.wire import MAX_NAME, Request, WireError, json_object
from personaplex_cli.samples import FRAME_SECONDS
from personaplex_cli.transcript import AGENT, USER, one_line

MIN_RATE, MAX_RATE = 8_000, 192_000
DEEDS, DEEDS_PER_SECOND = 20, 1.0  # that a client may tell of: the server's owner reads them


class Pcm(JsonAdapter):
    def __init__(self) -> None:
        super().__init__()
        self._deeds = Budget(DEEDS, DEEDS_PER_SECOND)

    def open(self, upgrade: Upgrade) -> Iterator[Out]:
        self._ask_rate(upgrade.query)
        yield from super().open(upgrade)

    def decode(self, message: str | bytes) -> Iterator[Out]:
        if isinstance(message, bytes):
            yield from self._heard(message)
            return
        values = json_object(message, "The text message")
        match values.get("type"):
            case "config":
                self._ask_rate(values)
                yield Begin(_request(values))
            case "hush":
                yield StopSpeaking()
            case "restart":
                yield Begin(None)
            case "did":
                yield self._did(values.get("text"))
            case "ping":
                yield json_message("pong")
            case "tool_result" | "image" as kind:
                reason = "it can neither use tools nor see. The conversation goes on."
                yield from self.encode(Unsupported(f"The model can do nothing with {kind!r}: {reason}"))
            case kind:
                hint = "Send config, hush, restart, did or ping; sound goes into binary messages."
                raise WireError(f"There is no message type {kind!r:.40}.", hint)

    def encode(self, event: ServerEvent) -> Iterator[Out]:
        yield from super().encode(event)
        match event:
            case Step(index, text) if text:
                yield _transcript(AGENT, text, index)
            case UserWords(text, start) if start >= 0:  # else of the conversation before this one
                yield _transcript(USER, text, start)
            case Pace():
                yield json_message("latency", **vars(event))
            case Began():
                yield json_message("state", state="live")
            case State(name):
                yield json_message("state", state=name)
            case Queued(position):
                yield json_message("state", state="queued", position=position)
            case Renewed(index, remembered, filled):
                time = round(index * FRAME_SECONDS, 2)
                yield json_message("renewed", time=time, remembered=remembered, filled=filled)
            case Hushed(on):
                yield json_message("hushed", on=on)
            case Closing(reason):
                yield json_message("state", state="ended", reason=reason)

    def _did(self, text: object) -> Did:
        if not isinstance(text, str) or not 0 < len(text.strip()) <= MAX_NAME or not self._deeds.spend():
            raise WireError(
                "What you did cannot be noted.", f"Send a `text` of at most {MAX_NAME} characters, once a second."
            )
        return Did(one_line(text.strip()))

    def _ask_rate(self, values: Mapping[str, Any]) -> None:
        if not (rate := values.get("sample_rate")):
            return
        try:
            hertz = int(rate)
        except (TypeError, ValueError, OverflowError):
            hertz = 0
        if not MIN_RATE <= hertz <= MAX_RATE:
            raise UsageError(f"The sample rate is {rate!r:.40}.", f"Give a whole number from {MIN_RATE} to {MAX_RATE}.")
        self._set_rate(hertz)


def _transcript(role: str, text: str, frame: int) -> str:
    return json_message("transcript", role=role, text=text, time=round(frame * FRAME_SECONDS, 2))


def _request(values: Mapping[str, Any]) -> Request:
    """What a `config` asks for: the names of the query, and a persona that may also be an object with a prompt."""
    persona = values.get("persona")
    wanted = {**values, **persona, "persona": persona.get("name")} if isinstance(persona, dict) else values
    return Request.from_query({name: str(value) for name, value in wanted.items() if value is not None})
