"""One client's conversation, on its way between the thread of the network and the thread of the model.

It is the `Audio` of that conversation. Neither thread ever waits for the other's work: what the client says is kept for
two seconds and no longer, and what the model says is handed over at once. Knows no sockets and no model.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from personaplex_cli.audio.queue import SampleQueue
from personaplex_cli.events import Event
from personaplex_cli.lookup import Character
from personaplex_cli.samples import FRAME, Samples

LIMIT = 25 * FRAME  # samples that wait to be heard: two seconds; older ones are lost, nothing stays late


@dataclass(frozen=True)
class Over:
    """The model is done with this conversation; `error` is what ended it, if it was not the client."""

    error: Exception | None


News = Event | Samples | Over


class ClientAudio:
    """`tell` takes what comes from the model, in the model's thread, and must not wait."""

    def __init__(self, tell: Callable[[News], None]) -> None:
        self.tell = tell
        self._changed = threading.Condition()
        self._heard = SampleQueue(LIMIT)
        self._lost = 0  # samples, before the last `begin`
        self._asked: Character | None = None
        self._hush = False
        self._closed = False

    # The thread of the network.

    def begin(self, character: Character) -> None:
        """Begin the conversation, or begin another one in its place, without what was still to be heard."""
        with self._changed:
            self._asked = character
            self._changed.notify()

    def hear(self, sound: Samples) -> None:
        """What the client says next, [n] at 24 kHz; the array belongs to the line from now on."""
        if len(sound):
            self._heard.put(sound)
            with self._changed:
                self._changed.notify()

    def hush(self) -> None:
        """Make the agent stop talking."""
        self._hush = True

    def hang_up(self) -> None:
        """End it."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def dropped(self) -> int:
        """Samples of the client that the model did not take in time."""
        return self._lost + self._heard.dropped

    # The thread of the model.

    def characters(self) -> Iterator[Character]:
        """Who shall speak: one for each conversation to hold, until the client has hung up."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._asked)
                if self._closed or self._asked is None:
                    return
                character, self._asked = self._asked, None
                self._lost += self._heard.dropped
                self._heard = SampleQueue(LIMIT)
            yield character

    def frames(self) -> Iterator[Samples]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._asked or len(self._heard) >= FRAME)
                if self._closed or self._asked:
                    return
            yield self._heard.take(FRAME)

    def play(self, pcm: Samples) -> None:
        self.tell(pcm)

    def hush_wanted(self) -> bool:
        """Whether `hush` was called since the last time."""
        wanted, self._hush = self._hush, False
        return wanted
