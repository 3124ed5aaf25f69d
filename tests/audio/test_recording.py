"""Recordings in: any rate, any channels, any format, and every way in which a file can be wrong."""

import io
import os
import struct
import sys
import threading
import wave
from pathlib import Path

import numpy as np
import pytest
import sphn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from personaplex_cli.audio.recording import (
    MAX_LATE_FRAMES,
    Recording,
    can_be_read_again,
    read_recording,
    write_wav,
)
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples, frame_at, frames_for, level

TONE = 440.0


def tone(seconds: float, rate: int = SAMPLE_RATE, amplitude: float = 0.3) -> Samples:
    return (amplitude * np.sin(2 * np.pi * TONE * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav(path: Path, channels: list[Samples], rate: int = SAMPLE_RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.stack(channels, axis=1) * 32767).astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_any_channels_become_24_khz_mono(rate: int, channels: int, tmp_path: Path) -> None:
    read = read_recording(wav(tmp_path / "x.wav", [tone(1.0, rate)] * channels, rate))
    assert read.dtype == np.float32 and len(read) == SAMPLE_RATE
    inner = slice(2400, -2400)  # a resampler rings at the ends
    assert np.abs(read[inner] - tone(1.0)[inner]).max() < 2e-3


def test_a_silent_channel_makes_the_other_no_quieter(tmp_path: Path) -> None:
    read = read_recording(wav(tmp_path / "x.wav", [tone(0.5), np.zeros(12000, dtype=np.float32)]))
    assert np.abs(read - tone(0.5)).max() < 1e-3


def test_ogg_opus_is_read(tmp_path: Path) -> None:
    sphn.write_opus(str(tmp_path / "x.ogg"), tone(1.0), SAMPLE_RATE)
    assert abs(len(read_recording(tmp_path / "x.ogg")) - SAMPLE_RATE) <= FRAME


def test_a_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    """Programs that write into a pipe put the largest number where the length belongs."""
    content = bytearray(wav(tmp_path / "x.wav", [tone(1.0)]).read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "x.wav").write_bytes(content)
    assert len(read_recording(tmp_path / "x.wav")) == SAMPLE_RATE


WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"hello, this is no sound", "not a sound file"),
    "page": (b"<!DOCTYPE html><html></html>", "not a sound file"),
    "header only": (b"RIFF\0\0\0\0WAVE", "not a sound file"),
    "an mp4": (b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100), "not a sound file"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_sound_is_refused(kind: str, tmp_path: Path) -> None:
    content, message = WRONG[kind]
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(AudioError, match=message) as caught:
        read_recording(tmp_path / "x.wav")
    assert "x.wav" in str(caught.value) and caught.value.hint


def test_no_file_and_a_folder_are_the_users_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        read_recording(tmp_path / "nothing.wav")
    with pytest.raises(UsageError, match="is a folder"):
        read_recording(tmp_path)


def test_a_recording_cut_short_is_told_with_both_lengths(tmp_path: Path) -> None:
    path = wav(tmp_path / "x.wav", [tone(2.0)])
    path.write_bytes(path.read_bytes()[: 44 + SAMPLE_RATE * 2])
    with pytest.raises(AudioError, match=r"should last 2\.0 s and ends after 1\.0 s"):
        read_recording(path)


def test_a_recording_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError):
        read_recording(wav(tmp_path / "x.wav", [tone(0)]))


def test_values_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    samples = tone(0.5)
    samples[100] = np.nan
    data = samples.tobytes()
    header = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt "
    header += (
        struct.pack("<IHHIIHH", 16, 3, 1, SAMPLE_RATE, SAMPLE_RATE * 4, 4, 32) + b"data" + struct.pack("<I", len(data))
    )
    (tmp_path / "x.wav").write_bytes(header + data)
    with pytest.raises(AudioError, match="not numbers"):
        read_recording(tmp_path / "x.wav")


