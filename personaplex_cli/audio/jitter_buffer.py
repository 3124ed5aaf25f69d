"""What the agent says, between the model that makes 80 ms at a time and the card that plays 20 ms at a time.

A frame that comes late finds the speaker still busy with the cushion of sound before it. The cushion costs latency,
so it is as thin as the machine allows: it grows after an underrun and shrinks while there is none. Sound that piles up
behind a stall is shed again: from silence, and from speech when it is much.

A pure function of the samples put and the counts taken: no clock, no sound card, no thread here.
"""

from collections import deque
from itertools import groupby

import numpy as np

from personaplex_cli.audio.queue import NOTHING, SampleQueue
from personaplex_cli.samples import FRAME_SECONDS, Samples

# The cushion's range, its first value, its steps and the fades are those of personaplex-webrtc's playout buffer
# (moshi/rtc_session.py in github.com/camjac251/personaplex-webrtc). The rest are choices, not measurements.
THINNEST_SECONDS = 0.02
FIRST_SECONDS = 0.04
THICKEST_SECONDS = 0.12
STEP_SECONDS = 0.02  # thicker after an underrun, thinner after CLEAN_SECONDS without
CLEAN_SECONDS = 30.0
LIMIT_SECONDS = 12 * FRAME_SECONDS  # what waits beyond it is dropped
SLACK_SECONDS = 0.01  # a smaller backlog is not worth a cut
LOUD_SECONDS = 0.2  # a smaller backlog waits for silence; a larger one shortens speech, too
WATCHED_FRAMES = 12  # about a second: the backlog is the least that waited at any of these
FADE_SECONDS = 0.005
LOUD_CUT_SECONDS = 0.01  # what is cut from a frame of speech
QUIET = 10 ** (-50 / 20)  # root mean square; below it a cut is taken to be inaudible


class JitterBuffer:
    """The playback queue at the card's `rate` in hertz. The model's thread calls `put`, the sound callback `take`.

    `underruns` counts how often the sound ran dry, `shed` how many samples were cut from a backlog, `dropped` how
    many were lost beyond the limit. Nothing waits and nothing is locked: see SampleQueue. Each attribute is written
    by one of the two threads.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._queue = SampleQueue(self._samples(LIMIT_SECONDS))
        self._fade = np.linspace(0.0, 1.0, self._samples(FADE_SECONDS), dtype=np.float32)
        self.underruns = 0
        self.shed = 0
        self.depth = 0  # samples that the last frame found waiting before it
        self.thickness = self._samples(FIRST_SECONDS)  # samples
        self._backlog: deque[int] = deque(maxlen=WATCHED_FRAMES)
        self._playing = False
        self._owed = self.thickness  # samples of silence before sound begins, counted while sound waits
        self._clean = 0  # samples played since the last change of thickness
        self._risen = 0  # samples of the fade-in that were played
        self._last = np.zeros_like(self._fade)  # the sound played last
        self._echo = NOTHING  # what softens the end of the sound: its last samples backwards, fading

    @property
    def dropped(self) -> int:
        return self._queue.dropped

    def put(self, sound: Samples) -> None:
        """Append what the agent says, [n]; never waits. Some of it is left out while there is a backlog."""
        self.depth = len(self._queue)
        self._backlog.append(self.depth)
        excess = min(self._backlog) - self.thickness
        if excess > self._samples(SLACK_SECONDS):
            shorter = shorten(sound, excess, self._rate, loud=excess > self._samples(LOUD_SECONDS))
            cut = len(sound) - len(shorter)
            self._backlog = deque((depth - cut for depth in self._backlog), maxlen=WATCHED_FRAMES)
            self.shed += cut
            sound = shorter
        self._queue.put(sound)

    def take(self, count: int) -> Samples:
        """The next `count` samples to play, [count]: sound, and silence where there is none."""
        before = self._silence(self._silent(count))
        sound = self._sound(count - len(before))
        after = self._silence(count - len(before) - len(sound))
        return np.concatenate([before, sound, after])

    def _samples(self, seconds: float) -> int:
        return round(seconds * self._rate)

    def _silent(self, count: int) -> int:
        """How many of the next `count` samples belong to the silence before the sound begins (again)."""
        if self._playing or not count:
            return 0
        if not len(self._queue):
            return count
        silent = min(count, self._owed)
        self._owed -= silent
        return silent

    def _sound(self, count: int) -> Samples:
        """Up to `count` samples of sound, faded in where it was interrupted."""
        if not count:
            return NOTHING
        dropped = self._queue.dropped
        sound = self._queue.take(count)
        if self._queue.dropped > dropped:
            self._interrupt()
        self._soften(sound)
        self._playing = True
        self._clean += count
        if len(sound) < count:
            self.underruns += 1
            self._owed = self._adjust(STEP_SECONDS)  # the gap lasts a little longer than it had to
            self._interrupt()
            self._playing = False
        elif self._clean >= self._samples(CLEAN_SECONDS):
            self._adjust(-STEP_SECONDS)  # the backlog that this leaves is shed like any other
        return sound

    def _silence(self, count: int) -> Samples:
        silence = np.zeros(count, dtype=np.float32)
        softened = min(count, len(self._echo))
        silence[:softened] = self._echo[:softened]
        self._echo = self._echo[softened:]
        return silence

    def _adjust(self, seconds: float) -> int:
        """Change the thickness within its range; returns the samples by which it grew."""
        before, least, most = self.thickness, self._samples(THINNEST_SECONDS), self._samples(THICKEST_SECONDS)
        self.thickness = min(max(before + self._samples(seconds), least), most)
        self._clean = 0
        return self.thickness - before

    def _interrupt(self) -> None:
        """The sound goes on backwards for a moment while it fades: no step, and no sound that was not there."""
        self._echo = self._last[::-1] * self._fade[::-1]
        self._risen = 0

    def _soften(self, sound: Samples) -> None:
        """Fade in sound that was interrupted, over what is left of the sound before."""
        rising = self._fade[self._risen :][: len(sound)]
        sound[: len(rising)] *= rising
        self._risen += len(rising)
        fading, self._echo = self._echo[: len(sound)], self._echo[len(sound) :]
        sound[: len(fading)] += fading
        self._last = np.concatenate([self._last, sound])[-len(self._fade) :]


def shorten(sound: Samples, most: int, rate: int, loud: bool = False) -> Samples:
    """`sound` [n] without one stretch of up to `most` samples, its ends cross-faded over 5 ms.

    The stretch is the longest one that is quiet. Without one, and if it may be `loud`, it is the quietest 10 ms.
    """
    fade = round(FADE_SECONDS * rate)
    pieces = len(sound) // fade
    power = np.square(sound[: pieces * fade]).reshape(pieces, fade).mean(axis=1)
    runs = (list(run) for quiet, run in groupby(range(pieces), (power < QUIET**2).__getitem__) if quiet)
    longest = max(runs, key=len, default=[0])
    start, cut = longest[0], min(most, (len(longest) - 1) * fade)
    if cut <= 0 and loud:
        length = round(LOUD_CUT_SECONDS / FADE_SECONDS)
        if pieces > length:
            start = int(np.argmin(np.convolve(power, np.ones(length + 1), "valid")))
            cut = min(most, length * fade)
    if cut <= 0:
        return sound
    begin, end = start * fade, start * fade + cut
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    joint = sound[begin : begin + fade] * (1 - ramp) + sound[end : end + fade] * ramp
    return np.concatenate([sound[:begin], joint, sound[end + fade :]])
