"""Sound for the user to hear, outside of any conversation."""

from threading import Event
from typing import Any

import numpy as np
import soxr

from personaplex_cli.audio.devices import open_speaker, quiet_portaudio
from personaplex_cli.errors import AudioError
from personaplex_cli.options import SoundCardOptions, SpeakerOptions
from personaplex_cli.samples import SAMPLE_RATE, Samples

AFTERWARDS = 0.5  # seconds of silence, in which what the device still holds is heard
PATIENCE = 5.0  # seconds more than the sound lasts, then the device is taken for dead


def play(sound: Samples, options: SpeakerOptions) -> None:
    """Play [n] samples at 24 kHz on the speaker, to their end. Raises UsageError and AudioError as `open_card` does,
    AudioError also for a device that stops.
    """
    played = Event()
    left = sound  # until the rate is known

    def call_back(heard: None, out: Any, count: int, *_: Any) -> None:
        nonlocal left
        if not len(left):
            played.set()
        block, left = left[:count], left[count:]
        out[:] = np.pad(block, (0, count - len(block)))[:, np.newaxis]

    with quiet_portaudio():
        card = open_speaker(SoundCardOptions(output_device=options.output_device), call_back)
        try:
            rate = card.speaker.rate
            left = np.pad(soxr.resample(sound, SAMPLE_RATE, rate), (0, round(AFTERWARDS * rate))).astype(np.float32)
            card.start()
            if not played.wait(len(sound) / SAMPLE_RATE + PATIENCE):
                raise AudioError(f"{card.speaker.name} has stopped.", "Choose another one: see `personaplex devices`.")
        finally:
            card.close()
