"""What a protocol is to the server: a translator between a client's messages and the events of a conversation.

Each protocol is an `Adapter` in a file of its own. An adapter belongs to one connection and does no I/O. All of it runs
on the event loop, where encoding a frame of Opus takes 1 ms of its 80 and decoding 0.1 ms.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Began, Event
from personaplex_cli.protocols.wire import Request
from personaplex_cli.samples import Samples


@dataclass(frozen=True)
class Upgrade:
    """The request that has become a WebSocket: the query of its URL, and its headers, by any case of their names."""

    query: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Credentials:
    """The token, from a client that cannot show it in its request; None: it has shown none."""

    token: str | None


@dataclass(frozen=True)
class Begin:
    """Begin a conversation in place of the one that goes on; None: the same one from its start.

    With `any_voice` a name that no voice here has is no error: the usual voice speaks.
    """

    request: Request | None
    any_voice: bool = False


@dataclass(frozen=True)
class StopSpeaking:
    """The agent shall be silent until the user speaks."""


@dataclass(frozen=True)
class Did:
    """The client has done something, such as a robot that looked left: what, in its own words, on one line."""

    text: str


@dataclass(frozen=True)
class Queued:
    """The client waits; `position` 1 is next."""

    position: int


@dataclass(frozen=True)
class Pace:
    """How long the steps of the last second took, and how many there were in all."""

    step_ms: float
    max_step_ms: float
    frame: int


@dataclass(frozen=True)
class Recorded:
    """Whether the server keeps what is said, from now on."""

    on: bool


@dataclass(frozen=True)
class Lost:
    """Seconds of sound that were lost since the last report: of the client's, and of the agent's."""

    heard: float
    said: float

    def __str__(self) -> str:
        heard = f"{self.heard:.1f} s of your sound were lost: it came faster than it is spoken." if self.heard else ""
        said = f"{self.said:.1f} s of the answer were lost: it was received too slowly." if self.said else ""
        return f"{heard} {said}".strip()


@dataclass(frozen=True)
class Closing:
    """The server ends the session: why, in a word or two and as a close code. `error` has been sent before."""

    reason: str
    code: int = 1000
    error: PersonaplexError | None = None

    @property
    def explanation(self) -> str:
        """Why, for the server's owner."""
        if self.error is None or self.reason not in ("refused", "failed"):
            return f"{self.reason}."
        cause = self.error.__cause__ if self.reason == "failed" else None
        return f"{self.reason}: {repr(cause) if cause else self.error}"


# Samples [n] at 24 kHz; Closing if the client hangs up by a message.
ClientEvent = Samples | Begin | StopSpeaking | Did | Credentials | Closing
Out = ClientEvent | str | bytes  # or a message for the client, text or binary
ServerEvent = Samples | Event | Queued | Pace | Recorded | Lost | Closing | PersonaplexError


class Adapter(Protocol):
    """All methods yield what follows: messages to send, and what the client wants."""

    max_bytes: int = 1 << 20  # of a message: 21 seconds of raw sound
    subprotocols: tuple[str, ...] = ()  # of WebSocket, which it agrees to where a client offers them
    shows_token_later: bool = False  # its first messages bring `Credentials`, and then whatever else is wanted
    says_who: bool = False  # nothing begins before its `Begin`, but for a client that says nothing for long
    fills_silence: bool = False  # is silence heard while the client sends nothing? If not, the conversation stops

    def open(self, upgrade: Upgrade) -> Iterator[Out]:
        """A new connection. Raises UsageError. Without a `Begin` the first message may say who shall talk."""

    def decode(self, message: str | bytes) -> Iterator[Out]:
        """A message of the client. Raises WireError for one that makes no sense, AudioError if its sound cannot be
        understood any more, UsageError for a request that cannot be met."""

    def encode(self, event: ServerEvent) -> Iterator[Out]:
        """Something has happened; many events mean nothing in some protocol."""

    def tick(self, now: float) -> Iterator[Out]:
        """What only a clock decides; `now` is in seconds. Called after each event, and ten times a second without."""
        yield from ()


def pieces(sound: bytes, size: int) -> Iterator[bytes]:
    """A long sound of the client's, so many bytes at a time: between two of them others come first."""
    return (sound[at : at + size] for at in range(0, len(sound) or 1, size))


def facts(began: Began) -> dict[str, Any]:
    """What a client may know of a conversation that begins."""
    names = ("voice", "persona", "seed", "prompt_frames", "context", "memory", "model", "precision")
    return {name: getattr(began, name) for name in names}
