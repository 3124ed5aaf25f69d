"""Recordings of every kind that are followed by other bytes, or by each other: none is lost, and no byte of what
follows is taken for sound.
"""

import shutil
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from personaplex_cli.audio import decoding
from personaplex_cli.audio.containers import HARMLESS, MAX_PIECES, look_into
from personaplex_cli.audio.decoding import Said
from personaplex_cli.audio.pieces import ASF_HEADER, W64_RIFF
from personaplex_cli.audio.recording import read_recording
from personaplex_cli.errors import AudioError
from personaplex_cli.samples import SAMPLE_RATE, Samples

SOUNDS = Path(__file__).parents[1] / "data" / "sounds"
COUNT = 6000  # samples of each recording
TONE = (0.25 * 32767 * np.sin(np.arange(COUNT) / 10)).astype("<i2")
TAG = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of most of Wave64's names
RATE_80 = struct.pack(">HQ", 16383 + 14, SAMPLE_RATE << 49)  # a number of 80 bits
FORM = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)


def wav(size: int | None = None, name: bytes = b"RIFF") -> bytes:
    data = TONE.tobytes()
    size = len(data) if size is None else size
    body = b"WAVEfmt " + struct.pack("<I", 16) + FORM + b"data" + struct.pack("<I", size & 0xFFFFFFFF) + data
    return name + struct.pack("<I", len(body)) + body


def wave64(size: int | None = None) -> bytes:
    data = TONE.tobytes()
    size = len(data) + 24 if size is None else size
    body = b"wave" + TAG + b"fmt " + TAG + struct.pack("<Q", 40) + FORM + b"data" + TAG + struct.pack("<Q", size) + data
    return W64_RIFF + struct.pack("<Q", len(body) + 24) + body


def aiff(size: int | None = None, sound_first: bool = False) -> bytes:
    data = bytes(8) + TONE.astype(">i2").tobytes()
    common = b"COMM" + struct.pack(">IhIh", 18, 1, 0 if size is not None else COUNT, 16) + RATE_80
    sound = b"SSND" + struct.pack(">I", len(data) if size is None else size) + data
    body = b"AIFF" + (sound + common if sound_first else common + sound)
    return b"FORM" + struct.pack(">I", len(body)) + body


def caf(size: int | None = None) -> bytes:
    data = bytes(4) + TONE.astype(">i2").tobytes()
    form = struct.pack(">d4s5I", SAMPLE_RATE, b"lpcm", 0, 2, 1, 1, 16)
    head = b"caff" + struct.pack(">HH", 1, 0) + b"desc" + struct.pack(">q", len(form)) + form
    return head + b"data" + struct.pack(">q", len(data) if size is None else size) + data


def au(size: int | None = None) -> bytes:
    data = TONE.astype(">i2").tobytes()
    return b".snd" + struct.pack(">5I", 24, len(data) if size is None else size, 3, SAMPLE_RATE, 1) + data


def matroska(size: int | None = None) -> bytes:
    head = b"\x42\x82\x84webm"
    segment = b"\xec\x81\0" * 100
    length = struct.pack(">Q", (1 << 56) - 1 | 1 << 56 if size is not None else len(segment) | 1 << 56)
    return b"\x1aE\xdf\xa3" + bytes([0x80 | len(head)]) + head + b"\x18\x53\x80\x67" + length + segment


def mp4() -> bytes:
    return (SOUNDS / "q.m4a").read_bytes()


def asf() -> bytes:
    return ASF_HEADER + struct.pack("<Q", 64) + bytes(40)


