"""The event loop's time, and how much of it clients may take: its one thread moves everybody's sound.

To understand a message can take a thousand times as long as to send it: base64, JSON, another sample rate. So all of
that is counted, as time of the processor, of which a busy machine does not take more.

    who talks                                      has a part of its own: TALKERS, divided by the places there are
    all others, and who needs more than its part   share COMMON, and take turns for it, a piece of work each

So clients never take more than two fifths of the time, whoever comes and whatever is sent; and who needs no more than
its part is not kept waiting.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

from personaplex_cli.protocols.budget import Budget

TALKERS, COMMON = 0.3, 0.1  # of a second, each second
BURST = 0.02  # seconds that may be taken at once
T = TypeVar("T")


class LoopTime:
    """A server's. `clock` is the time that passes, `worked` what the thread has worked, in seconds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, worked: Callable[[], float] = time.thread_time
    ) -> None:
        self.clock = clock
        self.worked = worked
        self.common = Budget(BURST, COMMON, clock)
        self.turn = asyncio.Lock()  # lets in who has waited for the longest


class Share:
    """One client's part of it."""

    def __init__(self, all_time: LoopTime) -> None:
        self._all = all_time
        self._own: Budget | None = None
        self.over = False  # it is gone: nothing more is done for it

    def talk(self, places: int) -> None:
        """From now on it has a part of its own, as one of so many."""
        self._own = Budget(BURST, TALKERS / places, self._all.clock)

    async def fairly(self, work: Iterator[T]) -> AsyncIterator[T]:
        """What the work yields, each piece done when this client's turn has come."""
        while not self.over:
            if (account := self._account) is self._all.common:
                async with self._all.turn:
                    await asyncio.sleep(0 if self.over else account.debt)
            if self.over:
                return
            began = self._all.worked()
            try:
                piece = next(work)
            except StopIteration:
                return
            finally:
                account.overdraw(self._all.worked() - began)
            yield piece

    def do(self, work: Callable[[], object]) -> float:
        """Do what cannot wait; returns for how many seconds its client shall not be listened to."""
        account, began = self._account, self._all.worked()
        work()
        account.overdraw(self._all.worked() - began)
        return self._all.common.debt if account is self._all.common else 0.0

    @property
    def _account(self) -> Budget:
        """What the next piece of work is charged to."""
        return self._own if self._own and self._own.left > 0 else self._all.common
