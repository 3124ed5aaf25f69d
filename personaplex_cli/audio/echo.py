"""The agent's voice in the user's microphone: removing it, and noticing it.

On loudspeakers the model hears itself and answers itself. Both take what was heard and what was played at the same
time, as two blocks of equal length at 24 kHz. No sound card here.
"""

from collections import deque
from collections.abc import Callable

import numpy as np

from personaplex_cli.errors import UsageError
from personaplex_cli.options import LiveSoundCardOptions, SoundCardOptions
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SAMPLE_RATE, Samples

# MIN_CORRELATION was measured on noise in the rhythm of speech (`babble` in tests/audio/test_echo.py): an echo alone
# reaches 0.98 at least, two unrelated voices reach 0.7 in 0.4 % of all judgements. The rest are choices.
PIECE = FRAME // 4  # samples per point of an envelope: 20 ms
WINDOW_FRAMES = round(4.0 / FRAME_SECONDS)  # that one judgement looks at
JUDGED_FRAMES = round(1.0 / FRAME_SECONDS)  # between two judgements
MAX_ECHO_DELAY = 20  # pieces: 0.4 s
SPEAKING = 10 ** (-50 / 20)  # the level, root mean square, above which the agent speaks
AUDIBLE = 10 ** (-60 / 20)  # below it an echo is taken for harmless
MIN_SPOKEN = 0.3  # how much of the window must be speech of the agent
MIN_CORRELATION = 0.7  # of the two envelopes, for an echo
JUDGEMENTS = 3  # in a row, before the user is warned

EchoCanceller = Callable[[Samples, Samples], Samples]  # heard [n], played [n] -> heard without the echo of played [n]


def echo_canceller(options: SoundCardOptions) -> EchoCanceller | None:
    """WebRTC's echo canceller for one conversation if it is asked for. It delays what is heard by 9 ms (measured).

    Raises UsageError if the package is not installed.
    """
    if not (isinstance(options, LiveSoundCardOptions) and options.echo_cancel):
        return None
    try:
        from pywebrtc_audio import AudioProcessor
    except ImportError as error:
        what = "Echo cancelling needs a package that is not installed."
        raise UsageError(what, "Run `pip install pywebrtc-audio`, or use headphones.") from error
    # Neither noise suppression nor automatic gain: a level that swings upsets the model.
    processor = AudioProcessor(sample_rate=SAMPLE_RATE, num_channels=1, echo_cancellation=True)
    return lambda heard, played: np.asarray(processor.process(heard, played), dtype=np.float32)


class BleedDetector:
    """Notices that the microphone hears the agent: both get louder and softer together while the agent speaks."""

    def __init__(self) -> None:
        self._heard: deque[Samples] = deque(maxlen=WINDOW_FRAMES)
        self._played: deque[Samples] = deque(maxlen=WINDOW_FRAMES)
        self._frames = 0
        self._echoes = 0  # judgements in a row

    def hears_itself(self, heard: Samples, played: Samples) -> bool:
        """Take one frame of each, [1920]; true as soon as it is certain, after some seconds of the agent's speech."""
        self._heard.append(_envelope(heard))
        self._played.append(_envelope(played))
        self._frames += 1
        if len(self._heard) == WINDOW_FRAMES and self._frames % JUDGED_FRAMES == 0:
            is_echo = likeness(np.concatenate(self._heard), np.concatenate(self._played)) >= MIN_CORRELATION
            self._echoes = self._echoes + 1 if is_echo else 0
        return self._echoes >= JUDGEMENTS


def likeness(heard: Samples, played: Samples) -> float:
    """How much the envelope `heard` [n] is an echo of `played` [n]: the best correlation, 0 if it cannot be known."""
    spoken = played > SPEAKING
    if np.mean(spoken) < MIN_SPOKEN or np.mean(heard[spoken]) < AUDIBLE:
        return 0.0
    return max(_correlation(heard[lag:], played[: len(played) - lag]) for lag in range(MAX_ECHO_DELAY))


def _correlation(one: Samples, other: Samples) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt(np.dot(one, one) * np.dot(other, other)))
    return float(np.dot(one, other)) / scale if scale > 0 else 0.0


def _envelope(frame: Samples) -> Samples:
    return np.asarray(np.sqrt(np.square(frame).reshape(-1, PIECE).mean(axis=1)), dtype=np.float32)
