"""When the user speaks, from the levels of the frames.

A model of this kind hears the words, it does not write them down: they are known only where another one does.
"""

from collections import deque
from dataclasses import dataclass

from personaplex_cli.hush import ABOVE_NOISE, SPEECH_FRAMES, SPEECH_LEVEL, speech_above
from personaplex_cli.samples import FRAME_SECONDS

YOU = "you"
# Choices, not measurements.
QUIET_FRAMES = round(0.8 / FRAME_SECONDS)  # without the user's voice, and what was said before is over
LONGEST = round(60 / FRAME_SECONDS)  # frames of a turn; then the next one begins
ROOM_FRAMES = round(40 / FRAME_SECONDS)  # in which the room is listened to: the quietest tenth of them is its noise


@dataclass(frozen=True)
class UserTurn:
    """What the user said: the words, or where nobody writes them down, how loud each frame was, in dBFS."""

    start: float
    levels: tuple[float, ...]
    text: str = ""
    speaker: str = YOU

    @property
    def seconds(self) -> float:
        return len(self.levels) * FRAME_SECONDS


class UserTurns:
    """Finds the stretches in which the user speaks, frame by frame."""

    def __init__(self) -> None:
        self._start = 0  # the frame in which the stretch began
        self._levels: list[float] = []  # of the stretch, as far as it has come
        # At first the room is taken to be quiet.
        self._recent = deque([SPEECH_LEVEL - ABOVE_NOISE] * (ROOM_FRAMES // 5), ROOM_FRAMES)
        self._quiet = 0  # frames since its last loud one

    @property
    def on(self) -> bool:
        """The user speaks: long enough for it to be no click."""
        return len(self._levels) - self._quiet >= SPEECH_FRAMES

    @property
    def start(self) -> float:
        return self._start * FRAME_SECONDS

    def add(self, frame: int, level: float) -> UserTurn | None:
        """Take the level of the next frame; returns the stretch that ends with it."""
        self._recent.append(level)
        loud = level > speech_above(self._recent)
        if not self._levels and not loud:
            return None
        if not self._levels:
            self._start = frame
        self._levels.append(level)
        self._quiet = 0 if loud else self._quiet + 1
        ends = self._quiet >= (QUIET_FRAMES if self.on else SPEECH_FRAMES) or len(self._levels) == LONGEST
        return self.end() if ends else None

    def end(self) -> UserTurn | None:
        """The stretch that goes on, which is over now; None if it was a click, or there is none."""
        levels, spoken = self._levels[: len(self._levels) - self._quiet], self.on
        self._levels, self._quiet = [], 0
        return UserTurn(round(self.start, 2), tuple(levels)) if spoken else None