HEARD: dict[str, Callable[[], bytes]] = {  # without ffmpeg
    "wav": wav,
    "a wav of unknown length": lambda: wav(-1),
    "BW64": lambda: wav(name=b"BW64"),
    "Wave64": wave64,
    "a Wave64 of unknown length": lambda: wave64(2**63 - 1),
    "aiff": aiff,
    "an aiff of unknown length": lambda: aiff(0xFFFFFFFF),
    "an aiff whose sound comes first": lambda: aiff(sound_first=True),
    "caf": caf,
    "a caf of unknown length": lambda: caf(-1),
}
KNOWN = HEARD | {
    "au": au,
    "an au of unknown length": lambda: au(0xFFFFFFFF),
    "Matroska": matroska,
    "a Matroska of unknown length": lambda: matroska(-1),
    "MP4": mp4,
    "Windows Media": asf,
    "flac": (SOUNDS / "q.flac").read_bytes,
    "Ogg": (SOUNDS / "q.ogg").read_bytes,
    "mp3 with a tag": lambda: b"ID3\4\0\0\0\0\0\0" + (SOUNDS / "q.mp3").read_bytes(),
}
ENDLESS = [name for name in KNOWN if "unknown" in name or name in ("mp3 with a tag", "flac")]
TONE_ALONE = TONE.astype(np.float32) / 32768


def read(path: Path, content: bytes) -> tuple[Samples, list[str]]:
    path.write_bytes(content)
    remarks: list[str] = []
    return read_recording(path, remark=remarks.append), remarks


@settings(deadline=None)
@given(st.lists(st.sampled_from(list(KNOWN)), min_size=1, max_size=6))
@example(["aiff", "Wave64", "mp3 with a tag"])  # a Wave64 that begins anywhere
def test_recordings_of_any_kinds_one_after_another_are_all_found(kinds: list[str]) -> None:
    # A tag of three letters is no sign by which to find the end of something without one; of a FLAC, the end is known
    # to a frame, which is longer than this mp3.
    assume(not any(one in ENDLESS and "mp3" in other for one, other in pairwise(kinds)))
    contents = look_into(b"".join(KNOWN[kind]() for kind in kinds))
    assert len(contents.pieces) == len(kinds) and contents.unread == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(list(HEARD)), min_size=1, max_size=4))
def test_all_are_heard_and_nothing_else(kinds: list[str], tmp_path: Path) -> None:
    sound, remarks = read(tmp_path / "x", b"".join(HEARD[kind]() for kind in kinds))
    np.testing.assert_allclose(sound, np.tile(TONE_ALONE, len(kinds)), atol=1e-4)
    assert len(remarks) == (len(kinds) > 1)


@settings(deadline=None)
@given(st.sampled_from([name for name in KNOWN if name not in ENDLESS]), st.binary(max_size=40), st.integers(0, 5000))
def test_what_follows_is_missed(kind: str, start: bytes, count: int) -> None:
    """Bytes that are no chunk of the same format: these begin with a zero, as no name does."""
    content = KNOWN[kind]()
    behind = b"\0" * 16 + start + b"\0" * count
    contents = look_into(content + behind)
    assert len(contents.pieces) == 1
    at_most = 5000 if kind == "flac" else HARMLESS  # where its last frame ends is not known to the byte
    assert -at_most <= contents.unread - len(behind) <= HARMLESS


@pytest.mark.parametrize("kind", ["wav", "BW64", "Wave64", "aiff", "caf"])
def test_noise_behind_the_sound_is_not_heard(kind: str, tmp_path: Path) -> None:
    sound, remarks = read(tmp_path / "x", HEARD[kind]() + b"\0\xff\x7f" * 3000)
    np.testing.assert_allclose(sound, TONE_ALONE, atol=1e-4)
    assert len(remarks) == 1 and "9,000 bytes at its end are not sound" in remarks[0]


@pytest.mark.parametrize("kind", ["wav", "BW64", "Wave64", "aiff"])
def test_half_of_a_recording_is_refused(kind: str, tmp_path: Path) -> None:
    content = HEARD[kind]()
    with pytest.raises(AudioError, match=r"should last 0\.2 s|should last 0\.3 s"):
        read(tmp_path / "x", content[: len(content) - COUNT])


