"""Any sound file -> channels of samples: by sphn, by ffmpeg where sphn cannot, or a sentence that says what it is.

What decoders would get wrong silently is refused here: rates that cannot be, files cut short, more than fits in memory.
"""

import math
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sphn

from personaplex_cli.audio.chunks import PCM
from personaplex_cli.audio.containers import HARMLESS, look_into
from personaplex_cli.audio.pieces import Piece
from personaplex_cli.errors import AudioError
from personaplex_cli.files import read_up_to
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SAMPLE_RATE, Samples

RATES = 4_000, 384_000  # hertz, what sound cards and files have
GIGABYTE = 10**9
# What ffmpeg may take a file for: containers of sound. Never a playlist, which could make it open other files.
FFMPEG_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,gsm,latm,loas,matroska,mov,mp3,mp4,mpeg,"
    "mpegts,mpc,mpc8,nistsphere,nut,ogg,rm,tak,tta,voc,w64,wav,webm,wsaud,wv,xwma"
)
# How a file begins (from this byte on), and what that is.
BEGINNINGS: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyp", "MP4"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media"),
    (0, b"#!AMR", "AMR"),
    (0, b"OggS", "Ogg"),
    (0, b"riff\x2e\x91\xcf\x11", "Wave64"),
    (0, b".snd", "an au file"),
    (0, b"wvpk", "WavPack"),
    (0, b"TTA", "True Audio"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"FLV", "Flash video"),
    (8, b"AVI ", "AVI video"),
    (0, b"RIFF", "wav"),
    (0, b"RF64", "wav"),
    (0, b"BW64", "wav"),
    (0, b"RIFX", "a wav with its bytes the other way round"),
    (0, b"NIST_1A", "NIST SPHERE"),
    (0, b"Creative Voice", "Creative Voice"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (0, b"<!doctype", "a web page"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"\x1f\x8b", "compressed by gzip"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"FORM", "aiff"),
    (0, b"caff", "caf"),
    (0, b"fLaC", "flac"),
    (0, b"G", "MPEG-TS"),
)
OURS = ("wav", "aiff", "caf", "flac", "Opus in Ogg", "Ogg")  # what sphn reads: these are damaged
CODECS: tuple[tuple[bytes, str], ...] = (
    (b"A_OPUS", "Opus"),
    (b"A_VORBIS", "Vorbis"),
    (b"A_AAC", "AAC"),
    (b"mp4a", "AAC"),
    (b"alac", "Apple Lossless"),
    (b"ac-3", "AC-3"),
    (b"samr", "AMR"),
    (b"Opus", "Opus"),
    (b"Speex", "Speex"),
)
WAV_CODECS = {2: "ADPCM", 0x50: "MPEG", 0x55: "MP3", 0x161: "Windows Media", 0xFF: "AAC", 0x2000: "AC-3"}


Decoded = tuple[Samples, int, bool]  # channels, rate, whether it is our own recording of both voices


class Unreadable(Exception):
    """What a decoder said about a piece."""


def decode(content: bytes, name: str, max_seconds: float | None = None) -> tuple[list[Decoded], list[str]]:
    """The recordings in a file as ([channels, n] float32, rate, whether it is our own), and what was left out.

    Raises AudioError if it is no sound, cut short, or longer than `max_seconds` or what memory can hold.
    """
    contents = look_into(content)
    decoded: list[Decoded] = []
    remarks: list[str] = []
    for piece in contents.pieces:
        sound, rate, more = _piece(piece, name, max_seconds)
        decoded.append((sound, rate, piece.sides))
        remarks += more
    if len(decoded) > 1:
        remarks.append(f"{name} holds {len(decoded)} recordings in a row; all are used.")
    if contents.cut:
        remarks.append(f"{name} ends in the middle; the part that is there is used.")
    elif contents.unread > HARMLESS:
        remarks.append(f"{name}: {contents.unread:,} bytes at its end are not sound and are ignored.")
    return decoded, remarks


def _piece(piece: Piece, name: str, max_seconds: float | None) -> tuple[Samples, int, list[str]]:
    try:
        # What sphn says of damaged Matroska goes past Python, right onto the screen.
        if piece.kind == "matroska" and (piece.cut or shutil.which("ffmpeg")):
            raise Unreadable("it ends in the middle" if piece.cut else "")
        return (*_decoded(piece, name, max_seconds), [])
    except Unreadable as reason:
        return _through_ffmpeg(piece, name, str(reason), max_seconds)


