"""What every screen has in common: events come from any thread, writing happens on one.

The model's thread must never wait for a terminal or a full pipe, so `show` only queues. The thread that opened the
screen calls `refresh` some ten times a second, and only there is anything written.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from personaplex_cli.events import Event

WAITING = 10_000  # events, a quarter of an hour of talk; without a refresh for so long the oldest are dropped


class Screen(ABC):
    """Shows events between `with` and its end; `show` is their listener."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque(maxlen=WAITING)
        self._now = 0.0

    def show(self, event: Event) -> None:
        """Take an event, on any thread, without waiting."""
        self._waiting.append(event)

    def press(self, key: str) -> bool:
        """Take a key that changes only what is seen; False if this screen has no use for it."""
        return False

    def refresh(self, now: float) -> None:
        """Write what has happened. `now` is a monotonic clock in seconds, always the same one."""
        self._now = now
        while self._waiting:
            self._take(self._waiting.popleft(), now)

    @abstractmethod
    def _take(self, event: Event, now: float) -> None:
        """Show one event, or remember it to be shown."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh(self._now)


class Screens:
    """Several screens as one, such as the panel and a log file. It opens and closes them."""

    def __init__(self, screens: Sequence[Screen]) -> None:
        self._screens = screens
        self._open = ExitStack()

    def show(self, event: Event) -> None:
        for screen in self._screens:
            screen.show(event)

    def press(self, key: str) -> bool:
        return any([screen.press(key) for screen in self._screens])

    def refresh(self, now: float) -> None:
        for screen in self._screens:
            screen.refresh(now)

    def __enter__(self) -> Self:
        for screen in self._screens:
            self._open.enter_context(screen)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
