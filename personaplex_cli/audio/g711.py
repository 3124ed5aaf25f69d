"""Sound of telephones (ITU-T G.711): 8 kHz, a byte a sample, by mu-law (America, Japan) or A-law (elsewhere).

A code is a sign, a segment of 3 bits and a step of 4; each segment is twice as wide as the one below. Codes and levels
are those of Sun's g711.c, which Python's audioop had until 3.12.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from personaplex_cli.audio.resample import Resampler
from personaplex_cli.samples import SAMPLE_RATE, Samples

RATE = 8_000  # samples a second, and bytes
MU_BIAS, MU_MOST = 33, 8_191  # of 14 bits: with the bias, segments begin at powers of two
INVERTED_EVENLY = 0x55  # A-law's codes travel with every other bit inverted
Levels = NDArray[np.int16]
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Law:
    """Samples of 16 bits as codes and back: the `levels` [256] that codes stand for, and the codes of samples."""

    levels: Levels
    codes: Callable[[Levels], Codes]

    def decode(self, codes: bytes) -> Levels:
        return self.levels[np.frombuffer(codes, dtype=np.uint8)]

    def encode(self, samples: Levels) -> bytes:
        return self.codes(samples).tobytes()


class PhoneReader:
    """One stream of codes, cut anywhere; returns it as sound at 24 kHz."""

    def __init__(self, law: Law) -> None:
        self._law = law
        self._resample = Resampler(RATE, SAMPLE_RATE)

    def read(self, codes: bytes) -> Samples:
        """The next codes [n] -> [about 3 n] samples."""
        return self._resample(self._law.decode(codes).astype(np.float32) * np.float32(1 / 32768))


class PhoneWriter:
    """One stream of sound at 24 kHz; returns it as codes."""

    def __init__(self, law: Law) -> None:
        self._law = law
        self._resample = Resampler(SAMPLE_RATE, RATE)

    def write(self, pcm: Samples) -> bytes:
        """The next samples [n] -> [about n / 3] codes; what is beyond full scale is clipped."""
        levels = np.clip(np.round(self._resample(pcm) * 32768), -32768, 32767)
        return self._law.encode(levels.astype(np.int16))


def _mu_codes(samples: Levels) -> Codes:
    small = samples.astype(np.int32) >> 2
    size = np.minimum(np.abs(small) + MU_BIAS, MU_MOST)
    segment = _highest_bit(size) - 5
    return _code(small < 0, segment, size >> segment + 1) ^ np.uint8(0xFF)


def _mu_levels(codes: Codes) -> Levels:
    sign, segment, step = _fields(~codes)
    size = ((2 * step + MU_BIAS << segment) - MU_BIAS) * 4
    return np.where(sign, -size, size).astype(np.int16)


def _a_codes(samples: Levels) -> Codes:
    small = samples.astype(np.int32) >> 3
    size = np.where(small < 0, ~small, small)
    segment = np.maximum(_highest_bit(size) - 4, 0)
    return _code(small >= 0, segment, size >> np.maximum(segment, 1)) ^ np.uint8(INVERTED_EVENLY)


def _a_levels(codes: Codes) -> Levels:
    sign, segment, step = _fields(codes ^ np.uint8(INVERTED_EVENLY))
    middle = 16 * step + 8  # of the step
    size = np.where(segment, middle + 256 << np.maximum(segment, 1) - 1, middle)
    return np.where(sign, size, -size).astype(np.int16)


def _fields(codes: Codes) -> tuple[NDArray[np.int32], ...]:
    """The sign, segment and step of each."""
    wide = codes.astype(np.int32)
    return wide >> 7, wide >> 4 & 7, wide & 15


def _code(sign: NDArray[np.bool_], segment: NDArray[np.int32], step: NDArray[np.int32]) -> Codes:
    return (sign << 7 | segment << 4 | step & 15).astype(np.uint8)


def _highest_bit(size: NDArray[np.int32]) -> NDArray[np.int32]:
    """The exponent of the highest power of two in each; -1 for 0."""
    return np.frexp(size)[1] - 1


_ALL = np.arange(256, dtype=np.uint8)
MU_LAW = Law(_mu_levels(_ALL), _mu_codes)
A_LAW = Law(_a_levels(_ALL), _a_codes)
