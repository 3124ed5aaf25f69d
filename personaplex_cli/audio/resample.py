"""From one sample rate to another: whole recordings, and while the sound is still coming, with next to no delay.

libsamplerate's stream keeps 2 ms of sound inside. soxr's, which reads our recordings, keeps up to 39 ms at each end of
the conversation (both measured with blocks of 20 ms between 24 and 48 kHz).
"""

import numpy as np
import samplerate
import soxr

from personaplex_cli.samples import Samples

QUALITY = "sinc_medium"  # 121 dB, flat to 90 % of the lower Nyquist frequency


def resampled(sound: Samples, from_rate: int, to_rate: int) -> Samples:
    """A whole recording [n] at another rate in hertz."""
    return np.asarray(soxr.resample(sound, from_rate, to_rate), dtype=np.float32)


class Resampler:
    """Calls with successive blocks [n] of one sound return the successive blocks of it at the new rate in hertz."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self._ratio = to_rate / from_rate
        self._stream = samplerate.Resampler(QUALITY, channels=1)

    def __call__(self, block: Samples) -> Samples:
        if self._ratio == 1:
            return block
        return np.asarray(self._stream.process(block, self._ratio), dtype=np.float32)
