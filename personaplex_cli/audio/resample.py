"""From one sample rate to another while the sound is still coming, with next to no delay.

soxr's streams are better filters than a conversation needs, and keep up to 39 ms of sound inside, at each end. This
one keeps 32 samples of the lower rate, 1.3 ms: flat to 0.83 of the lower Nyquist frequency, 80 dB down beyond it.
"""

from math import ceil, gcd

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from personaplex_cli.samples import Samples

REACH = 32  # samples of the lower rate that a filter looks to each side
CUTOFF = 0.92  # of the lower Nyquist frequency, where the filter has fallen by 6 dB
KAISER_BETA = 7.86  # 80 dB


class Resampler:
    """Calls with successive blocks [n] of one sound return the successive blocks of it at the new rate.

    Together they do not depend on how the sound was cut into blocks; n samples give ceil(n * to_rate / from_rate).
    Rates are whole numbers of hertz.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        common = gcd(from_rate, to_rate)
        self._up, self._down = to_rate // common, from_rate // common
        self._filters = _polyphase(self._up, min(1.0, to_rate / from_rate))
        self._heard: Samples = np.zeros(self._filters.shape[1] - 1, dtype=np.float32)  # what later output still needs
        self._next = 0  # where the window of the next output begins in it, in parts of a sample (1 / up)

    def __call__(self, block: Samples) -> Samples:
        if self._up == self._down:
            return block
        sound = np.concatenate([self._heard, block])
        taps = self._filters.shape[1]
        windows = sliding_window_view(sound, taps) if len(sound) >= taps else np.empty((0, taps), dtype=np.float32)
        begins = np.arange(self._next, len(windows) * self._up, self._down)
        used = self._next + len(begins) * self._down
        gone = min(used // self._up, len(sound))
        self._heard, self._next = sound[gone:], used - gone * self._up
        output: Samples = np.einsum("nk,nk->n", windows[begins // self._up], self._filters[begins % self._up])
        return output


def _polyphase(up: int, ratio: float) -> Samples:
    """The filters [up, taps]: row p weighs a window of samples for the output p / up after its middle."""
    half = ceil(REACH / ratio)
    distance = np.arange(2 * half) - (half - 1) - np.arange(up)[:, np.newaxis] / up
    window = np.i0(KAISER_BETA * np.sqrt(np.clip(1 - (distance / half) ** 2, 0, None)))
    filters = np.sinc(CUTOFF * ratio * distance) * window
    return np.asarray(filters / filters.sum(axis=1, keepdims=True), dtype=np.float32)
