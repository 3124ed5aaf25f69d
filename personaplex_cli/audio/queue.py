"""Sound on its way from one thread to another: blocks of any size in, blocks of any other size out.

A pure function of the samples put and the counts taken: no clock, no sound card, no rate here.
"""

from collections import deque

import numpy as np

from personaplex_cli.samples import Samples

NOTHING: Samples = np.empty(0, dtype=np.float32)
DESERTED = 8  # times the limit: the other thread has stopped taking


class SampleQueue:
    """Samples in the order they came. One thread puts, one takes; neither ever waits for the other.

    There is no lock that a sound callback could wait for: appending to a deque and taking from its other end are
    atomic, and each count is written by one of the two threads only. A block is appended before it is counted, so
    that what is counted can be taken.

    `take` first drops the oldest samples beyond `limit`, in multiples of what is taken: sound that was not taken in
    time is lost, it never makes the rest late. When nothing is taken at all, what is put is lost.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._dropped = 0  # by the thread that takes
        self._refused = 0  # by the thread that puts
        self._blocks: deque[Samples] = deque()
        self._begun = NOTHING  # what is left of the oldest block
        self._came = 0
        self._gone = 0

    def __len__(self) -> int:
        """How many samples wait."""
        return self._came - self._gone

    @property
    def dropped(self) -> int:
        """How many samples were lost."""
        return self._dropped + self._refused

    def put(self, block: Samples) -> None:
        """Append a block [n]; never waits. The block belongs to the queue from now on."""
        if len(self) > DESERTED * self._limit:
            self._refused += len(block)
            return
        self._blocks.append(block)
        self._came += len(block)

    def take(self, count: int) -> Samples:
        """The `count` oldest samples as an array of their own, or all that there are if they are fewer."""
        excess = len(self) - max(self._limit, count)
        if excess > 0:
            self._dropped += len(self._take(-(-excess // count) * count))
        return self._take(count)

    def _take(self, count: int) -> Samples:
        count = min(count, len(self))
        parts, missing = [NOTHING], count
        while missing:
            if not len(self._begun):
                self._begun = self._blocks.popleft()
            parts.append(self._begun[:missing])
            self._begun = self._begun[missing:]
            missing -= len(parts[-1])
        self._gone += count
        return np.concatenate(parts)
