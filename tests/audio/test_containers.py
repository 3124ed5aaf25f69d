"""Files as streams and recorders write them: lengths that are dummies, several recordings in one, cut or followed by
other bytes. Each is read whole, or what is wrong is said.
"""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sphn
from hypothesis import given, settings
from hypothesis import strategies as st

from personaplex_cli.audio import decoding
from personaplex_cli.audio.containers import look_into
from personaplex_cli.audio.recording import read_recording
from personaplex_cli.audio.voice_sample import read_voice_sample
from personaplex_cli.errors import AudioError
from personaplex_cli.samples import SAMPLE_RATE, Samples, level

SOUNDS = Path(__file__).parents[1] / "data" / "sounds"
SECONDS = 0.6
# What goes for the length of `data` when a program writes into a pipe: ffmpeg, sox and espeak, arecord, mpg123,
# others, and a recorder that was killed.
DUMMIES = [0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF - 44, 0x7FFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF - 36, 0]


def wav(
    data: bytes, channels: int = 1, bits: int = 16, rate: int = SAMPLE_RATE, size: int | None = None, kind: int = 1
) -> bytes:
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * align & 0xFFFFFFFF, align, bits)
    size = len(data) if size is None else size
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(36 + size, 0xFFFFFFFF)) + body


def noise(samples: int, channels: int = 1, bits: int = 16) -> bytes:
    """The same noise in each channel; 32 bits are floats."""
    one = np.random.default_rng(1).uniform(-0.5, 0.5, samples)
    sound = np.repeat(one[:, None], channels, axis=1)
    return sound.astype("<f4").tobytes() if bits == 32 else (sound * 32767).astype("<i2").tobytes()


def read(path: Path, content: bytes) -> tuple[Samples, list[str]]:
    path.write_bytes(content)
    remarks: list[str] = []
    return read_recording(path, remark=remarks.append), remarks


@pytest.mark.parametrize("size", DUMMIES, ids=hex)
@pytest.mark.parametrize(("channels", "bits"), [(1, 16), (2, 16), (2, 32), (6, 16), (1, 32)])
def test_a_wav_of_unknown_length_is_read_whole_whatever_its_channels(
    size: int, channels: int, bits: int, tmp_path: Path
) -> None:
    data = noise(24000, channels, bits)
    sound, remarks = read(tmp_path / "x", wav(data, channels, bits, size=size, kind=3 if bits == 32 else 1))
    assert len(sound) == 24000 and remarks == []


@settings(deadline=None)
@given(st.integers(10_000, 2**31 - 2**17), st.sampled_from([1, 2, 6]))
def test_an_honest_length_that_is_not_reached_is_a_promise(size: int, channels: int) -> None:
    (piece,) = look_into(wav(bytes(120), channels, size=size)).pieces
    assert piece.promised == size / (SAMPLE_RATE * channels * 2)


def test_a_recording_that_promises_more_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"should last 2\.0 s and ends after 1\.0 s"):
        read(tmp_path / "x", wav(noise(24000), size=96000))


def test_rf64_is_a_wav(tmp_path: Path) -> None:
    data = noise(24000)
    plain = wav(data, size=0xFFFFFFFF)
    long = struct.pack("<QQQI", len(data) + 72, len(data), 24000, 0)
    content = b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(long)) + long + plain[12:]
    assert len(read(tmp_path / "x", content)[0]) == 24000
    with pytest.raises(AudioError, match="cut short"):
        read(tmp_path / "x", content[:-24000])


@pytest.mark.parametrize("name", ["pipe.flac", "pipe.aiff", "pipe.caf", "q.mp3", "q.ogg", "q.flac"])
def test_streams_without_a_length_are_read(name: str) -> None:
    sound = read_recording(SOUNDS / name)
    assert SECONDS * SAMPLE_RATE <= len(sound) <= (SECONDS + 0.1) * SAMPLE_RATE
    assert level(sound) == pytest.approx(level(read_recording(SOUNDS / "q.wav")), abs=1)


