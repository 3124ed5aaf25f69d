"""The sound of one client, on its way between the thread of the network and the thread of the model.

Neither thread ever waits for the other: what the client says is kept for two seconds at most, and what the model says
is handed over at once. Knows no sockets and no model.
"""

import time
from collections.abc import Callable, Iterator

from personaplex_cli.audio.queue import SampleQueue
from personaplex_cli.samples import FRAME, FRAME_SECONDS, Samples, frame_at

MAX_UNHEARD = 25 * FRAME  # samples: two seconds; older ones are lost, so that nothing stays late
SILENCE_AFTER = 2 * FRAME_SECONDS  # without a frame from a client whose silence is filled


class ClientAudio:
    """The `Audio` of a client's conversations; `play` is given what the model says, in the model's thread."""

    def __init__(self, play: Callable[[Samples], None], fills_silence: bool = False) -> None:
        self.play = play
        self._fills_silence = fills_silence
        self._heard = SampleQueue(MAX_UNHEARD)
        self._lost = 0  # samples, before the last `clear`
        self._wake: Callable[[], None] = lambda: None

    def hear(self, sound: Samples) -> None:
        """What the client says next, [n]; the array belongs to the queue from now on."""
        if len(sound):
            self._heard.put(sound)
            if len(self._heard) >= FRAME:
                self._wake()

    def clear(self) -> None:
        """Forget what was not heard yet: another conversation begins."""
        self._lost += self._heard.dropped
        self._heard = SampleQueue(MAX_UNHEARD)

    @property
    def dropped(self) -> int:
        """Samples of the client that the model did not take in time."""
        return self._lost + self._heard.dropped

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
        self._wake = wake
        silent_at = time.monotonic() + SILENCE_AFTER
        while True:
            heard, now = self._heard, time.monotonic()
            if len(heard) >= FRAME:
                silent_at = now + SILENCE_AFTER
                yield heard.take(FRAME)
            elif self._fills_silence and now >= silent_at:
                silent_at += FRAME_SECONDS
                yield frame_at(heard.take(FRAME), 0)
            else:
                yield None
