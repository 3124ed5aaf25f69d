"""From the blocks that a card delivers to the frames that the model hears: one rate, one channel, 80 ms.

Played sound comes along, sample by sample beside what was heard meanwhile: echo is cancelled and noticed here, outside
of the sound callback. No thread, no clock, no card here.
"""

from collections.abc import Callable

import numpy as np

from personaplex_cli.audio.echo import BleedDetector, EchoCanceller
from personaplex_cli.audio.queue import SampleQueue
from personaplex_cli.audio.resample import Resampler
from personaplex_cli.audio.voice import OneChannel
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples

LIMIT = 8 * FRAME  # samples; the model never hears anything older
# With one stream for both directions played and heard sound come in pairs. With two, a played block may wait so long
# for what was heard meanwhile; its echo takes longer than that through the card, the air and the card again.
PAIRING = SAMPLE_RATE // 25  # samples: 40 ms
NO_SOUND_SECONDS = 4.0  # a choice, not a measurement

BLEED = "The microphone picks up the agent, which may answer itself: use headphones, or start with --echo-cancel."


class Capture:
    """Blocks in, frames out; `warn` gets what the user should know about the microphone, perhaps again and again.

    Rates are in hertz; `channel` counts from 1, None for the loudest. With a `canceller` the frames are free of what
    was played.
    """

    def __init__(
        self,
        microphone_rate: int,
        speaker_rate: int,
        canceller: EchoCanceller | None,
        warn: Callable[[str], None],
        channel: int | None = None,
    ) -> None:
        self._warn = warn
        self._canceller = canceller
        self._bleed = BleedDetector()
        self._rate = microphone_rate
        self._one_channel = OneChannel(microphone_rate, channel)
        self._heard_at_24k = Resampler(microphone_rate, SAMPLE_RATE)
        self._played_at_24k = Resampler(speaker_rate, SAMPLE_RATE)
        self._unpaired = SampleQueue(PAIRING)
        self._heard, self._played = SampleQueue(LIMIT), SampleQueue(LIMIT)  # always of equal length
        self._zeros = 0  # samples of perfect silence at the microphone's rate

    def __len__(self) -> int:
        """How many samples at 24 kHz wait to be taken."""
        return len(self._heard)

    @property
    def dropped(self) -> int:
        """How many samples at 24 kHz were not taken in time."""
        return self._heard.dropped

    @property
    def silent(self) -> bool:
        """Nothing but zeros for a while: systems that block access often deliver that, no real microphone does."""
        return self._zeros >= NO_SOUND_SECONDS * self._rate

    def put(self, heard: Samples | None, played: Samples | None) -> None:
        """Sound of the microphone [n, channels] and what was played in the meantime [m]; None from the other side."""
        if played is not None:
            self._unpaired.put(self._played_at_24k(played))
        if heard is not None:
            self._zeros = 0 if heard.any() else self._zeros + len(heard)
            sound = self._heard_at_24k(self._one_channel(heard))
            reference = self._unpaired.take(len(sound)) if len(sound) else sound
            self._heard.put(sound)
            self._played.put(np.pad(reference, (0, len(sound) - len(reference))))

    def take(self) -> Samples:
        """The next frame [1920]; there must be as many samples."""
        heard, played = self._heard.take(FRAME), self._played.take(FRAME)
        if self._canceller is not None:
            return self._canceller(heard, played)
        if self._bleed.hears_itself(heard, played):
            self._warn(BLEED)
        return heard
