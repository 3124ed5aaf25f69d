"""The user's words, written down while the talk goes on, or after it where the machine is too slow for that.

The sound is cut where the user pauses, and each stretch goes to a `Recogniser`, which has a process of its own. Nothing
waits for it here. Its words come as `UserWords` with a later frame, in the thread that reports the frames.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol

import numpy as np

from personaplex_cli.conversation import Audio
from personaplex_cli.events import Began, Event, Listener, Note, Step, Transcribing, UserWords, ignore
from personaplex_cli.hush import SPEECH_LEVEL, speech_above
from personaplex_cli.recogniser import open_recogniser
from personaplex_cli.samples import FRAME_SECONDS, Samples
from personaplex_cli.transcript import Word

# Choices, not measurements.
SOFT = 6.0  # dB below what is speech elsewhere: a word that ends softly is one, and the recogniser knows what is none
PAUSE_FRAMES = round(0.8 / FRAME_SECONDS)  # without a voice end a stretch
LEAD_FRAMES = round(0.4 / FRAME_SECONDS)  # before the first loud one: words may begin softly
LONGEST = round(28 / FRAME_SECONDS)  # frames of a stretch: Whisper hears 30 s at once
CUT_FRAMES = round(5 / FRAME_SECONDS)  # at the end of one that is too long: it is cut at their quietest
ROOM_FRAMES = round(40 / FRAME_SECONDS)  # in which the room is listened to
LATE_FRAMES = round(60 / FRAME_SECONDS)  # that wait to be written down: the machine is too slow

Stretch = tuple[int, list[Samples]]  # the number of its first frame, and its frames


class Ears(Protocol):
    """What the transcriber needs of a `Recogniser`."""

    name: str

    def submit(self, sound: list[Samples]) -> "Future[list[Word]]": ...


class Stretches:
    """Cuts what is heard, frame by frame, into stretches with a voice. Frames that are not in one have none."""

    def __init__(self) -> None:
        self._frames: list[Samples] = []  # of the stretch; while there is no voice, those that may lead to one
        self._levels: list[float] = []
        self._next = 0  # the number of the next frame
        self._quiet = 0  # frames since the last loud one
        self._speaks = False
        self._room = deque([SPEECH_LEVEL - 12] * (ROOM_FRAMES // 5), ROOM_FRAMES)  # at first it is taken to be quiet

    def add(self, heard: Samples, level: float) -> Stretch | None:
        """Take the next frame; returns the stretch that ends with it."""
        self._room.append(level)
        loud = level > speech_above(self._room) - SOFT
        self._frames.append(heard)
        self._levels.append(level)
        self._next += 1
        self._quiet = 0 if loud else self._quiet + 1
        self._speaks |= loud
        if not self._speaks:
            del self._frames[:-LEAD_FRAMES], self._levels[:-LEAD_FRAMES]
        elif self._quiet == PAUSE_FRAMES:
            return self.end()
        elif len(self._frames) == LONGEST:
            return self._cut(LONGEST - CUT_FRAMES + int(np.argmin(self._levels[-CUT_FRAMES:])) + 1)
        return None

    def end(self) -> Stretch | None:
        """The stretch that goes on, which is over now; None if there is no voice."""
        stretch = self._cut(len(self._frames)) if self._speaks else None
        self._speaks = False
        return stretch

    def _cut(self, frames: int) -> Stretch:
        start = self._next - len(self._frames)
        stretch, self._frames, self._levels = self._frames[:frames], self._frames[frames:], self._levels[frames:]
        return start, stretch


class Transcriber:
    """An Audio that lets sound through and has the user's words written down. `hear` its conversation's events, and
    `close` it: that waits for the last words, unless somebody calls `abandon`.

    `listen` gets `UserWords`, from `hear` and `close`. If nothing more can be written down it gets a Note; the talk
    goes on.
    """

    def __init__(self, audio: Audio, ears: Ears, listen: Listener) -> None:
        self._audio = audio
        self._ears: Ears | None = ears  # None: it has failed
        self._listen = listen
        self._heard: Samples = np.empty(0, dtype=np.float32)
        self._stretches = Stretches()
        self._frames = 0  # of all conversations
        self._before = 0  # of them when this one began
        self._began = False
        self._told_late = False
        self._asked: dict[Future[list[Word]], tuple[int, int]] = {}  # first frame and length of what is not known yet
        self._known: SimpleQueue[Future[list[Word]] | None] = SimpleQueue()  # None: no one wants the rest

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
        return self._through(self._audio.frames(wake))  # called now: it may open a sound card, or fail to

    def _through(self, frames: Iterator[Samples | None]) -> Iterator[Samples | None]:
        for heard in frames:
            if heard is not None:
                self._heard = heard
            yield heard

    def play(self, pcm: Samples) -> None:
        self._audio.play(pcm)

    def hear(self, event: Event) -> None:
        """Take what happens in the conversation."""
        match event:
            case Began():
                self._begin()
            case Step(heard=level):
                self._frames += 1
                self._ask(self._stretches.add(self._heard, level))
                with suppress(Empty):
                    while self._tell(self._known.get_nowait()):
                        pass

    def close(self) -> None:
        """Wait for what was said last."""
        self._ask(self._stretches.end())
        while self._asked and self._tell(self._known.get()):
            pass
        for words in self._asked:
            words.cancel()

    def abandon(self) -> None:
        """Have `close` wait no longer; from any thread."""
        self._known.put(None)

    @property
    def seconds_left(self) -> float:
        """Of sound that is not written down yet."""
        return sum(length for _, length in list(self._asked.values())) * FRAME_SECONDS

    def _begin(self) -> None:
        self._ask(self._stretches.end())
        self._before = self._frames
        if not self._began and self._ears:
            self._listen(Transcribing(self._ears.name))
        self._began = True

    def _ask(self, stretch: Stretch | None) -> None:
        if not (stretch and self._ears):
            return
        start, sound = stretch
        words = self._ears.submit(sound)
        self._asked[words] = start, len(sound)
        words.add_done_callback(self._known.put)
        if not self._told_late and self.seconds_left > LATE_FRAMES * FRAME_SECONDS:
            self._told_late = True
            self._listen(Note("Your words are written down late, the last ones after the talk: this machine is slow."))

    def _tell(self, words: "Future[list[Word]] | None") -> bool:
        """Tell words that are known now; False if the rest is not wanted."""
        if words is None:
            return False
        start, _ = self._asked.pop(words)
        if error := words.exception():
            self._fail(error)
            return True
        for word in words.result():
            first, after = (start + frame - self._before for frame in word.frames)
            self._listen(UserWords(f" {word.word}", first, after))
        return True

    def _fail(self, error: BaseException) -> None:
        if self._ears:
            self._ears = None
            self._listen(Transcribing(""))
            self._listen(Note(f"Your words are not written down any more: {error}"))


def transcribe(sound: Samples, model: str, listen: Listener = ignore) -> list[Word]:
    """The words of a whole sound, [n] at 24 kHz, by the model of this name. For many sounds, open a recogniser once.

    Raises UsageError without the library, ModelError or NetworkError without the model.
    """
    with open_recogniser(model, listen) as recogniser:
        return recogniser.transcribe(sound)
