"""What is known of a recording in a file before it is decoded, and how the beginning of one is recognised."""

import re
from dataclasses import dataclass
from typing import Literal

# Dummies of 32 bits lie at or just below 2**31 and 2**32, rounded or less the header; many programs write 0.
DUMMY_MARGIN = 2**16
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
# How recordings begin: bytes that are rare, where they stand, and what must be around them.
BEGINNINGS = tuple(
    (word, at, re.compile(pattern, re.DOTALL))
    for word, at, pattern in (
        (b"WAVEfmt ", 8, rb"(RIFF|RF64|BW64)"),
        (b"WAVEds64", 8, rb"(RF64|BW64)"),
        (b"WAVEJUNK", 8, rb"(RIFF|RF64|BW64)"),
        (b"WAVEbext", 8, rb"(RIFF|RF64|BW64)"),
        (b"WAVELIST", 8, rb"(RIFF|RF64|BW64)"),
        (b"fLaC\0\0\0\x22", 0, rb""),
        (b"fLaC\x80\0\0\x22", 0, rb""),
        (b"OggS\0\x02", 0, rb""),
        (b"FORM", 0, rb"....AIF[FC]"),
        (b"caff\0\x01", 0, rb"..(desc|free)"),
        (b"ftyp", 4, rb"\0\0\0."),
        (b"\x1aE\xdf\xa3", 0, rb".{1,60}?\x42\x82.(webm|matroska)"),
        (b".snd\0\0", 0, rb".{6}\0\0\0[\x01-\x1b]"),
        (ASF_HEADER, 0, rb""),
        (W64_RIFF, 0, rb""),
    )
)

Kind = Literal["wav", "flac", "ogg", "opus", "mp3", "matroska", "other"]


@dataclass(frozen=True)
class Piece:
    """One recording: `promised` is its length in seconds as the header has it, None if it does not say.

    `sides` if it is our own recording of a conversation. `has_length` if a decoder can be asked for the promise.
    `rate` in hertz, where the header says it in a known place. `cut` if its end is certainly missing.
    """

    content: bytes
    kind: Kind
    promised: float | None = None
    has_length: bool = False
    sides: bool = False
    rate: int | None = None
    cut: bool = False


Found = tuple[Piece, int]  # a recording, and where it ends in the file


def is_dummy(size: int) -> bool:
    """Whether a length of 32 bits means that it is not known."""
    return size == 0 or any(top - DUMMY_MARGIN <= size <= top + 64 for top in (2**31, 2**32 - 1))


def next_start(content: bytes, at: int) -> int:
    """Where the next recording begins, or the end: how far one of unknown length goes."""
    end = len(content)
    for word, before, pattern in BEGINNINGS:
        found = content.find(word, at + before, end)
        while found >= 0:
            start = found - before
            rest = start if before else found + len(word)
            if pattern.match(content, rest):
                end = start
                break
            found = content.find(word, found + 1, end)
    return end


def starts_at(content: bytes, at: int) -> bool:
    """Whether a recording begins there."""
    return next_start(content[at : at + 100], 0) == 0 and at < len(content)
