"""Where somebody speaks in a recording: Silero's voice activity detector with its own settings, as in the benchmark.

Of the extra `eval`; it is imported, and its model read, when speech is looked for first.
"""

from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from personaplex_cli.audio.resample import resampled
from personaplex_cli.evaluation.intervals import Interval
from personaplex_cli.samples import Samples

RATE = 16_000  # hertz, of the detector


def can_be_found() -> bool:
    """Whether the detector is installed."""
    return find_spec("silero_vad") is not None


def version() -> str | None:
    """The detector's, if it is installed."""
    return metadata.version("silero-vad") if can_be_found() else None


def speech(sound: Samples, rate: int) -> list[Interval]:
    """The stretches of speech in `sound` [n] at `rate` hertz, in seconds."""
    found = _found(resampled(sound, rate, RATE), sampling_rate=RATE)
    return [(start / RATE, end / RATE) for start, end in found]


def speech_as_by_the_script(sound: Samples) -> list[Interval]:
    """The same as the benchmark's script for backchannels finds it: whatever the rate is, it takes it for 16 kHz.

    The times of a recording at 24 kHz are half as long again, and the voice is as slow. They are rounded to tenths.
    """
    return _found(sound, return_seconds=True)


def _found(sound: Samples, **options: Any) -> list[Interval]:
    """What the detector finds. On one thread, which is quickest for its small steps; importing it sets that, too."""
    import torch

    threads = torch.get_num_threads()
    try:
        model, timestamps = _detector()
        torch.set_num_threads(1)
        return [(each["start"], each["end"]) for each in timestamps(sound, model, **options)]
    finally:
        torch.set_num_threads(threads)


@cache
def _detector() -> tuple[Any, Any]:
    """The model, and the function that asks it."""
    from silero_vad import get_speech_timestamps, load_silero_vad

    return load_silero_vad(), get_speech_timestamps