def opus(path: Path) -> bytes:
    sphn.write_opus(str(path), np.zeros(SAMPLE_RATE, dtype=np.float32) + 0.1, SAMPLE_RATE)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["q.wav", "pipe.flac", "q.flac", "q.mp3", "q.ogg", "x.opus"])
def test_two_recordings_in_one_file_are_both_heard(name: str, tmp_path: Path) -> None:
    content = opus(tmp_path / "x") if name == "x.opus" else (SOUNDS / name).read_bytes()
    one, _ = read(tmp_path / "one", content)
    both, remarks = read(tmp_path / "both", content * 2)
    assert abs(len(both) - 2 * len(one)) < 0.05 * SAMPLE_RATE
    assert "mp3" in name or any("2 recordings in a row" in each for each in remarks)


def test_streams_of_unknown_length_one_after_another(tmp_path: Path) -> None:
    both, _ = read(tmp_path / "x", wav(noise(12000), size=0xFFFFFFFF) * 2)
    assert len(both) == 24000


@pytest.mark.parametrize(("behind", "missed"), [(b"", 0), (b"tag" * 100, 0), (b"\x01\x02" * 5000, 10_000)])
def test_bytes_that_nobody_reads_are_missed(behind: bytes, missed: int, tmp_path: Path) -> None:
    sound, remarks = read(tmp_path / "x", wav(noise(24000)) + behind)
    assert len(sound) == 24000
    assert remarks == ([f"{tmp_path / 'x'}: 10,000 bytes at its end are not sound and are ignored."] if missed else [])


def test_chunks_behind_the_sound_are_no_sound(tmp_path: Path) -> None:
    chunk = b"LIST" + struct.pack("<I", 20_000) + bytes(20_000)
    assert read(tmp_path / "x", wav(noise(24000)) + chunk)[1] == []


def test_a_stream_that_ends_in_the_middle_of_a_page_keeps_what_is_whole(tmp_path: Path) -> None:
    content = (SOUNDS / "q.ogg").read_bytes()
    sound, remarks = read(tmp_path / "x", content[:-300])
    assert 0.6 * SECONDS < len(sound) / SAMPLE_RATE < SECONDS and remarks


@settings(deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b"caff", b"\xff\xfb", b""])
)
def test_nothing_makes_it_stumble(rest: bytes, start: bytes) -> None:
    contents = look_into(start + rest)
    assert contents.pieces and 0 <= contents.unread <= len(start + rest)


@settings(deadline=None)
@given(st.integers(0, 19244), st.integers(0, 255))
def test_no_damaged_byte_makes_it_stumble(at: int, value: int) -> None:
    for path in SOUNDS.iterdir():
        content = bytearray(path.read_bytes())
        content[at % min(len(content), 400)] = value
        assert look_into(bytes(content)).pieces


