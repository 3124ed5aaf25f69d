"""Whose turn it is: one client talks, some may wait, the others are told at once that there is no room.

Lives on the event loop.
"""

import asyncio
from collections.abc import AsyncIterator


class Admission:
    """One talks; `places` more may wait."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._turns: list[Place] = []  # the first one talks

    @property
    def active(self) -> int:
        return min(1, len(self._turns))

    @property
    def waiting(self) -> int:
        return max(0, len(self._turns) - 1)

    def enter(self) -> "Place | None":
        """A place, at the end; None if all are taken."""
        if sum(not turn.going for turn in self._turns) > self._places:
            return None
        turn = Place(self._turns)
        self._turns.append(turn)
        return turn


class Place:
    """One client's place. `going` once the client has left and the model only has to hear of it: then there is room
    for the next one, who would otherwise be refused for a few milliseconds."""

    def __init__(self, turns: "list[Place]") -> None:
        self.going = False
        self._turns = turns
        self._moved = asyncio.Event()

    async def positions(self) -> AsyncIterator[int]:
        """How many are before this one, whenever that changes, until nobody is."""
        told = 0
        while place := self._turns.index(self):
            before = sum(not turn.going for turn in self._turns[:place])
            if before not in (0, told):
                yield (told := before)
            await self._moved.wait()
            self._moved.clear()

    def leave(self) -> None:
        """Let the next one come; twice does no harm."""
        if self in self._turns:
            self._turns.remove(self)
            for each in self._turns:
                each._moved.set()
