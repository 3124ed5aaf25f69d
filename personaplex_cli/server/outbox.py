"""What waits to be sent to one client, on the event loop. Who does not read cannot make it grow: old sound is lost, and
while answers to the client's own messages wait, it is not listened to.
"""

import asyncio
from collections import deque
from contextlib import suppress

import numpy as np

from personaplex_cli.events import Step
from personaplex_cli.protocols.adapter import ServerEvent
from personaplex_cli.samples import FRAME

MAX_SOUNDS = 62  # frames: 5 s; the oldest are lost
MAX_ITEMS = 1_000  # of all kinds: only who reads a little now and then gets there
MAX_BYTES = 1 << 18  # of answers, beyond which no more are made
Item = ServerEvent | str | bytes


class Outbox:
    def __init__(self) -> None:
        self.lost = 0  # samples
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._came, self._went = asyncio.Event(), asyncio.Event()

    def put(self, item: Item) -> bool:
        """Have it sent; False if too much waits already."""
        if isinstance(item, np.ndarray):
            self._make_room()
        self._items.append(item)
        self._bytes += _size(item)
        self._came.set()
        return len(self._items) <= MAX_ITEMS

    async def next(self, seconds: float) -> Item | None:
        """What comes next; None if nothing does in this time."""
        if not self._items:
            self._came.clear()
            with suppress(TimeoutError):
                # Not wait_for, which in Python 3.11 can swallow that the session ends.
                async with asyncio.timeout(seconds):
                    await self._came.wait()
        if not self._items:  # `forget_talk` may have taken back what came
            return None
        item = self._items.popleft()
        self._bytes -= _size(item)
        self._went.set()
        return item

    async def room(self) -> None:
        """Wait until more answers may be put."""
        while self._bytes > MAX_BYTES:
            self._went.clear()
            await self._went.wait()

    def forget_talk(self) -> None:
        """Take back sound and words: another conversation begins."""
        self._items = deque(each for each in self._items if not isinstance(each, np.ndarray | Step))

    def _make_room(self) -> None:
        sounds = [index for index, each in enumerate(self._items) if isinstance(each, np.ndarray)]
        if len(sounds) >= MAX_SOUNDS:
            self.lost += FRAME
            del self._items[sounds[0]]


def _size(item: Item) -> int:
    return len(item) if isinstance(item, str | bytes) else 0
