"""The agent's voice in the user's microphone: removing it, and noticing it.

On loudspeakers the model hears itself and answers itself. Both classes take what was heard and what was played at the
same time, as two blocks of equal length at 24 kHz. They know nothing of sound cards.
"""

from collections import deque
from typing import Any

import numpy as np

from personaplex_cli.errors import UsageError
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SAMPLE_RATE, Samples

PIECE = FRAME // 4  # samples per point of an envelope: 20 ms
REMEMBERED_FRAMES = round(4.0 / FRAME_SECONDS)
JUDGED_FRAMES = round(1.0 / FRAME_SECONDS)  # between two judgements
SLOWEST_ECHO = 20  # pieces: an echo comes back within 0.4 s
SPEAKING = 10 ** (-50 / 20)  # the level, root mean square, above which the agent speaks
AUDIBLE = 10 ** (-60 / 20)  # an echo below it does not disturb the model
SPOKEN_PART = 0.3  # of what is remembered must be speech of the agent
ALIKE = 0.7  # correlation of the two envelopes from which on it is an echo
JUDGEMENTS = 3  # in a row, before it is said


class EchoCanceller:
    """WebRTC's echo canceller. It delays what is heard by 9 ms.

    Raises UsageError if the package is not installed.
    """

    def __init__(self) -> None:
        try:
            from pywebrtc_audio import AudioProcessor
        except ImportError as error:
            raise UsageError(
                "Echo cancelling needs a package that is not installed.",
                "Run `pip install pywebrtc-audio`, or use headphones.",
            ) from error
        # Neither noise suppression nor automatic gain: a level that swings upsets the model.
        self._processor: Any = AudioProcessor(sample_rate=SAMPLE_RATE, num_channels=1, echo_cancellation=True)

    def clean(self, heard: Samples, played: Samples) -> Samples:
        """What was heard [n] without what of it was `played` [n]."""
        return np.asarray(self._processor.process(heard, played), dtype=np.float32)


class BleedDetector:
    """Notices that the microphone hears the agent: both get louder and softer together while the agent speaks."""

    def __init__(self) -> None:
        self._heard: deque[Samples] = deque(maxlen=REMEMBERED_FRAMES)
        self._played: deque[Samples] = deque(maxlen=REMEMBERED_FRAMES)
        self._frames = 0
        self._alike = 0

    def hears_itself(self, heard: Samples, played: Samples) -> bool:
        """Take one frame of each, [1920]; True when it is certain, after some seconds of the agent's speech."""
        self._heard.append(_envelope(heard))
        self._played.append(_envelope(played))
        self._frames += 1
        if len(self._heard) == REMEMBERED_FRAMES and self._frames % JUDGED_FRAMES == 0:
            alike = likeness(np.concatenate(self._heard), np.concatenate(self._played)) >= ALIKE
            self._alike = self._alike + 1 if alike else 0
        return self._alike >= JUDGEMENTS


def likeness(heard: Samples, played: Samples) -> float:
    """How much the envelope `heard` [n] is an echo of `played` [n]: the best correlation, 0 if there is no telling."""
    spoken = played > SPEAKING
    if np.mean(spoken) < SPOKEN_PART or np.mean(heard[spoken]) < AUDIBLE:
        return 0.0
    return max(_correlation(heard[lag:], played[: len(played) - lag]) for lag in range(SLOWEST_ECHO))


def _correlation(one: Samples, other: Samples) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt(np.dot(one, one) * np.dot(other, other)))
    return float(np.dot(one, other)) / scale if scale > 0 else 0.0


def _envelope(frame: Samples) -> Samples:
    return np.asarray(np.sqrt(np.square(frame).reshape(-1, PIECE).mean(axis=1)), dtype=np.float32)