def _decoded(piece: Piece, name: str, max_seconds: float | None) -> tuple[Samples, int]:
    """One recording, whole. Raises Unreadable if sphn cannot read it."""
    if piece.rate is not None:
        _refuse_rate(piece.rate, name)  # some make decoders panic
    with _file(piece.content) as path:
        promised = piece.promised
        if piece.kind == "opus":
            sound, rate = _sphn(sphn.read_opus, path)
        else:
            reader = _sphn(sphn.FileReader, path)
            rate, channels = reader.sample_rate, reader.channels
            _refuse_rate(rate, name)
            promised = promised if promised is not None or not piece.has_length else reader.duration_sec
            most = min(max_seconds or math.inf, max_length(rate, channels))
            _refuse_length(reader.duration_sec or 0.0, rate, channels, name, max_seconds)
            # A few bytes may unpack to hours where no header says so.
            sound, rate = _sphn(sphn.read, path, None, most + 1)
    samples = sound.shape[1]
    if samples == 0:
        raise AudioError(f"{name} holds no sound.", "Record it again.")
    _refuse_cut(samples / rate, promised, FRAME / rate, name)
    _refuse_length(samples / rate, rate, len(sound), name, max_seconds)
    return np.asarray(sound, dtype=np.float32), rate


def _sphn(function: Any, path: Path, *more: float | None) -> Any:
    try:
        return function(str(path), *more)
    except BaseException as error:  # sphn's decoders may panic, which is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        raise Unreadable(re.sub(r'^"[^"]*": ', "", str(error))) from error


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    """The bytes as a file, for decoders that want one."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="personaplex-"))
            path = Path(folder) / "sound"
            path.write_bytes(content)
        except OSError as error:
            what = f"A recording needs {len(content) / 10**6:.1f} MB in the temporary folder ({error.strerror})."
            raise AudioError(what, "Make room there, or set TMPDIR to another folder.") from error
        yield path


def _refuse_rate(rate: int, name: str) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(
            f"{name} has {rate} samples a second, which no recording has.", "Export it again, with 24000 or more."
        )


def _refuse_cut(seconds: float, promised: float | None, tolerance: float, name: str) -> None:
    if promised is not None and seconds < promised - tolerance:
        raise AudioError(
            f"{name} is cut short: it should last {promised:.1f} s and ends after {seconds:.1f} s.",
            f"Copy it again, or keep what is there: ffmpeg -i {shlex.quote(name)} whole.wav",
        )


def _refuse_length(seconds: float, rate: int, channels: int, name: str, max_seconds: float | None) -> None:
    """Before the samples are there: what a header says suffices."""
    if max_seconds is not None and seconds > max_seconds:
        raise AudioError(f"{name} is longer than {max_seconds:.0f} s.", "10 to 20 s of clear speech are best: cut it.")
    if seconds > max_length(rate, channels):
        raise AudioError(
            f"{name} lasts {seconds / 3600:.1f} hours, more than this machine's memory can hold.",
            f"Cut it: ffmpeg -i {shlex.quote(name)} -ac 1 -ar 24000 -f segment -segment_time 3600 part%03d.wav",
        )


def max_length(rate: int, channels: int) -> float:
    """How many seconds memory can hold: all channels as floats, twice; then voice and answer, and both to write."""
    return free_memory() / (rate * channels * 4 * 2 + SAMPLE_RATE * 4 * 6)


def free_memory() -> int:
    """Bytes that may be used now; where the system does not say, a guess."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 4 * GIGABYTE