@pytest.mark.parametrize("kind", ["au", "caf"])
def test_half_of_what_ffmpeg_reads_is_refused_as_well(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_bytes(wav()[: -COUNT - 10] + bytes(10))
    half = wav(-1)[:-COUNT]
    monkeypatch.setattr(shutil, "which", lambda name: "ffmpeg")
    monkeypatch.setattr(decoding, "_converted", lambda *_: (half, Said()))
    content = KNOWN[kind]()
    with pytest.raises(AudioError, match="cut short"):
        read(tmp_path / "x", content[: len(content) - COUNT])


@pytest.mark.parametrize("kind", ["Matroska", "MP4"])
def test_an_end_that_is_missing_is_noticed(kind: str) -> None:
    (piece,) = look_into(KNOWN[kind]()[:-20]).pieces
    assert piece.cut and not look_into(KNOWN[kind]()).pieces[0].cut


@pytest.mark.parametrize("kind", [name for name in KNOWN if "mp3" not in name])
@pytest.mark.parametrize("size", [0, 1024])
def test_a_tag_of_mp3_may_come_before_anything(kind: str, size: int) -> None:
    tag = b"ID3\4\0\0" + bytes([0, 0, size >> 7, size & 127]) + bytes(size)
    assert look_into(tag + KNOWN[kind]()) == look_into(KNOWN[kind]())


def test_there_is_an_end_to_the_recordings_of_one_file() -> None:
    contents = look_into(wav(-1)[:50] * (MAX_PIECES + 5))
    assert len(contents.pieces) == MAX_PIECES and contents.unread == 250


@settings(deadline=None)
@given(st.sampled_from(list(KNOWN)), st.integers(0, 300), st.binary(min_size=1, max_size=8), st.integers(0, 20_000))
def test_no_damage_makes_it_stumble(kind: str, at: int, damage: bytes, length: int) -> None:
    content = bytearray(KNOWN[kind]())
    content[at : at + len(damage)] = damage
    contents = look_into(bytes(content[:length]))
    assert contents.pieces and 0 <= contents.unread <= length


class TestWhatFfmpegSays:
    def test_the_last_thing_that_is_wrong(self) -> None:
        said = Said.of("[info] Input #0\n[mov @ 0x5] [error] moov atom not found\n[warning] hm\n")
        assert said == Said("moov atom not found")

    def test_a_video_without_sound(self) -> None:
        text = (
            "[fatal] Stream map '0:a:0' matches no streams.\n[fatal] To ignore this, add a trailing '?' to the map.\n"
        )
        assert Said.of(text).complaint == "there is no sound in it"

    def test_how_long_it_should_last(self) -> None:
        text = "[info]   Duration: 01:00:02.50, start: 0.000000, bitrate: 132 kb/s\n"
        assert Said.of(text).seconds == 3602.5
        assert Said.of("[warning] Estimating duration from bitrate\n" + text).seconds is None
        assert Said.of("[info]   Duration: N/A\n").seconds is None

    @pytest.mark.parametrize(
        ("said", "cut", "remark"),
        [
            (Said("", 10.0), False, None),
            (Said("", 20.0), False, "x should last 20.0 s, and its sound ends after 10.0 s."),
            (Said("oh", 20.0), True, "x: ffmpeg found it damaged (oh)."),
            (Said(), True, "x ends in the middle: what is there is heard."),
        ],
    )
    def test_what_the_user_learns(self, said: Said, cut: bool, remark: str | None) -> None:
        assert said.remarks("x", 10.0, cut) == ([remark] if remark else [])


@pytest.mark.parametrize("place", ["full", "missing"])
def test_no_room_for_a_copy_is_no_bug(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders want a file; recordings also come by a pipe."""

    def fails(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fails) if place == "full" else monkeypatch.setattr(
        decoding.tempfile, "TemporaryDirectory", fails
    )
    with pytest.raises(AudioError, match=r"temporary folder \(No space left on device\)") as caught:
        decoding.decode(wav(), "x")
    assert "TMPDIR" in caught.value.hint
