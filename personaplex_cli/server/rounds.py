"""How long the rounds of a model take, and whether one conversation more may join them."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from personaplex_cli.character import Character
from personaplex_cli.conversation import NO_ONE, Engine, Reply
from personaplex_cli.events import Event
from personaplex_cli.samples import Samples

MAX_ROUND_MS = 40.0  # at the 95th percentile; beyond it no one more is admitted
REMEMBERED = 125  # rounds beside so many: ten seconds of one conversation, or fewer of several that take turns


class RoundTimes:
    """Milliseconds of recent rounds, by how many were talking.

    A frame waits for the round that runs, then for its own, so an answer takes up to two: one more is admitted while a
    round takes at most half of a frame's 80 ms. The one more costs no more than each of those before, so rounds stay
    below 80 ms with it, too.

    Only rounds beside as many as talk now are looked at, or where there were none, beside the nearest fewer: when
    somebody leaves, what happened in the crowd is forgiven. The first one is always admitted: somebody must talk
    before anything can be measured, and alone nobody makes others wait.
    """

    def __init__(self) -> None:
        self._recent: dict[int, deque[float]] = {}

    def add(self, talking: int, milliseconds: float) -> None:
        """A round is over that began while so many were talking."""
        self._recent.setdefault(talking, deque(maxlen=REMEMBERED)).append(milliseconds)

    def p95(self, talking: int) -> float:
        """What a round takes beside so many, in milliseconds; 0 if nothing is known."""
        known = [count for count in self._recent if count <= talking]
        if not known:
            return 0.0
        recent = sorted(self._recent[max(known)])
        return recent[int(0.95 * len(recent))]

    def may_admit(self, talking: int) -> bool:
        """Whether one more may talk beside so many."""
        return talking == 0 or self.p95(talking) <= MAX_ROUND_MS


class TimedEngine:
    """An engine that tells of each round how many were heard in it, and its milliseconds; in the model's thread."""

    def __init__(self, engine: Engine, tell: Callable[[int, float], None]) -> None:
        self._engine = engine
        self._tell = tell

    @property
    def slots(self) -> int:
        return self._engine.slots

    def begin(self, slot: int, character: Character) -> None:
        self._engine.begin(slot, character)

    def prefill(self) -> Iterable[tuple[int, Event | Exception]] | None:
        return self._engine.prefill()

    def step(
        self, frames: Mapping[int, Samples], silent: Mapping[int, int] = NO_ONE
    ) -> Mapping[int, Reply | Exception]:
        began = time.perf_counter()
        replies = self._engine.step(frames, silent)
        self._tell(len(frames), 1000 * (time.perf_counter() - began))
        return replies

    def end(self, slot: int) -> None:
        self._engine.end(slot)

    def close(self) -> None:
        self._engine.close()