def _through_ffmpeg(piece: Piece, name: str, reason: str, max_seconds: float | None) -> tuple[Samples, int, list[str]]:
    what = what_it_is(piece.content)
    file = shlex.quote(name) if os.path.exists(name) else "FILE"
    by_hand = f"ffmpeg -i {file} -ar 24000 {shlex.quote((Path(name).stem or 'sound') + '.wav')}"
    program = shutil.which("ffmpeg")
    if program is None and what and what not in OURS:
        raise AudioError(
            f"{name} is not a sound file that can be read without ffmpeg: it is {what}.",
            f"Install ffmpeg, or convert it elsewhere: {by_hand}",
        )
    if program is None:
        raise AudioError(
            f"{name} is not a sound file that can be read ({_reasons(what, reason)}).",
            f"Export it again, as wav or flac. If others can play it: {by_hand}",
        )
    with _file(piece.content) as path:
        wav, said = _converted(program, path, max_seconds)
    pieces = look_into(wav).pieces if wav else ()
    try:
        sound, rate = _decoded(pieces[0], name, max_seconds) if pieces else (None, 0)
    except Unreadable:
        sound, rate = None, 0
    if sound is None:
        raise AudioError(
            f"{name} is not a sound file that can be read ({_reasons(what, said.complaint or reason)}).",
            "Export it again, as wav or flac.",
        )
    seconds = sound.shape[1] / rate
    _refuse_cut(seconds, piece.promised, FRAME_SECONDS, name)
    return sound, rate, said.remarks(name, seconds, piece.cut)


def _reasons(what: str, reason: str) -> str:
    reason = "no known format" if "no suitable format reader" in reason else reason
    return f"{what}: {reason}" if what else reason


@dataclass(frozen=True)
class Said:
    """What ffmpeg said of a file: what is wrong with it, and how long it should last, where it knows that."""

    complaint: str = ""
    seconds: float | None = None

    @classmethod
    def of(cls, text: str) -> "Said":
        lines = text.strip().splitlines()
        wrong = [line for line in lines if "[info]" not in line and "[warning]" not in line]
        complaint = re.sub(r"^(\[[^]]*\] *)+", "", wrong[-1]) if wrong else ""
        if "matches no streams" in text:
            complaint = "there is no sound in it"
        found = re.search(r"\[info\] +Duration: (\d+):(\d+):(\d+\.\d+)", text)
        if found is None or "Estimating duration" in text:
            return cls(complaint)
        hours, minutes, seconds = map(float, found.groups())
        return cls(complaint, 3600 * hours + 60 * minutes + seconds)

    def remarks(self, name: str, heard: float, cut: bool) -> list[str]:
        """What the user should know who hears so many seconds of it; `cut` if its end is certainly missing."""
        if self.complaint:
            return [f"{name}: ffmpeg found it damaged ({self.complaint})."]
        if self.seconds is not None and heard < 0.95 * self.seconds - 0.5:
            return [f"{name} should last {self.seconds:.1f} s, and its sound ends after {heard:.1f} s."]
        return [f"{name} ends in the middle: what is there is heard."] if cut else []


def _converted(program: str, path: Path, max_seconds: float | None) -> tuple[bytes, Said]:
    """The first sound in a file as a wav of floats, and what ffmpeg said of it. Empty if there is none."""
    command = [program, "-nostdin", "-nostats", "-hide_banner", "-v", "level+info", "-protocol_whitelist", "file"]
    command += ["-format_whitelist", FFMPEG_FORMATS, "-i", f"file:{path}", "-map", "0:a:0"]
    command += ["-t", str(max_seconds + 1)] if max_seconds else []
    command += ["-c:a", "pcm_f32le", "-f", "wav", "-"]
    limit = free_memory() // 4
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, stdin=subprocess.DEVNULL)
        except OSError as error:
            return b"", Said(str(error.strerror))
        with process:
            assert process.stdout
            try:
                wav = read_up_to(process.stdout, limit)
            finally:
                process.kill()
        complaints.seek(0)
        text = complaints.read(100_000).decode("utf-8", "replace").replace(f"file:{path}: ", "")
    return wav, Said.of(text)


def what_it_is(content: bytes) -> str:
    """The container by how it begins, perhaps with the codec in it: "AAC in MP4"; empty if it is not known."""
    container = next((name for at, begin, name in BEGINNINGS if content[at : at + len(begin)] == begin), "")
    if container == "MPEG-TS" and content[188:189] != b"G":
        return ""
    if container == "wav":
        at = content.find(b"fmt ")
        tag = int.from_bytes(content[at + 8 : at + 10], "little") if at > 0 else 1
        codec = "" if tag in PCM else WAV_CODECS.get(tag, f"kind {tag}")
    else:
        ends = content[: 1 << 20] + content[-(1 << 20) :]  # an MP4 may have its table of contents at either
        codec = next((name for word, name in CODECS if word in ends), "") if container else ""
    return f"{codec} in {container}" if codec else container
