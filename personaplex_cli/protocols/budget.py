"""How often the other end of a wire may do something that costs this end more than the other."""

import time


class Budget:
    """`burst` at once, and `per_second` in the long run."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = burst
        self._at = time.monotonic()

    def spend(self, amount: int = 1) -> bool:
        """Take as much; False, and nothing is taken, if less is left."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < amount:
            return False
        self._left -= amount
        return True
