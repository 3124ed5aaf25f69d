"""What a sound file is made of, looked at before it is decoded: recordings, lengths, and who wrote it.

Programs that write into a pipe do not know the length: they put a dummy where it belongs, or nothing. Files may hold
several recordings one after another, of any kinds. Decoders stop there; here such files are cut into pieces, each with
a true length in its header. The bytes alone decide, never the name of the file.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from personaplex_cli.audio import chunks
from personaplex_cli.audio.flac import flac
from personaplex_cli.audio.pieces import ASF_HEADER, W64_RIFF, Found, Piece, next_start, starts_at

HARMLESS = 1024  # bytes behind the sound, such as a tag
MAX_PIECES = 1000  # of one file; a few bytes suffice for one
FIRST_PAGE, LAST_PAGE = 2, 4  # flags of Ogg


def _crc_of_byte(byte: int) -> int:
    check = byte << 24
    for _ in range(8):
        check = (check << 1 ^ (0x04C11DB7 if check >> 31 else 0)) & 0xFFFFFFFF
    return check


OGG_CRC = [_crc_of_byte(byte) for byte in range(256)]


@dataclass(frozen=True)
class Contents:
    """All that a file holds; `unread` bytes at its end belong to no recording, or to one that is `cut` off."""

    pieces: tuple[Piece, ...]
    unread: int = 0
    cut: bool = False


def look_into(content: bytes) -> Contents:
    """Cut a file into its recordings. What is not known is one piece, as it is."""
    pieces: list[Piece] = []
    at = _behind_tag(content)
    while at < len(content) and len(pieces) < MAX_PIECES and (found := _recording(content, at)):
        piece, at = found
        pieces.append(piece)
    if not pieces:
        return Contents((Piece(content, "other", has_length=True),))
    unread = len(content) - at
    return Contents(tuple(pieces), unread, cut=content[at : at + 4] == b"OggS")


def _recording(content: bytes, at: int) -> Found | None:
    """The recording that begins there."""
    head = content[at : at + 16]
    for begins, where, read in READERS:
        if head[where : where + len(begins)] == begins:
            return read(content, at)
    # Any bytes may look like a frame: behind another recording only a tag is a beginning.
    return _mpeg(content, at) if head[:3] == b"ID3" or (at == 0 and _is_mpeg(head)) else None


def _behind_tag(content: bytes) -> int:
    """Where a recording begins that has a tag of MP3 before it, as some programs write into any file; else 0."""
    if content[:3] != b"ID3" or len(content) < 10:
        return 0
    size = sum((each & 127) << shift for each, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    at = 10 + size + (10 if content[5] & 16 else 0)
    return at if starts_at(content, at) else 0


def _is_mpeg(head: bytes) -> bool:
    """A frame's first eleven bits, of MPEG layers 1 to 3 or ADTS (AAC)."""
    return len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0


def _mpeg(content: bytes, start: int) -> Found:
    end = next_start(content, start + 3)
    piece = content[start:end]
    # Without one of these headers a decoder can only guess the length from the first frame.
    has_length = any(word in piece[:8192] for word in (b"Xing", b"Info", b"VBRI"))
    return Piece(piece, "mp3", has_length=has_length), end


def _ogg(content: bytes, start: int) -> Found | None:
    """One stream, or several at the same time: their first pages say so, and come first."""
    at = last_page = start
    was_first = True
    while (page := _page_end(content, at)) is not None:
        is_first = bool(content[at + 5] & FIRST_PAGE)
        if is_first and not was_first:
            break
        last_page, at, was_first = at, page, is_first
    if at == start:
        return None
    part = content[start:last_page] + _as_last_page(content[last_page:at])
    return Piece(part, "opus" if b"OpusHead" in part[:256] else "ogg"), at


def _as_last_page(page: bytes) -> bytes:
    """The page with the mark of the last one, which streams lack that were not ended, and our decoder wants."""
    if page[5] & LAST_PAGE:
        return page
    page = page[:5] + bytes([page[5] | LAST_PAGE]) + page[6:22] + bytes(4) + page[26:]
    check = 0
    for byte in page:
        check = (check << 8 & 0xFFFFFFFF) ^ OGG_CRC[check >> 24 ^ byte]
    return page[:22] + struct.pack("<I", check) + page[26:]


def _page_end(content: bytes, at: int) -> int | None:
    """Where the Ogg page at `at` ends; None if there is no whole page."""
    if content[at : at + 4] != b"OggS" or at + 27 > len(content):
        return None
    lacing = content[at + 27 : at + 27 + content[at + 26]]
    end = at + 27 + content[at + 26] + sum(lacing)
    return end if end <= len(content) else None


READERS: tuple[tuple[bytes, int, Callable[[bytes, int], Found | None]], ...] = (
    (b"WAVE", 8, chunks.wav),
    (b"fLaC", 0, flac),
    (b"OggS", 0, _ogg),
    (b"FORM", 0, chunks.aiff),
    (b"caff", 0, chunks.caf),
    (b"ftyp", 4, chunks.mp4),
    (chunks.EBML, 0, chunks.matroska),
    (W64_RIFF, 0, chunks.wave64),
    (ASF_HEADER, 0, chunks.asf),
    (b".snd", 0, chunks.au),
)
