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

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._waiting: dict[int, Character] = {}
        self._random: dict[int, np.random.Generator] = {}
        self._heard: dict[int, int] = {}

    def begin(self, slot: int, character: Character) -> None:
        self._waiting[slot] = character

    def prefill(self) -> Iterable[tuple[int, Event | Exception]] | None:
        if not self._waiting:
            return None
        slot, who = self._waiting.popitem()
        self._random[slot], self._heard[slot] = np.random.default_rng(who.sampling.seed), 0
        began = Began(who.persona, who.voice, "demo", "cpu", "fp32", who.sampling.seed, 100, 3000, {})
        return [(slot, State(Phase.PRIMING)), (slot, began)]

    def step(self, frames: Mapping[int, Samples], silent: Mapping[int, int] = NO_ONE) -> Mapping[int, Reply]:
        return {slot: self._reply(slot, slot in silent) for slot in frames}

    def _reply(self, slot: int, silent: bool) -> Reply:
        self._heard[slot] += 1
        random = self._random[slot]
        text = f" word{random.integers(100)}" if self._heard[slot] % 3 == 0 and not silent else ""
        pcm = (random.standard_normal(FRAME) * 0.1).astype(np.float32) * (not silent)
        return Reply(pcm, text, timings=Timings(1.0, 2.0, 1.0, 0.5))

    def end(self, slot: int) -> None:
        self._waiting.pop(slot, None)

    def close(self) -> None: ...


def load(
    options: ModelOptions, listen: Listener = ignore, rehearsal: Character | None = None, slots: int | None = 1
) -> Parrot:
    """In place of `loader.load`."""
    listen(State(Phase.LOADING, options.model_name))
    return Parrot(slots or 1)
