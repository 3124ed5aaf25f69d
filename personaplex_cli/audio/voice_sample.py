"""A sample of speech as the model wants voices: mono, at -24 LUFS; and of a longer recording the best part.

Speech is told from pauses by loudness alone, in frames of 80 ms. Whether one person speaks, and whether there is music,
is not looked at: no library that does so well is light.
"""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personaplex_cli.audio.recording import read_recording, shown
from personaplex_cli.errors import AudioError
from personaplex_cli.hush import SPEECH_FRAMES, SPEECH_LEVEL
from personaplex_cli.samples import (
    FRAME_SECONDS,
    SAMPLE_RATE,
    Samples,
    frame_at,
    frames_for,
    level,
)

LOUDNESS, PEAK = -24.0, 0.99  # LUFS, to which the reference sets voice prompts; and no sample is larger
SAME = 0.001  # a gain that differs from 1 by less is the rounding of 16 bits
MIN_SECONDS = 0.4  # the block of BS.1770: loudness is not defined below
MAX_SECONDS = 60.0  # the model hears the whole sample before each conversation
MAX_RECORDING_SECONDS = 600.0  # of which a part is chosen
GOOD_SECONDS = 10.0  # of speech: less makes a voice that is less like the speaker's
LEAST_SECONDS = 3.0  # of speech: less makes no voice that is known again
LONGEST = round(20.0 / FRAME_SECONDS)  # frames
SHORTEST_CUT = round(GOOD_SECONDS / FRAME_SECONDS)  # frames, of one who speaks without a pause
MARGIN = 1  # frame, kept on both sides: words begin and end softly
PAUSE = 6  # frames on both sides of what is said: of longer pauses the rest is left out
ABOVE_NOISE = 6.0  # dB by which a frame of speech is louder than the quietest ones
LOUDEST_PAUSE = -36.0  # dBFS at the model's loudness: a recording whose quietest frames are louder has no pauses
NOISE_BLOCK = 480  # samples, 20 ms: short enough to fall between two words
QUIETEST = 2  # percent of a recording: its pauses, if it has any
NOISY = 20.0  # dB of the voice over the noise
FADE = 240  # samples, 10 ms: where speech had to be cut

Levels = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Chosen:
    """The part of a recording that makes a voice: `sound` [n] at the model's loudness, peaks at most 0.99.

    `start` and `end` are where it was, in the `whole` seconds of the recording; between them only long pauses were left
    out. `warnings` say what may make the voice worse.
    """

    sound: Samples
    start: float
    end: float
    whole: float
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """How long the part is, with what is left of its pauses."""
        return len(self.sound) / SAMPLE_RATE


def read_voice_sample(path: Path) -> Samples:
    """A sample of speech [n] at 24 kHz mono, -24 LUFS, peaks at most 0.99: all of it.

    One that is so already comes out as it is. Raises AudioError if it is shorter than 0.4 s or silent, and what
    `read_recording` raises.
    """
    return _levelled(read_recording(path, max_seconds=MAX_SECONDS), shown(path))


def choose_voice_sample(path: Path | str, channel: str | None = None) -> Chosen:
    """The best 10 to 20 seconds of a recording, without the silence around them.

    Raises what `read_voice_sample` raises; AudioError for a recording of more than ten minutes, for one with less than
    three seconds of speech, and for different voices in its channels, of which none was chosen.
    """
    remarks: list[str] = []
    recording = read_recording(path, channel, remarks.append, MAX_RECORDING_SECONDS, alone=True)
    levels = _levels(recording) + LOUDNESS - _loudness(recording, shown(path))  # the same in every recording
    speech = levels > _speech_above(levels)
    near = _near(_phrases(speech), len(levels))
    levels, speech = levels[near], speech[near]
    first, last = _best(_phrases(speech), levels, speech)
    spoken = FRAME_SECONDS * float(speech[first:last].sum())
    if spoken < LEAST_SECONDS:
        raise AudioError(f"Only {spoken:.1f} s of {shown(path)} is speech.", "Record 10 to 20 s of clear speech.")
    chosen = near[first:last]
    sound = _levelled(_faded(np.concatenate([frame_at(recording, index) for index in chosen])), shown(path))
    warnings = (*remarks, *_too_short(spoken), *_too_noisy(sound))
    whole = len(recording) / SAMPLE_RATE
    return Chosen(sound, FRAME_SECONDS * chosen[0], min(whole, FRAME_SECONDS * (chosen[-1] + 1)), whole, warnings)


