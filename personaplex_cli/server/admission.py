"""Who may talk, who waits, who is refused, and the conversations on their way to the model."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

from personaplex_cli.conversation import Conversation, Wakeup
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Ended
from personaplex_cli.server.rounds import RoundTimes

MAX_PLACES = 128  # that talk or wait; fewer than the connections of one address, so that /health is answered
JOIN_SECONDS = 1.0  # between two who begin to talk: what the last one costs must be seen before the next one joins
LOOK_SECONDS = 0.25  # between two looks of those who wait at the time that rounds take


@dataclass(frozen=True)
class Refusal:
    """Why somebody is not let in: in a word for programs, and in sentences."""

    reason: str
    what: str
    hint: str = "Try again in a moment."


LOADING = Refusal("loading", "The model is still loading.")
SHUTDOWN = Refusal("shutdown", "The server shuts down.")
BUSY = Refusal("busy", "All places are taken.")
SLOW = Refusal("slow", "The model has all it can do: with one more, everybody's answers would come late.")
GREEDY = Refusal(
    "address", "Your address has its share of the conversations.", "Others shall find a place, too: end one of yours."
)


class Admission:
    """As many talk as the model has `slots`, and as it is quick enough for; `queue` more may wait.

    One address may hold half of the slots (rounded up), waiting or talking, where there are several. Lives on the event
    loop; `changed` is called whenever somebody comes, begins to talk or leaves.
    """

    def __init__(
        self,
        queue: int,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = 1  # until the model is loaded and says how many
        self.closed: Refusal | None = None  # to all who come
        self.times = RoundTimes()
        self.places: list[Place] = []  # in the order of their coming: the first ones talk
        self.changed = changed
        self._queue = queue
        self._clock = clock
        self._joined_at = -JOIN_SECONDS

    @property
    def talking(self) -> int:
        return sum(place.talks for place in self.places)

    @property
    def waiting(self) -> int:
        return len(self.places) - self.talking

    @property
    def room(self) -> int:
        """How many may talk: all slots, or no more than do."""
        talking = self.talking
        return self.slots if not self.closed and self.times.may_admit(talking) else talking

    def refusal(self, address: str = "") -> Refusal | None:
        """Why one more, from an address that counts as one client (empty: as many), would not be let in now."""
        if self.closed:
            return self.closed
        staying = [place for place in self.places if not place.going]
        if len(self.places) >= MAX_PLACES or len(staying) >= self.room + self._queue:
            return SLOW if self.room < self.slots and len(self.places) < MAX_PLACES else BUSY
        share = (self.slots + 1) // 2 if self.slots > 1 else MAX_PLACES
        if address and sum(place.address == address for place in staying) >= share:
            return GREEDY
        return None

    def enter(self, address: str = "") -> "Place | Refusal":
        """A place, at the end."""
        if refusal := self.refusal(address):
            return refusal
        self.places.append(place := Place(self, address))
        self.changed()
        return place

    def seat(self, place: "Place") -> bool:
        """Let this one talk if it is the next and there is room for it; returns whether it talks."""
        talking = self.talking
        if place.talks:
            return True
        if self.places[talking] is not place or talking >= self.room:
            return False
        if talking and self._clock() < self._joined_at + JOIN_SECONDS:
            return False
        place.talks, self._joined_at = True, self._clock()
        self.changed()
        return True


class Place:
    """One client's place. `going` once the client has left, but the model does not know yet: then there is room for the
    next one, who would otherwise be refused for a few milliseconds."""

    def __init__(self, admission: Admission, address: str = "") -> None:
        self.address = address
        self.talks = False
        self.going = False
        self.moved = asyncio.Event()
        self._admission = admission

    @property
    def among(self) -> int:
        """How many may talk at once."""
        return self._admission.slots

    async def positions(self) -> AsyncIterator[int]:
        """The position in the queue (1: next), whenever it changes, until this one may talk."""
        known = 0
        while not self._admission.seat(self):
            index = self._admission.places.index(self)
            before = sum(not place.going for place in self._admission.places[:index])
            position = before - self._admission.room + 1
            if position > 0 and position != known:  # else its turn comes at once
                yield (known := position)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.moved.wait()
            self.moved.clear()

    def leave(self) -> None:
        """Let the next one come; twice does no harm."""
        if self in self._admission.places:
            self._admission.places.remove(self)
            for each in self._admission.places:
                each.moved.set()
            self._admission.changed()


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
