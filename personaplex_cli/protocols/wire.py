"""Moshi's WebSocket protocol, as bytes: the first says what a message is, the rest is its contents.

    00 handshake   the server is ready; some servers add their version
    01 sound       the next bytes of an Ogg-Opus stream, 24 kHz mono
    02 words       UTF-8
    03 control     one byte: 0 start, 1 end turn, 2 pause, 3 restart
    04 metadata    a JSON object
    05 failure     UTF-8
    06 ping        nothing

What is asked of the server travels in the query of the URL: `Request`. From NVIDIA's client (client/src/protocol) and
server (moshi/server.py).
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum
from typing import Any, TypeVar

from personaplex_cli.errors import NetworkError, UsageError

PATH = "/api/chat"
KNOWS_METADATA = "metadata"  # in the query of a client that wants messages 04; so does one that sends such a message
BEGIN = "begin"  # in metadata: our server's that it can begin again as another query asks, the client's which query
MAX_NAME = 80  # characters of a voice's or persona's name, and of what else strangers make us show
MAX_PROMPT = 4_000  # characters: some thousand frames of the 3,000 that the model remembers
# Of the fields of a `Request`, where they differ.
QUERY_NAMES = {"voice": "voice_prompt", "prompt": "text_prompt", "text_top_k": "text_topk", "audio_top_k": "audio_topk"}
_CHANCE = ("seed", "text_temperature", "text_topk", "audio_temperature", "audio_topk")
_NAMES = ("voice", "voice_prompt", "persona", "prompt", "text_prompt", *_CHANCE)
T = TypeVar("T")


class WireError(NetworkError):
    """The other side sent something that is no message."""


class Action(IntEnum):
    """What a control message asks for. Our own server takes PAUSE as "stop talking"."""

    START = 0
    END_TURN = 1
    PAUSE = 2
    RESTART = 3


@dataclass(frozen=True)
class Handshake:
    """The server is ready: sound sent before it is thrown away."""


@dataclass(frozen=True)
class Sound:
    ogg: bytes


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Control:
    action: Action


@dataclass(frozen=True)
class Metadata:
    values: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    text: str


@dataclass(frozen=True)
class Ping:
    pass


Message = Handshake | Sound | Words | Control | Metadata | Failure | Ping


def pack(message: Message) -> bytes:
    """The bytes of a message. Text that cannot be encoded, such as half a character, is sent as far as it can."""
    match message:
        case Handshake():
            return b"\x00"
        case Sound(ogg):
            return b"\x01" + ogg
        case Words(text):
            return b"\x02" + text.encode(errors="replace")
        case Control(action):
            return bytes((3, action))
        case Metadata(values):
            # Browsers know no NaN: better to fail here than there.
            return b"\x04" + json.dumps(values, ensure_ascii=False, allow_nan=False).encode(errors="replace")
        case Failure(text):
            return b"\x05" + text.encode(errors="replace")
        case Ping():
            return b"\x06"


def unpack(data: bytes) -> Message | None:
    """The message that some bytes are; None for an unknown kind, which the protocol says to ignore.

    Raises WireError for a known kind with contents that make no sense. Text that is not quite UTF-8 is read as far as
    it goes.
    """
    if not data:
        raise WireError("A message was empty.")
    kind, contents = data[0], data[1:]
    match kind:
        case 0:
            return Handshake()
        case 1:
            return Sound(contents)
        case 2:
            return Words(contents.decode(errors="replace"))
        case 3:
            if contents and contents[0] in list(Action):
                return Control(Action(contents[0]))
            raise WireError("A control message asks for something unknown.")
        case 4:
            return Metadata(json_object(contents.decode(errors="replace"), "The metadata"))
        case 5:
            return Failure(contents.decode(errors="replace"))
        case 6:
            return Ping()
        case _:
            return None


def json_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object in a message; `what` is the subject of the error. Raises WireError if it is none."""
    with suppress(ValueError, RecursionError):
        if isinstance(values := json.loads(text), dict):
            return values
    raise WireError(f"{what} is not a JSON object.")


@dataclass(frozen=True)
class Request:
    """Which conversation a client wants; None leaves the choice to the server."""

    voice: str | None = None
    persona: str | None = None
    prompt: str | None = None
    seed: int | None = None
    text_temperature: float | None = None
    text_top_k: int | None = None
    audio_temperature: float | None = None
    audio_top_k: int | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "Request":
        """What the query of a URL asks for. An empty value counts as none, an unknown name is ignored: others' clients
        send many.

        Raises UsageError for a name that is nearly a known one, for a number that is none, and for text that is too
        long or no text; whether voices, personas and ranges are right is not known here.
        """
        for name in query:
            if name not in _NAMES and (near := get_close_matches(name.lower(), _NAMES, n=1, cutoff=0.85)):
                raise UsageError(f"{name[:MAX_NAME]!r} means nothing here.", f"Did you mean {near[0]!r}?")
        for name in ("voice", "voice_prompt", "persona"):
            _check_text(name.removesuffix("_prompt"), query.get(name, ""), MAX_NAME)
        for name in ("prompt", "text_prompt"):
            _check_text("prompt", query.get(name, ""), MAX_PROMPT)
        seed = _number(query, "seed", int)
        return cls(
            voice=(query.get("voice") or query.get("voice_prompt") or "").removesuffix(".pt") or None,
            persona=query.get("persona") or None,
            prompt=query.get("prompt") or query.get("text_prompt") or None,
            seed=None if seed == -1 else seed,  # which is how the official server is asked for any
            text_temperature=_number(query, "text_temperature", float),
            text_top_k=_number(query, "text_topk", int),
            audio_temperature=_number(query, "audio_temperature", float),
            audio_top_k=_number(query, "audio_topk", int),
        )

    def to_query(self) -> dict[str, str]:
        """The query that asks for this, by the names that every server knows where there are such.

        NVIDIA's server needs `voice_prompt` and `text_prompt` and falls over a `seed`: leave it None for that one.
        """
        values = {**vars(self), "voice": f"{self.voice}.pt" if self.voice else None}
        return {QUERY_NAMES.get(name, name): str(value) for name, value in values.items() if value not in (None, "")}


def _check_text(what: str, text: str, most: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"The {what} has invalid characters.", "Send it as UTF-8.") from error
    if len(text) > most:
        shown = f"{text[:MAX_NAME]!r}..." if most <= MAX_NAME else f"of {len(text)} characters"
        raise UsageError(f"The {what} {shown} is too long.", f"It may have {most} characters.")


def _number(query: Mapping[str, str], name: str, kind: Callable[[str], T]) -> T | None:
    try:
        if len(query.get(name, "")) > MAX_NAME:
            raise ValueError
        return kind(query[name]) if query.get(name) else None
    except ValueError as error:
        hint = "Give a whole number." if kind is int else "Give a number."
        raise UsageError(f"{name} is {query[name]!r:.40}.", hint) from error
