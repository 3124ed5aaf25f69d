"""Sound of 16-bit samples at any rate, as one stream that may be cut anywhere, also within a sample."""

from personaplex_cli.audio.resample import Resampler
from personaplex_cli.samples import SAMPLE_RATE, Samples, from_pcm16, pcm16


class PcmReader:
    """One stream of little-endian samples at `rate` hertz; returns it as sound at 24 kHz."""

    def __init__(self, rate: int) -> None:
        self._half = b""  # the first byte of a sample
        self._resample = Resampler(rate, SAMPLE_RATE)

    def read(self, pcm: bytes) -> Samples:
        pcm = self._half + pcm
        whole = len(pcm) // 2 * 2
        self._half = pcm[whole:]
        return self._resample(from_pcm16(pcm[:whole]))


class PcmWriter:
    """One stream of sound at 24 kHz; returns it as such samples."""

    def __init__(self, rate: int) -> None:
        self._resample = Resampler(SAMPLE_RATE, rate)

    def write(self, pcm: Samples) -> bytes:
        return pcm16(self._resample(pcm))