class TestLimits:
    @pytest.mark.parametrize("rate", [0, 1, 3999, 384_001, 2**32 - 1])
    def test_rates_that_no_sound_has(self, rate: int, tmp_path: Path) -> None:
        with pytest.raises(AudioError, match="samples a second"):
            read(tmp_path / "x", wav(noise(100), rate=rate))

    @pytest.mark.parametrize("rate", [4000, 384_000])
    def test_rates_that_some_have(self, rate: int, tmp_path: Path) -> None:
        assert len(read(tmp_path / "x", wav(noise(rate // 10), rate=rate))[0]) == SAMPLE_RATE // 10

    def test_what_memory_cannot_hold_is_refused_by_the_header(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decoding, "free_memory", lambda: 1_000_000)
        monkeypatch.setattr(sphn, "read", lambda *_: pytest.fail("was decoded"))
        with pytest.raises(AudioError, match="more than this machine's memory can hold"):
            read(tmp_path / "x", wav(noise(240_000)))

    def test_a_voice_is_at_most_a_minute_long(self, tmp_path: Path) -> None:
        (tmp_path / "x.wav").write_bytes(wav(noise(61 * 8000), rate=8000))
        with pytest.raises(AudioError, match="longer than 60 s"):
            read_voice_sample(tmp_path / "x.wav")

    def test_of_a_voice_no_more_is_decoded_than_memory_can_hold(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[float] = []

        def stop(path: str, start: float | None, seconds: float) -> None:
            asked.append(seconds)
            raise ValueError

        monkeypatch.setattr(decoding, "max_length", lambda rate, channels: 20.0)
        monkeypatch.setattr(sphn, "read", stop)
        monkeypatch.setattr(decoding.shutil, "which", lambda name: None)
        (tmp_path / "x.wav").write_bytes(wav(noise(8000), rate=8000))
        with pytest.raises(AudioError):
            read_voice_sample(tmp_path / "x.wav")
        assert asked == [21.0]

    def test_a_device_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from personaplex_cli.audio import recording

        monkeypatch.setattr(recording, "free_memory", lambda: 1_000_000)
        with pytest.raises(AudioError, match="larger than this machine's memory"):
            read_recording("/dev/zero")


class TestFfmpeg:
    """What only ffmpeg reads is read through it, or said by its name, with the command."""

    @pytest.fixture
    def without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda name: None)

    @pytest.fixture
    def with_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        """A program that does what ffmpeg would: writes a wav of unknown length to its output."""

        def install(script: str) -> None:
            program = tmp_path / "ffmpeg"
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
            monkeypatch.setattr(shutil, "which", lambda name: str(program))

        return install

    @pytest.mark.usefixtures("without")
    @pytest.mark.parametrize(
        ("content", "what"),
        [
            ((SOUNDS / "q.m4a").read_bytes(), "AAC in MP4"),
            (b"\x1aE\xdf\xa3" + b"webm" + bytes(50) + b"A_OPUS" + bytes(50), "Opus in Matroska or WebM"),
            (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(50), "Windows Media"),
            (b"#!AMR\n" + bytes(50), "AMR"),
            (wav(bytes(1000), kind=0x161), "Windows Media in wav"),
        ],
    )
    def test_without_it_the_kind_and_the_command_are_told(self, content: bytes, what: str, tmp_path: Path) -> None:
        with pytest.raises(AudioError, match=f"without ffmpeg: it is {what}") as caught:
            read(tmp_path / "my talk.m4a", content)
        assert f"ffmpeg -i '{tmp_path}/my talk.m4a' -ar 24000 'my talk.wav'" in caught.value.hint

    def test_with_it_the_sound_is_heard(self, with_one: Callable[[str], None], tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(wav(noise(24000, bits=32), bits=32, kind=3, size=0xFFFFFFFF))
        with_one(f"cat {tmp_path / 'out'}")
        sound, remarks = read(tmp_path / "x.m4a", (SOUNDS / "q.m4a").read_bytes())
        assert len(sound) == 24000 and remarks == []

    def test_its_own_reason_is_passed_on(self, with_one: Callable[[str], None], tmp_path: Path) -> None:
        with_one("echo moov atom not found >&2; exit 1")
        with pytest.raises(AudioError, match=r"AAC in MP4: moov atom not found"):
            read(tmp_path / "x.m4a", (SOUNDS / "q.m4a").read_bytes())

    @pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
    def test_the_real_one(self) -> None:
        assert len(read_recording(SOUNDS / "q.m4a")) >= SECONDS * SAMPLE_RATE

    @pytest.mark.usefixtures("without")
    def test_mp3_in_a_wav_needs_none(self, tmp_path: Path) -> None:
        content = wav((SOUNDS / "q.mp3").read_bytes(), kind=0x55)
        assert len(read(tmp_path / "x.wav", content)[0]) >= SECONDS * SAMPLE_RATE
