"""When the user speaks, by levels; and silence on demand: the agent is silent until the user speaks again.

Counts frames; knows no model and no network.
"""

from collections.abc import Collection

from personaplex_cli.samples import Samples, level

# Choices, not measurements.
MAX_FRAMES = 150  # 12 s of silence on demand
SPEECH_LEVEL = -45.0  # dBFS; a frame above it is taken for speech
SPEECH_FRAMES = 3  # in a row: 0.24 s, so that a click does not end the silence
ABOVE_NOISE = 12.0  # dB by which speech is louder than the room
LOUDEST_NOISE = -32.0  # dBFS: no room is taken to be louder


def speech_above(levels: Collection[float]) -> float:
    """The level in dBFS above which a frame is speech, where these have been heard: the quietest tenth is the room."""
    noise = min(LOUDEST_NOISE, sorted(levels)[len(levels) // 10])
    return max(SPEECH_LEVEL, noise + ABOVE_NOISE)


class Hush:
    """`begin` it, then ask each frame whether it `holds`."""

    def __init__(self) -> None:
        self.left = 0  # frames for which the agent must still keep silent
        self._spoken = 0  # frames in a row in which the user spoke into that silence

    def begin(self) -> None:
        self.left, self._spoken = MAX_FRAMES, 0

    @property
    def on(self) -> bool:
        return self.left > 0

    def holds(self, heard: Samples) -> bool:
        """Whether the agent keeps silent in the frame in which this was heard, [1920]."""
        if self.left == 0:
            return False
        self._spoken = self._spoken + 1 if level(heard) > SPEECH_LEVEL else 0
        self.left = 0 if self._spoken >= SPEECH_FRAMES else self.left - 1
        return self.on
