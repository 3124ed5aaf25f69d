"""Talks in tokens that last: longer than a short ring holds, so that their memory is renewed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from golden import TokenTalk, heard_of, load_golden

from personaplex_cli.character import Sampling
from personaplex_cli.conversation import Reply
from personaplex_cli.engine.prompting import Layout, lay_out
from personaplex_cli.engine.renewal import Pace, Renewals
from personaplex_cli.events import Event, Renewed

GOLDEN = load_golden(Path(__file__).parent / "data/golden/golden-b.json")
CONTEXT, REMEMBERED, FRAMES = 160, 20, 150  # of which the prompt takes 31; then it is renewed twice
QUICK = Pace(reading=5, searching=6, pause=2, between=8)
GREEDY = Sampling(greedy=True)


@dataclass
class Talker:
    """Somebody who talks for a while, in codes; `quiet` are frames in which nobody is heard."""

    seed: int = 0
    how: Sampling = GREEDY
    quiet: frozenset[int] = frozenset()
    text: Sequence[int] = (5, 6, 7, 8)
    said: list[tuple[int, ...]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return lay_out(GOLDEN.codes("voice"), list(self.text), GOLDEN.spec)

    def codes(self, frame: int) -> torch.Tensor:
        return torch.randint(2048, (8,), generator=torch.Generator().manual_seed(1000 * self.seed + frame))


def held(talk: TokenTalk, talkers: dict[int, Talker], at_once: int = 16, frames: int = FRAMES) -> Renewals:
    """Hold these talks together, each in its slot."""
    renewals = Renewals(talk.generator, talk.slots, REMEMBERED, QUICK)
    for row, talker in talkers.items():
        talk.begin(talker.layout, talker.how, row)
        renewals.begin(row, talker.layout)
    for frame in range(frames):
        hear(talk, renewals, talkers, frame)
        for row, event in renewals.go_on(at_once, others_wait=frame % 3 == 0) or ():
            talkers[row].events.append(event)
            if isinstance(event, Renewed):
                talk.pipeline.skip_to(row, event.filled)
    return renewals


def hear(talk: TokenTalk, renewals: Renewals, talkers: dict[int, Talker], frame: int) -> None:
    replies = talk.pipeline.run({row: heard_of(talker.codes(frame)) for row, talker in talkers.items()})
    for row, reply in replies.items():
        assert isinstance(reply, Reply)
        talkers[row].said.append(reply.tokens)
        renewals.hear(row, quiet=frame in talkers[row].quiet)
