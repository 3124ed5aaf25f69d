"""How much the other end of a wire may do that costs this end more than the other."""

import time
from collections.abc import Callable


class Budget:
    """`burst` at once, and `per_second` in the long run."""

    def __init__(self, burst: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._left = burst
        self._at = clock()

    @property
    def left(self) -> float:
        """What may be spent now; below zero what has to come back first."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        return self._left

    @property
    def debt(self) -> float:
        """For how many seconds it is still overdrawn."""
        return max(0.0, -self.left / self._per_second)

    def spend(self, amount: float = 1) -> bool:
        """Take as much; False, and nothing is taken, if less is left."""
        enough = self.left >= amount
        if enough:
            self._left -= amount
        return enough

    def overdraw(self, amount: float) -> None:
        """Take as much, also if less is left."""
        self._left = self.left - amount
