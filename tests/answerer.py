"""An engine without a model that talks as people do: it greets, then answers whoever has spoken and paused.

It does not stop when it is interrupted, as a model would.
"""

from collections.abc import Mapping

import numpy as np
import parrot

from personaplex_cli.conversation import NO_ONE, Reply
from personaplex_cli.events import Listener, ignore
from personaplex_cli.hush import SPEECH_LEVEL
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME, SILENT_FRAME, Samples, level

GREETING, ANSWER = (5, 12), (4, 25)  # frames that it waits and then talks
TONE = (0.2 * np.sin(np.arange(FRAME) * 2 * np.pi * 10 / FRAME)).astype(np.float32)  # 125 Hz


class Answerer(parrot.Parrot):
    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._waits, self._talks = [dict[int, int]() for _ in range(2)]
        self._spoken: dict[int, int] = {}  # frames of the user's speech

    def step(self, frames: Mapping[int, Samples], silent: Mapping[int, int] = NO_ONE) -> Mapping[int, Reply]:
        return {slot: self._answer(slot, heard, slot in silent) for slot, heard in frames.items()}

    def _answer(self, slot: int, heard: Samples, silent: bool) -> Reply:
        self._heard[slot] += 1
        if self._heard[slot] == 1:
            self._waits[slot], self._talks[slot], self._spoken[slot] = *GREETING, 0
        if level(heard) > SPEECH_LEVEL:
            self._spoken[slot] += 1
        elif self._spoken[slot] >= 3 and not self._talks[slot]:
            self._waits[slot], self._talks[slot] = ANSWER
        if level(heard) <= SPEECH_LEVEL:
            self._spoken[slot] = 0
        if self._waits[slot] or not self._talks[slot] or silent:
            self._waits[slot] -= bool(self._waits[slot])
            return Reply(SILENT_FRAME, "")
        self._talks[slot] -= 1
        return Reply(TONE, f" word{self._talks[slot]}")


def load(options: ModelOptions, listen: Listener = ignore, rehearsal: object = None, slots: int | None = 1) -> Answerer:
    """In place of `loader.load`."""
    return Answerer(slots or 1)
