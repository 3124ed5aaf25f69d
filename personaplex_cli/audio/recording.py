"""Recorded sound: any file in, 24 kHz mono inside, wav out. And a recording as the `Audio` of a conversation.

sphn decodes, soxr resamples, pyloudnorm measures loudness; what they would get wrong silently is refused here.
"""

import sys
import tempfile
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

import numpy as np
import soxr
import sphn

from personaplex_cli.audio.queue import NOTHING
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.files import atomic_file
from personaplex_cli.samples import FRAME, SAMPLE_RATE, SILENT_FRAME, Samples, frame_at, frames_for, pcm16

STDIN = "-"
VOICE_LOUDNESS = -24.0  # LUFS, to which the reference sets voice prompts
VOICE_PEAK = 0.99
MIN_VOICE_SECONDS = 0.4  # the block of BS.1770: loudness is not defined below
MAX_LATE_FRAMES = 125  # 10 s: how late an answer from a server may be
# Programs that write wav into a pipe do not know its length and put the largest number in the header.
ENDLESS = 2**29  # samples


class Recording:
    """A recording [n] as the user's side of a conversation; the agent's side is kept in `answer`.

    `tail` seconds of silence follow the recording, so that the agent can finish. The answer is aligned with the
    recording sample by sample, however late it came; while the end of it is still due, the user is silent.
    """

    def __init__(self, recording: Samples, tail: float = 0.0) -> None:
        self.heard = np.concatenate([recording, np.zeros(round(tail * SAMPLE_RATE), dtype=np.float32)])
        self._said: list[Samples] = []
        self._length = 0  # samples said

    @classmethod
    def read(cls, path: Path | str, tail: float = 0.0) -> Self:
        """From a sound file; raises what `read_recording` raises."""
        return cls(read_recording(Path(path)), tail)

    def write(self, path: Path | str) -> None:
        """The answer as a wav, which is there whole or not at all. Raises AudioError if it cannot be written."""
        with atomic_file(Path(path)) as file:
            write_wav(file, self.answer)

    def __len__(self) -> int:
        """How many frames the conversation has."""
        return frames_for(len(self.heard))

    def frames(self, wake: Callable[[], None] = lambda: None) -> Iterator[Samples]:
        """[1920] at a time, each there at once: `wake` is not called."""
        for index in range(len(self)):
            yield frame_at(self.heard, index)
        for _ in range(MAX_LATE_FRAMES):
            if self._length >= len(self.heard):
                return
            yield SILENT_FRAME

    def play(self, pcm: Samples) -> None:
        self._said.append(pcm)
        self._length += len(pcm)

    @property
    def answered(self) -> int:
        """How far the answer has come: the index of the last frame of which there is some."""
        return max(0, frames_for(self._length) - 1)

    @property
    def answer(self) -> Samples:
        """What the agent has said so far, [n], at most as long as what it heard: the rest of a frame is cut off."""
        return np.concatenate([NOTHING, *self._said])[: len(self.heard)]


def read_recording(path: Path) -> Samples:
    """A sound file of any rate and any number of channels -> [n] float32 at 24 kHz, channels mixed.

    Raises UsageError if there is no such file, AudioError if it is no sound, empty or cut short.
    """
    if not path.exists():
        raise UsageError(f"There is no file {path}.", "Check the path.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Name the recordings in it.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty.", "Record it again.")
    try:
        with path.open("rb") as file:
            is_opus = b"OpusHead" in file.read(64)
        sound, rate = sphn.read_opus(str(path)) if is_opus else sphn.read(str(path))
        promised = sphn.durations([str(path)])[0]
    except BaseException as error:  # sphn's decoders may panic, which is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        hint = "Use wav, flac, mp3, ogg, opus, aac, aiff or caf; convert others, for example with ffmpeg."
        raise AudioError(f"{path} is not a sound file that can be read.", hint) from error
    _refuse_damage(path, sound, rate, promised)
    mono = sound.mean(axis=0, dtype=np.float32)
    return np.asarray(soxr.resample(mono, rate, SAMPLE_RATE), dtype=np.float32)


def read_voice_sample(path: Path) -> Samples:
    """A sample of speech as the model wants voices: 24 kHz mono at -24 LUFS, peaks at most 0.99.

    Raises AudioError if it is shorter than 0.4 s or silent, and what `read_recording` raises.
    """
    import pyloudnorm  # brings scipy.signal along, which takes a second

    sample = read_recording(path)
    if len(sample) < MIN_VOICE_SECONDS * SAMPLE_RATE:
        raise AudioError(f"The voice sample {path} is shorter than {MIN_VOICE_SECONDS} s.", "10 to 20 s are best.")
    loudness = pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(sample)
    if not np.isfinite(loudness):
        raise AudioError(f"The voice sample {path} is silent.", "Record 10 to 20 s of clear speech.")
    gain = min(10 ** ((VOICE_LOUDNESS - loudness) / 20), VOICE_PEAK / float(np.abs(sample).max()))
    return np.asarray(sample * gain, dtype=np.float32)


@contextmanager
def standard_input() -> Iterator[Path]:
    """What arrives on stdin, as a file for as long as the block runs. Raises UsageError if stdin is a keyboard."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("There is no sound on standard input.", "Pipe a wav into it, or name a file.")
    with tempfile.TemporaryDirectory(prefix="personaplex-") as folder:
        path = Path(folder) / "stdin"
        path.write_bytes(sys.stdin.buffer.read())
        yield path


def write_wav(file: IO[bytes], *channels: Samples) -> None:
    """16-bit wav at 24 kHz from channels [n] of equal length."""
    with wave.open(file, "wb") as out:
        out.setparams((len(channels), 2, SAMPLE_RATE, 0, "NONE", "not compressed"))
        out.writeframes(pcm16(*channels))


def _refuse_damage(path: Path, sound: Samples, rate: int, promised: float | None) -> None:
    """Decoders return what they could read; compare it with what the header says, and look at the numbers."""
    samples = sound.shape[1]
    if samples == 0:
        raise AudioError(f"{path} holds no sound.", "Record it again.")
    if promised is not None and promised * rate < ENDLESS and samples < promised * rate - FRAME:
        raise AudioError(
            f"{path} is cut short: it should last {promised:.1f} s and ends after {samples / rate:.1f} s.",
            "Copy it again, or keep what is there with `sox FILE whole.wav`.",
        )
    if not np.isfinite(sound).all():
        raise AudioError(f"{path} holds values that are not numbers.", "Export it again.")
