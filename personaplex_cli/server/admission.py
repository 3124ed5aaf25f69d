"""Who may talk, who waits, and the conversations on their way to the model. Other clients are refused at once."""

import asyncio
from collections.abc import AsyncIterator, Generator
from queue import SimpleQueue

from personaplex_cli.conversation import Conversation, Wakeup
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Ended


class Admission:
    """As many talk as the model has `slots`; `queue` more may wait. Lives on the event loop."""

    def __init__(self, queue: int) -> None:
        self.slots = 1  # until the model is loaded and says how many
        self.places: list[Place] = []  # in the order of their coming: the first ones talk
        self._queue = queue

    @property
    def active(self) -> int:
        return min(self.slots, len(self.places))

    @property
    def waiting(self) -> int:
        return len(self.places) - self.active

    def enter(self) -> "Place | None":
        """A place, at the end; None if all are taken."""
        if sum(not place.going for place in self.places) >= self.slots + self._queue:
            return None
        self.places.append(place := Place(self))
        return place


class Place:
    """One client's place. `going` once the client has left, but the model does not know yet: then there is room for the
    next one, who would otherwise be refused for a few milliseconds."""

    def __init__(self, admission: Admission) -> None:
        self.going = False
        self.moved = asyncio.Event()
        self._admission = admission

    async def positions(self) -> AsyncIterator[int]:
        """The position in the queue (1: next), whenever it changes, until this one may talk."""
        known = 0
        while (index := self._admission.places.index(self)) >= self._admission.slots:
            before = sum(not place.going for place in self._admission.places[:index])
            position = before - self._admission.slots + 1
            if position > 0 and position != known:
                yield (known := position)
            await self.moved.wait()
            self.moved.clear()

    def leave(self) -> None:
        """Let the next one come; twice does no harm."""
        if self in self._admission.places:
            self._admission.places.remove(self)
            for each in self._admission.places:
                each.moved.set()


class ConversationQueue:
    """Conversations for the model: the event loop puts, the model's thread iterates."""

    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self._coming: SimpleQueue[Conversation] = SimpleQueue()
        self._closed = self._abandoned = False

    def put(self, conversation: Conversation) -> None:
        self._coming.put(conversation)
        self.wakeup.ring()
        if self._abandoned:
            self.abandon()

    def close(self) -> None:
        """No more will come."""
        self._closed = True
        self.wakeup.ring()

    def abandon(self) -> None:
        """The model has ended: so do all conversations that still wait for it, and those that come."""
        self._abandoned = True
        while not self._coming.empty():
            self._coming.get().listen(Ended(PersonaplexError("The model has ended.", "Try again later.")))

    def __iter__(self) -> Generator[Conversation | None, None, None]:
        while not self._closed:
            yield None if self._coming.empty() else self._coming.get()
