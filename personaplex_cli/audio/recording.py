"""Recorded sound: any file in, 24 kHz mono inside, wav out. And a recording as the `Audio` of a conversation.

`decoding` reads, `voice` chooses the channel and the level, `resample` sets the rate.
"""

import io
import json
import os
import struct
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Self

import numpy as np

from personaplex_cli.audio.chunks import SIDES
from personaplex_cli.audio.decoding import decode, free_memory
from personaplex_cli.audio.queue import NOTHING
from personaplex_cli.audio.resample import resampled
from personaplex_cli.audio.voice import about_clipping, at_full_scale, one_voice
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.files import atomic_file, read_up_to
from personaplex_cli.hush import SPEECH_FRAMES, speech_above
from personaplex_cli.samples import (
    FRAME_SECONDS,
    SAMPLE_RATE,
    SILENT_FRAME,
    Samples,
    frame_at,
    frames_for,
    level,
    pcm16,
)

STDIN = "-"
LAST_SECOND = round(1 / FRAME_SECONDS)  # frames
MAX_LATE_FRAMES = 125  # 10 s: how late an answer from a server may be


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
        """From a sound file, `-` for standard input; raises what `read_recording` raises."""
        return cls(read_recording(path), tail)

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

    @property
    def ends_speaking(self) -> bool:
        """Whether the user speaks in its last second: then there is no time to answer."""
        levels = [level(frame_at(self.heard, index)) for index in range(len(self))]
        loud = np.array(levels[-LAST_SECOND:]) > speech_above(levels)
        return np.count_nonzero(loud) >= SPEECH_FRAMES

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


def read_recording(
    path: Path | str,
    channel: str | None = None,
    remark: Callable[[str], None] = lambda text: None,
    max_seconds: float | None = None,
    alone: bool = False,
) -> Samples:
    """A sound file of any rate and any number of channels -> the voice in it, [n] float32 at 24 kHz.

    `-` is standard input. `channel` is left, right or a number from 1; without it the voice is looked for. `remark`
    gets a sentence for whatever the user may not expect. Raises UsageError if there is no such file, AudioError if it
    is no sound, empty, cut short or longer than `max_seconds`, or if one voice is wanted `alone` and there are several.
    """
    voices = _voices(path, channel, remark, max_seconds, alone)
    return np.concatenate([resampled(voice, rate, SAMPLE_RATE) for voice, rate in voices])


def read_at_own_rate(path: Path | str) -> tuple[Samples, int]:
    """The same, [n] at the file's own rate, and that rate in hertz: the first one's, if it holds several sounds."""
    voices = _voices(path, None, lambda text: None, None)
    rate = voices[0][1]
    return np.concatenate([resampled(voice, its_rate, rate) for voice, its_rate in voices]), rate


def can_be_read_again(path: Path | str) -> bool:
    """False for pipes and other devices, which give what they have once."""
    if str(path) == STDIN or str(path).startswith(("/dev/", "/proc/")):
        return False
    return not os.path.exists(path) or os.path.isfile(path) or os.path.isdir(path)


def shown(path: Path | str) -> str:
    """How messages call a source: as the user named it, and with what cannot be printed as an escape."""
    name = "standard input" if str(path) == STDIN else str(path)
    return name.encode("utf-8", "backslashreplace").decode()


def write_wav(file: IO[bytes], *channels: Samples) -> None:
    """16-bit wav at 24 kHz from channels [n] of equal length; two are marked as user and agent."""
    whole = io.BytesIO()  # a pipe cannot be corrected afterwards
    with wave.open(whole, "wb") as out:
        out.setparams((len(channels), 2, SAMPLE_RATE, 0, "NONE", "not compressed"))
        out.writeframes(pcm16(*channels))
    if len(channels) == 2:
        mark_sides(whole)
    file.write(whole.getvalue())


def mark_sides(wav: IO[bytes]) -> None:
    """Say in a finished wav of ours that the user is on its left, so that a later `run` hears the user alone."""
    comment = SIDES + b"\0" * (2 - len(SIDES) % 2)
    chunk = b"INFOICMT" + struct.pack("<I", len(comment)) + comment
    size = wav.seek(0, os.SEEK_END)
    wav.write(b"LIST" + struct.pack("<I", len(chunk)) + chunk)
    wav.seek(4)
    wav.write(struct.pack("<I", min(size + len(chunk), 2**32 - 1)))
    wav.seek(0, os.SEEK_END)


def _voices(
    path: Path | str,
    channel: str | None,
    remark: Callable[[str], None],
    max_seconds: float | None,
    alone: bool = False,
) -> list[tuple[Samples, int]]:
    """The voice in each sound of a file, [n], with its rate in hertz."""
    name = shown(path)
    content = _content(path, name)
    decoded, remarks = decode(content, name, max_seconds)
    del content
    voices = []
    for sound, rate, sides in decoded:
        sound, about_level = at_full_scale(sound, name)
        voice, about_channels = one_voice(sound, rate, name, channel, sides or _is_ours(path), alone)
        voices.append((voice, rate))
        remarks += about_level + about_channels + about_clipping(voice, name)
    for each in dict.fromkeys(remarks):
        remark(each)
    return voices


def _content(path: Path | str, name: str) -> bytes:
    limit = free_memory() // 2
    if str(path) == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("There is no sound on standard input.", "Pipe a wav into it, or name a file.")
        content = read_up_to(sys.stdin.buffer, limit)
    else:
        if not os.path.lexists(path):
            raise UsageError(f"There is no file {name}.", "Check the path.")
        if os.path.isdir(path):
            raise UsageError(f"{name} is a folder.", "Name a recording in it.")
        try:
            with open(path, "rb") as file:
                content = read_up_to(file, limit)
        except OSError as error:
            raise AudioError(
                f"{name} cannot be read ({error.strerror}).", "Check the path and its permissions."
            ) from error
    if not content:
        hint = "Did the program before it in the pipe fail?" if str(path) == STDIN else "Record it again."
        raise AudioError(f"{name[:1].upper() + name[1:] if str(path) == STDIN else name} is empty.", hint)
    if len(content) >= limit:
        raise AudioError(f"{name} is larger than this machine's memory can hold.", "Cut it into parts.")
    return content


def _is_ours(path: Path | str) -> bool:
    """Whether a file beside says that it is a recording of ours: those that were cut off are not marked yet."""
    if str(path) == STDIN:
        return False
    path = Path(path)
    if path.name == "conversation.wav" and (path.parent / "transcript.json").is_file():
        return True
    try:
        about = json.loads(path.with_suffix(".json").read_bytes())
        return about["settings"]["stereo"] is True and "personaplex" in about
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
