"""The speaker for who only listens to a talk, and the pace at which a talk goes by."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import monotonic
from typing import Any, Self

import numpy as np

from personaplex_cli.audio.devices import OpenCard, open_speaker, quiet_portaudio
from personaplex_cli.audio.jitter_buffer import JitterBuffer
from personaplex_cli.audio.resample import Resampler
from personaplex_cli.errors import AudioError
from personaplex_cli.events import Listener, Note
from personaplex_cli.options import SoundCardOptions, SpeakerOptions
from personaplex_cli.samples import FRAME_SECONDS, SAMPLE_RATE, Samples

MAX_LATE = 0.5  # seconds that a talk may catch up, after a program was stopped for a while


class Speaker:
    """Plays what it is given, once it is open. A machine without a speaker is silent: the listener gets a Note."""

    def __init__(self, options: SpeakerOptions, listen: Listener) -> None:
        self._options = SoundCardOptions(output_device=options.output_device)
        self._listen = listen
        self._open = ExitStack()
        self._card: OpenCard | None = None

    def open(self) -> None:
        """Raises UsageError for a device that does not exist; a second time does nothing."""
        if self._card:
            return
        try:
            self._open.enter_context(quiet_portaudio())
            card = open_speaker(self._options, self._call_back)
            self._open.callback(card.close)
            self._buffer = JitterBuffer(card.speaker.rate)
            self._outward = Resampler(SAMPLE_RATE, card.speaker.rate)
            card.start()
            self._card = card
        except AudioError as error:
            self._open.close()
            self._listen(Note(f"The talk is shown without sound: {error}"))

    def play(self, *voices: Samples) -> None:
        """Play voices [n] at 24 kHz, all together. Never waits."""
        if self._card:
            self._buffer.put(self._outward(np.clip(np.sum(voices, axis=0, dtype=np.float32), -1.0, 1.0)))

    def close(self) -> None:
        self._card = None
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call_back(self, heard: None, to_play: Any, count: int, *_: Any) -> None:
        to_play[:] = self._buffer.take(count)[:, np.newaxis]


def ticks(clock: Callable[[], float] = monotonic) -> Iterator[bool]:
    """Whether the next frame is due, each time that it is asked: once in 80 ms by the clock, at once the first time."""
    due = clock()
    while True:
        now = clock()
        if now >= due:
            due = max(due, now - MAX_LATE) + FRAME_SECONDS
            yield True
        else:
            yield False
