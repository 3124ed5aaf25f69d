"""The heart: frames of the user's sound in, the agent's sound out, one after the other.

    for heard in audio.frames():  reply = engine.step(heard);  audio.play(reply.pcm)

Every program runs this loop; what differs is where sound comes from and goes to, and who answers. Knows no torch, no
files, no sound card, no network.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from personaplex_cli.errors import NetworkError
from personaplex_cli.events import Began, Step, Timings
from personaplex_cli.samples import Samples, level


class Audio(Protocol):
    """Where sound comes from and goes to: a recording, a sound card, a socket."""

    def frames(self) -> Iterable[Samples]:
        """The user's sound, [1920] float32 at a time, until it ends."""

    def play(self, pcm: Samples) -> None:
        """Take what the agent said since the last frame, [n]. Never waits.

        From a model here that is the answer to the last frame, [1920]. From one elsewhere it is what has arrived:
        nothing, a frame, or several that were late.
        """


class Reply(Protocol):
    @property
    def pcm(self) -> Samples: ...
    @property
    def text(self) -> str: ...
    @property
    def timings(self) -> Timings | None: ...


class Engine(Protocol):
    """What answers: the model on this machine, or one elsewhere."""

    def step(self, frame: Samples) -> Reply:
        """Hear a frame [1920], answer it. Raises Disconnected where there is nobody any more."""


class Agent(Engine, Protocol):
    """Somebody to talk with: an engine that knows who it is, and what must happen before it can answer.

    `startup.LocalAgent` is the model on this machine, `remote.client.RemoteAgent` one elsewhere. All calls come from
    one thread at a time, but for `close`.
    """

    def start(self) -> None:
        """Do what is done once, before anything else: find and load the model."""

    def warm_up(self) -> None:
        """Do everything that is slow the first time."""

    def begin(self) -> Began:
        """Begin a conversation from the prompt; any earlier one is over. Tells its states on the way."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the conversation as plain values, enough to hold it again."""

    def hush(self) -> None:
        """Be silent until the user speaks (again)."""

    @property
    def hushed(self) -> bool:
        """Whether it is silent because of `hush`."""

    def close(self) -> None:
        """End whatever is going on or waited for; from any thread, as often as you like."""


class Disconnected(NetworkError):
    """Whoever answered is gone, but perhaps not for ever: `Agent.begin` tries again."""


def converse(engine: Engine, audio: Audio) -> Iterator[Step]:
    """Run the conversation that was begun until `audio` ends; yields what happened in each frame."""
    for index, heard in enumerate(audio.frames()):
        reply = engine.step(heard)
        audio.play(reply.pcm)
        yield Step(index, reply.text, level(heard), level(reply.pcm), reply.timings)
