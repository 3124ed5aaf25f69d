"""Two conversations wired together: each hears all that the other says, a frame later, and both in the same rounds."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.audio.crosswire import Crosswire
from personaplex_cli.character import Character
from personaplex_cli.conversation import NO_ONE, Conversation, Reply, Wakeup, converse_all
from personaplex_cli.events import Began, Ended, Event
from personaplex_cli.samples import FRAME, Samples

NOBODY = Character("", "", "", "")


class Counting:
    """An engine that says its slot and how many frames it has answered; it begins each slot after so many looks."""

    slots = 2

    def __init__(self, waits: tuple[int, int] = (0, 0), fails: tuple[int, int] | None = None) -> None:
        self.heard: dict[int, list[float]] = {0: [], 1: []}
        self.rounds: list[set[int]] = []
        self._waits = list(waits)
        self._fails = fails
        self._waiting: list[int] = []

    def begin(self, slot: int, character: Character) -> None:
        self._waiting.append(slot)

    def prefill(self) -> Iterable[tuple[int, Event | Exception]] | None:
        for slot in self._waiting:
            if not self._waits[slot]:
                self._waiting.remove(slot)
                return [(slot, Began("", "", "", "", "", None, 0, 0))]
            self._waits[slot] -= 1
        return [] if self._waiting else None

    def step(
        self, frames: Mapping[int, Samples], silent: Mapping[int, int] = NO_ONE
    ) -> Mapping[int, Reply | Exception]:
        self.rounds.append(set(frames))
        return {slot: self._reply(slot, frame) for slot, frame in frames.items()}

    def _reply(self, slot: int, frame: Samples) -> Reply | Exception:
        self.heard[slot].append(float(frame[0]))
        if self._fails == (slot, len(self.heard[slot])):
            return ValueError("poisoned")
        return Reply(np.full(FRAME, (-1) ** slot * len(self.heard[slot]), dtype=np.float32), "")

    def end(self, slot: int) -> None: ...

    def close(self) -> None: ...


class Impatient(Wakeup):
    def wait(self, seconds: float = 0) -> None: ...


def held(engine: Counting, wire: Crosswire) -> list[Exception | None]:
    """What ended each of the two."""
    both = [Conversation(NOBODY, wire.left), Conversation(NOBODY, wire.right)]
    ends = []
    for _, event in converse_all(engine, both, Impatient()):
        if isinstance(event, Ended):
            ends.append(event.error)
            wire.close()
    return ends


@given(st.integers(1, 12), st.tuples(st.integers(0, 3), st.integers(0, 3)), st.lists(st.booleans(), max_size=30))
def test_each_hears_what_the_other_said_one_frame_later(count: int, waits: tuple[int, int], due: list[bool]) -> None:
    """Whoever begins first, and however the pace is."""

    def pace() -> Iterator[bool]:
        yield from due
        yield from repeat(True)

    passed: list[tuple[float, float]] = []
    wire = Crosswire(count, pace(), lambda left, right: passed.append((float(left[0]), float(right[0]))))
    engine = Counting(waits)
    assert held(engine, wire) == [None, None]
    assert engine.rounds == [{0, 1}] * count
    assert engine.heard == {0: [-float(n) for n in range(count)], 1: [float(n) for n in range(count)]}
    assert passed == [(float(n), -float(n)) for n in range(count)]


@pytest.mark.parametrize("slot", [0, 1])
def test_where_one_fails_both_end(slot: int) -> None:
    ends = held(Counting(fails=(slot, 4)), Crosswire(None, repeat(True)))
    assert [type(error) for error in ends] == [ValueError, type(None)]


def test_closed_it_ends() -> None:
    wire = Crosswire(None, repeat(True), lambda left, right: wire.close() if left[0] == 5 else None)
    engine = Counting()
    assert held(engine, wire) == [None, None]
    assert len(engine.heard[0]) == len(engine.heard[1]) == 6
