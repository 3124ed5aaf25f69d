"""What happens, as programs report it: frozen facts, no tensors, no terminal.

Library code never prints. It hands these to a `Listener`; `screen/` draws them, `--json` writes them out.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from personaplex_cli.samples import FRAME_SECONDS


@dataclass(frozen=True)
class Note:
    """A sentence for the user, such as which device was picked and why."""

    text: str


@dataclass(frozen=True)
class Notice:
    """A sentence that holds until the same one comes with `on` False, such as: the microphone is silent."""

    text: str
    on: bool = True


class Phase(StrEnum):
    """What a program can be doing. A model here is loaded, warmed up and given its prompt (priming)."""

    STARTING = "starting"
    DOWNLOADING = "downloading"
    LOADING = "loading"
    CONNECTING = "connecting"
    WAITING = "waiting"  # in a server's queue
    WARMING_UP = "warming up"
    PRIMING = "priming"
    LIVE = "live"
    REPLAY = "replay"  # of a recorded talk
    RECONNECTING = "reconnecting"  # the sound card has stopped
    DISCONNECTED = "disconnected"  # the server is gone; it is tried again
    LISTENING = "listening"  # a server, at the URL in the detail
    READY = "ready"  # a server, when its model is
    ENDED = "ended"


@dataclass(frozen=True)
class State:
    """What the program is doing now."""

    name: Phase
    detail: str = ""


@dataclass(frozen=True)
class Downloading:
    """Bytes of the model that are here, of all that are needed."""

    done: int
    total: int


@dataclass(frozen=True)
class Timings:
    """Milliseconds that one frame spent in each stage of the engine; `depformer` is a part of `lm`."""

    encode: float
    lm: float
    decode: float
    depformer: float = 0.0

    @property
    def total(self) -> float:
        return self.encode + self.lm + self.decode


@dataclass(frozen=True)
class Step:
    """One frame of conversation: the agent's text piece (may be empty), both levels in dBFS, the engine's timings.

    The timings are None for an engine elsewhere: what is known of its time comes as Network. `clipped` says that the
    microphone was too loud. `source` is the recording that is answered, where there are recordings. `tokens` are the
    model's, as `Reply` has them.
    """

    index: int
    text: str
    heard: float
    said: float
    timings: Timings | None
    clipped: bool = False
    source: str = ""
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class UserWords:
    """Words of the user's, told some time after they were spoken: from frame `start` on, until frame `end`.

    Frames count as `Step.index` does: negative ones are of what was said before the conversation began again. A text
    that begins with a space begins a new word.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Transcribing:
    """The user's words are written down too, by this model; by none any more if it is empty."""

    model: str


@dataclass(frozen=True)
class Steps:
    """So many frames of a recording were answered on another machine, which does not tell of each."""

    source: str
    frames: int


@dataclass(frozen=True)
class Began:
    """A conversation begins: who speaks, on what, and how many frames of the model's context are taken already.

    Of the talk its last `memory` frames are remembered at least, because the model's memory is renewed; 0: it is not,
    and whoever speaks is forgotten when the context is full.
    Who is heard has a name, `user`, if that is another persona. What a server does not tell is empty, None or 0.
    `settings` are plain values, enough to hold the conversation again.
    """

    persona: str
    voice: str
    model: str
    device: str
    precision: str
    seed: int | None
    prompt_frames: int
    context: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    memory: int = 0
    user: str = ""

    @property
    def left(self) -> Mapping[str, Any]:
        """What is known of the other persona, who is heard on the left; nothing if that is a person."""
        user = self.settings.get("user")
        return user if self.user and isinstance(user, Mapping) else {}

    @property
    def names(self) -> tuple[str, ...]:
        """The persona and its voice, or both personas."""
        if not self.user:
            return (self.persona, self.voice)
        left, right = f"{self.user} {self.left.get('voice', '')}", f"{self.persona} {self.voice}"
        return (f"{left.rstrip()} (left) and {right.rstrip()} (right)",)

    @property
    def who(self) -> str:
        """Who speaks, with which voice and seed: of two personas that of the left one, of which the other's follows."""
        sampling = self.left.get("sampling")
        seed = sampling.get("seed") if isinstance(sampling, Mapping) else self.seed
        voice = f"voice {self.voice}" if self.voice and not self.user else ""
        who = self.names[0] if self.user else self.persona or "An unknown persona"
        return ", ".join(filter(None, (who, voice, "" if seed is None else f"seed {seed}")))


