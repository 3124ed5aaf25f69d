"""The heart: every frame is heard once, answered once, played once, in order."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from personaplex_cli.character import Prompt
from personaplex_cli.conversation import converse
from personaplex_cli.events import Timings
from personaplex_cli.samples import FRAME, Samples


@dataclass(frozen=True)
class Echo:
    pcm: Samples
    text: str
    timings: Timings


@dataclass
class EchoEngine:
    """Says what it hears, and counts."""

    heard: int = 0

    def begin(self, prompt: Prompt) -> int:
        self.heard = 0
        return 0

    def step(self, frame: Samples) -> Echo:
        self.heard += 1
        return Echo(frame, f" {self.heard}", Timings(1, 2, 3))


@dataclass
class Numbered:
    """An Audio whose frames are their numbers; it notes in which order things happen."""

    count: int
    log: list[tuple[str, int]] = field(default_factory=list)

    def frames(self) -> Iterator[Samples]:
        for index in range(self.count):
            self.log.append(("heard", index))
            yield np.full(FRAME, index, dtype=np.float32)

    def play(self, pcm: Samples) -> None:
        self.log.append(("played", int(pcm[0])))


def test_every_frame_is_answered_before_the_next_is_taken() -> None:
    audio = Numbered(5)
    steps = list(converse(EchoEngine(), audio))
    assert audio.log == [(what, index) for index in range(5) for what in ("heard", "played")]
    assert [(step.index, step.text) for step in steps] == [(index, f" {index + 1}") for index in range(5)]
    assert steps[0].heard == -100 and steps[1].heard == steps[1].said == 0
    assert steps[0].timings.total == 6


def test_it_runs_only_as_far_as_it_is_asked() -> None:
    audio = Numbered(100)
    conversation = converse(EchoEngine(), audio)
    next(conversation)
    conversation.close()
    assert audio.log == [("heard", 0), ("played", 0)]
