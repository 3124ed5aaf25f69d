"""The heart: frames of the user's sound in, frames of the agent's sound out, one after the other.

    for heard in audio.frames():  reply = engine.step(heard);  audio.play(reply.pcm)

Every program runs this loop; what differs is where frames come from and go to. Knows no torch, no files, no sound card.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from personaplex_cli.events import Step, Timings
from personaplex_cli.prompt import Prompt
from personaplex_cli.samples import Samples, level


class Audio(Protocol):
    """Where frames come from and go to: a recording, a sound card, a socket."""

    def frames(self) -> Iterable[Samples]:
        """The user's sound, [1920] float32 at a time, until it ends."""

    def play(self, pcm: Samples) -> None:
        """Take the agent's answer to the last frame, [1920]. Never waits."""


class Reply(Protocol):
    @property
    def pcm(self) -> Samples: ...
    @property
    def text(self) -> str: ...
    @property
    def timings(self) -> Timings: ...


class Engine(Protocol):
    """What answers: the model on this machine, or one elsewhere."""

    def begin(self, prompt: Prompt) -> int:
        """Start a new conversation; returns the frames of context that the prompt takes."""

    def step(self, frame: Samples) -> Reply:
        """Hear a frame [1920], answer it."""


def converse(engine: Engine, audio: Audio) -> Iterator[Step]:
    """Run the conversation that `engine.begin` started until `audio` ends; yields what happened in each frame."""
    for index, heard in enumerate(audio.frames()):
        reply = engine.step(heard)
        audio.play(reply.pcm)
        yield Step(index, reply.text, level(heard), level(reply.pcm), reply.timings)