@dataclass(frozen=True)
class Renewed:
    """The model's memory was made anew: the prompt, then the last `remembered` frames of the talk; no more than that.

    It happened before frame `index` (as `Step.index`); `filled` frames of the context are taken now.
    """

    index: int
    remembered: int
    filled: int


@dataclass(frozen=True)
class Ended:
    """A conversation is over; `error` is what ended it, None if the user did."""

    error: Exception | None = None


@dataclass(frozen=True)
class Visitors:
    """How many talk with a server's model, of how many that it can hold at once, and how many wait."""

    talking: int
    slots: int
    waiting: int


@dataclass(frozen=True)
class Devices:
    """The sound card is open: its microphone and speaker, by name, with their rates."""

    microphone: str
    speaker: str


@dataclass(frozen=True)
class Recording:
    """The conversation is being recorded to this folder; to none any more if it is empty."""

    folder: str


@dataclass(frozen=True)
class Latency:
    """Milliseconds that sound spends around the engine, now: in the card, in our queues, in the playback cushion."""

    device_in: float
    queue: float
    cushion: float
    device_out: float


@dataclass(frozen=True)
class Network:
    """Milliseconds to the server and back, and of a step there (None where it does not tell). About once a second."""

    round_trip: float
    server_step: float | None


@dataclass(frozen=True)
class Glitch:
    """Something was lost or filled in: `kind` is underrun, overflow, dropped, shed, reopened or unsent.

    `total` counts it. Unsent are frames of the user's that a network was too slow for.
    """

    kind: str
    total: int
    detail: str = ""


@dataclass(frozen=True)
class Started:
    """One recording is about to be played to the model: `frames` of 80 ms. It is `number` of `count`, as they begin.

    `frames_left` are still to be answered of all recordings together, those that are being answered included.
    """

    source: str
    frames: int
    number: int = 1
    count: int = 1
    frames_left: int = 0


@dataclass(frozen=True)
class Finished:
    """One recording is answered; `files` are the paths written, `turns` who spoke (`agent`, `user` or a name) and what.

    `speed` is its length over the time that it took itself, whatever was answered beside it.
    """

    source: str
    files: tuple[str, ...]
    seconds: float
    speed: float
    text: str
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Scoring:
    """So many samples of a data set are measured, of all that are to be."""

    done: int
    total: int


@dataclass(frozen=True)
class Failed:
    """One recording of several could not be answered, and why; the others go on."""

    source: str
    error: str


@dataclass(frozen=True)
class Favourites:
    """Who the keys of a conversation switch to: persona and voice, by key."""

    names: Mapping[str, str]


@dataclass(frozen=True)
class Muted:
    """The microphone is muted (the agent hears silence), or on again."""

    on: bool


@dataclass(frozen=True)
class Hushed:
    """The agent was told to stop talking and waits for the user's voice, or speaks freely again."""

    on: bool


Event = (
    Note
    | Notice
    | State
    | Downloading
    | Began
    | Step
    | Steps
    | UserWords
    | Transcribing
    | Renewed
    | Visitors
    | Devices
    | Recording
    | Latency
    | Network
    | Glitch
    | Started
    | Finished
    | Scoring
    | Failed
    | Favourites
    | Muted
    | Hushed
    | Ended
)
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of those who want to know nothing."""


def as_json(event: Event) -> dict[str, Any]:
    """The event as a JSON object: its kind in lower case under "event", then its fields."""
    kind = type(event).__name__.lower()
    if isinstance(event, Ended):
        return {"event": kind, "error": str(event.error) if event.error else None}
    fields = asdict(event)
    if isinstance(event, Step):
        levels = {"heard": round(event.heard, 1), "said": round(event.said, 1)}
        if fields["timings"]:
            fields["timings"] = {stage: round(value, 2) for stage, value in fields["timings"].items()}
        del fields["tokens"]  # for recordings: twelve times a second they are no use to a reader
        if not event.source:
            del fields["source"]
        fields |= {"time": round(event.index * FRAME_SECONDS, 2), **levels}
    return {"event": kind, **fields}