def _loudness(sound: Samples, name: str) -> float:
    """In LUFS. Raises AudioError for what has none."""
    import pyloudnorm  # brings scipy.signal along, which takes a second

    if len(sound) < MIN_SECONDS * SAMPLE_RATE:
        raise AudioError(f"The voice sample {name} is shorter than {MIN_SECONDS} s.", "10 to 20 s are best.")
    loudness = float(pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(sound))
    if not np.isfinite(loudness):
        raise AudioError(f"The voice sample {name} is silent.", "Record 10 to 20 s of clear speech.")
    return loudness


def _levelled(sound: Samples, name: str) -> Samples:
    gain = 10 ** ((LOUDNESS - _loudness(sound, name)) / 20)
    gain = min(gain, PEAK / float(np.abs(sound).max()))
    return sound if abs(gain - 1) < SAME else np.asarray(sound * gain, dtype=np.float32)


def _speech_above(levels: Levels) -> float:
    """The level of a frame in dBFS above which somebody speaks, at the model's loudness."""
    quietest = min(LOUDEST_PAUSE, float(np.percentile(levels, QUIETEST)))
    return max(SPEECH_LEVEL, quietest + ABOVE_NOISE)


def _phrases(speech: Flags) -> list[tuple[int, int]]:
    """First frame and the one after the last of all that is said in one breath. A click is no phrase.

    The whole, if there is none.
    """
    phrases: list[tuple[int, int]] = []
    at = 0
    for spoken, run in groupby(speech):
        count = len(list(run))
        if spoken and phrases and at - phrases[-1][1] < SPEECH_FRAMES:
            phrases[-1] = (phrases[-1][0], at + count)
        elif spoken:
            phrases.append((at, at + count))
        at += count
    return [each for each in phrases if speech[slice(*each)].sum() >= SPEECH_FRAMES] or [(0, len(speech))]


def _near(phrases: list[tuple[int, int]], count: int) -> NDArray[np.intp]:
    """Of so many frames those that are in a phrase or beside one."""
    near = np.zeros(count, dtype=bool)
    for first, last in phrases:
        near[max(0, first - PAUSE) : last + PAUSE] = True
    return np.flatnonzero(near)


def _best(phrases: list[tuple[int, int]], levels: Levels, speech: Flags) -> tuple[int, int]:
    """Whole phrases, at most 20 s, with the most speech: the first frame, and the one after the last.

    Of one who speaks for longer without a pause: up to the quietest frame.
    """
    room = LONGEST - 2 * MARGIN
    candidates = []
    for first, own_end in phrases:
        last = max((end for _, end in phrases if first < end <= first + room), default=own_end)
        if last - first > room:
            last = first + SHORTEST_CUT + int(levels[first + SHORTEST_CUT : first + room].argmin())
        candidates.append((first, last))
    first, last = max(candidates, key=lambda each: speech[slice(*each)].sum())
    return max(0, first - MARGIN), min(len(levels), last + MARGIN)


def _levels(sound: Samples) -> Levels:
    """Of each frame, in dBFS."""
    return np.array([level(frame_at(sound, index)) for index in range(frames_for(len(sound)))])


def _faded(sound: Samples) -> Samples:
    ramp = np.minimum(1.0, np.arange(1, len(sound) + 1) / FADE).astype(np.float32)
    return sound * ramp * ramp[::-1]


def _too_short(spoken: float) -> list[str]:
    if spoken >= GOOD_SECONDS:
        return []
    return [f"Only {spoken:.1f} s of it is speech; {GOOD_SECONDS:.0f} to 20 s make a closer likeness."]


def _too_noisy(sound: Samples) -> list[str]:
    """By what is heard between words; digital silence, which an editor puts there, says nothing."""
    whole = sound[: len(sound) // NOISE_BLOCK * NOISE_BLOCK].reshape(-1, NOISE_BLOCK)
    levels = [level(each) for each in whole if each.any()]
    above = LOUDNESS - float(np.percentile(levels, QUIETEST))
    if above >= NOISY:
        return []
    return [f"The voice is only {above:.0f} dB above the noise: a quieter room, or a nearer microphone, is better."]