class TestRecordedAudio:
    @given(st.integers(0, 5 * FRAME), st.floats(0, 0.3))
    def test_the_answer_is_as_long_as_what_was_heard(self, samples: int, tail: float) -> None:
        recording = np.arange(samples, dtype=np.float32)
        audio = Recording(recording, tail)
        frames = []
        for frame in audio.frames():
            assert frame.shape == (FRAME,) and frame.dtype == np.float32
            assert audio.answered == max(0, len(frames) - 1)
            frames.append(frame)
            audio.play(frame)
        assert len(frames) == len(audio) == frames_for(samples + round(tail * SAMPLE_RATE))
        assert len(audio.answer) == samples + round(tail * SAMPLE_RATE)
        assert np.array_equal(audio.answer[:samples], recording)

    @given(st.lists(st.integers(0, 3 * FRAME), max_size=20), st.integers(1, 5 * FRAME))
    def test_a_late_answer_is_waited_for_in_silence_and_keeps_its_place(self, sizes: list[int], samples: int) -> None:
        """Sound comes in pieces of any size, perhaps never enough."""
        audio = Recording(np.ones(samples, dtype=np.float32))
        said, count = np.arange(sum(sizes), dtype=np.float32), 0
        for index, frame in enumerate(audio.frames()):
            assert (index < len(audio)) == bool(frame.any())
            size = sizes[index] if index < len(sizes) else 0
            audio.play(said[count : count + size])
            count += size
            assert audio.answered == max(0, frames_for(count) - 1)
        assert np.array_equal(audio.answer, said[:samples][:count])
        assert index < len(audio) + MAX_LATE_FRAMES
        assert (index < len(audio)) or count >= samples or index == len(audio) + MAX_LATE_FRAMES - 1

    def test_from_a_file_to_a_file(self, tmp_path: Path) -> None:
        audio = Recording.read(str(wav(tmp_path / "question.wav", [tone(0.5)])), tail=0.2)
        for frame in audio.frames(lambda: None):
            audio.play(frame)
        audio.write(tmp_path / "new" / "answer.wav")
        answer = read_recording(tmp_path / "new" / "answer.wav")
        assert len(answer) == round(0.7 * SAMPLE_RATE) and np.abs(answer[:12000] - tone(0.5)).max() < 1e-3
        with pytest.raises(AudioError, match="cannot be written"):
            audio.write(tmp_path)
        with pytest.raises(UsageError, match="There is no file"):
            Recording.read(tmp_path / "nothing.wav")

    def test_nothing_said_yet_is_no_sound(self) -> None:
        assert len(Recording(tone(1)).answer) == 0


@given(some.arrays(np.float32, st.integers(0, 4000), elements=st.floats(-2, 2, width=32)))
def test_wav_out_and_in_again_is_the_same_sound_clipped(samples: Samples) -> None:
    file = io.BytesIO()
    write_wav(file, samples, -samples)
    with wave.open(io.BytesIO(file.getvalue())) as written:
        assert (written.getframerate(), written.getnchannels(), written.getnframes()) == (24000, 2, len(samples))
        sound = np.frombuffer(written.readframes(len(samples)), "<i2").reshape(-1, 2) / 32768
    assert np.allclose(sound[:, 0], np.clip(samples, -1, 1), atol=1 / 32768)
    assert np.allclose(sound[:, 1], -sound[:, 0], atol=1 / 32768)


def test_standard_input_is_read_and_called_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = wav(tmp_path / "x.wav", [tone(0.5)]).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert len(read_recording("-")) == 12000
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x")))
    with pytest.raises(AudioError, match=r"^standard input is not a sound file"):
        read_recording("-")


def test_a_keyboard_is_no_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with pytest.raises(UsageError, match="no sound on standard input"):
        read_recording("-")


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are of POSIX")
def test_a_pipe_is_read_and_cannot_be_read_again(tmp_path: Path) -> None:
    content = wav(tmp_path / "x.wav", [tone(0.5)]).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,)).start()
    assert len(read_recording(tmp_path / "pipe")) == 12000
    assert not can_be_read_again(tmp_path / "pipe") and not can_be_read_again("-")
    assert not can_be_read_again("/dev/stdin") and not can_be_read_again("/dev/fd/63")
    assert can_be_read_again(tmp_path / "x.wav")


def test_levels() -> None:
    assert level(np.ones(FRAME, dtype=np.float32)) == pytest.approx(0)
    assert level(tone(1.0, amplitude=1.0)) == pytest.approx(-3.01, abs=0.01)
    assert level(np.zeros(FRAME, dtype=np.float32)) == level(np.empty(0, dtype=np.float32)) == -100


@given(st.integers(0, 4000), st.integers(0, 5))
def test_frames_past_the_end_are_silent(samples: int, index: int) -> None:
    frame = frame_at(np.ones(samples, dtype=np.float32), index)
    assert frame.sum() == max(0, min(FRAME, samples - index * FRAME))
