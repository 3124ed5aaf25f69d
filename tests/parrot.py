"""An engine without a model, for tests of servers where torch is not installed: noise, and a word now and then."""

from collections.abc import Iterable, Mapping

import numpy as np

from personaplex_cli.character import Character
from personaplex_cli.conversation import NO_ONE, Reply
from personaplex_cli.events import Began, Event, Listener, Phase, State, Timings, ignore
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME, Samples


class Parrot:
    """The same seed says the same, whatever is heard."""

    slots = 1

    def __init__(self) -> None:
        self._waiting: Character | None = None
        self._heard = 0

    def begin(self, slot: int, character: Character) -> None:
        self._waiting = character

    def prefill(self) -> Iterable[tuple[int, Event | Exception]] | None:
        if self._waiting is None:
            return None
        who, self._waiting, self._heard = self._waiting, None, 0
        self._random = np.random.default_rng(who.sampling.seed)
        began = Began(who.persona, who.voice, "demo", "cpu", "fp32", who.sampling.seed, 100, 3000, {})
        return [(0, State(Phase.PRIMING)), (0, began)]

    def step(self, frames: Mapping[int, Samples], silent: Mapping[int, int] = NO_ONE) -> Mapping[int, Reply]:
        self._heard += 1
        text = f" word{self._random.integers(100)}" if self._heard % 3 == 0 and not silent else ""
        pcm = (self._random.standard_normal(FRAME) * 0.1).astype(np.float32) * (not silent)
        return {0: Reply(pcm, text, timings=Timings(1.0, 2.0, 1.0, 0.5))}

    def end(self, slot: int) -> None:
        self._waiting = None

    def close(self) -> None: ...


def load(options: ModelOptions, listen: Listener = ignore, rehearsal: Character | None = None) -> Parrot:
    """In place of `loader.load`."""
    listen(State(Phase.LOADING, options.model_name))
    return Parrot()
