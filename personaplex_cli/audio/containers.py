"""What a sound file is made of, looked at before it is decoded: pieces, lengths, and who wrote it.

Programs that write into a pipe do not know the length: they put a dummy where it belongs, or nothing. Streams may be
made of several recordings one after another. Decoders stop there; here such files are cut into pieces, each with a true
length in its header. The bytes alone decide, never the name of the file.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

SIDES = b"personaplex: left is the user, right is the agent"  # a comment in our own recordings of two voices
HARMLESS = 1024  # bytes behind the sound, such as a tag
# Dummies of 32 bits lie at or just below 2**31 and 2**32, rounded or less the header; many programs write 0.
DUMMY_MARGIN = 2**16
MP3_IN_WAV = 0x55
PCM = (1, 3, 0xFFFE)

FIRST_PAGE, LAST_PAGE = 2, 4  # flags of Ogg


def _crc_of_byte(byte: int) -> int:
    check = byte << 24
    for _ in range(8):
        check = (check << 1 ^ (0x04C11DB7 if check >> 31 else 0)) & 0xFFFFFFFF
    return check


OGG_CRC = [_crc_of_byte(byte) for byte in range(256)]

Kind = Literal["wav", "flac", "ogg", "opus", "mp3", "other"]


@dataclass(frozen=True)
class Piece:
    """One recording: `promised` is its length in seconds as the header has it, None if it does not say.

    `sides` if it is our own recording of a conversation. `has_length` if a decoder can be asked for the promise.
    `rate` in hertz, where the header says it in a known place.
    """

    content: bytes
    kind: Kind
    promised: float | None = None
    has_length: bool = False
    sides: bool = False
    rate: int | None = None


@dataclass(frozen=True)
class Contents:
    """All that a file holds; `unread` bytes at its end belong to no recording, or to one that is `cut` off."""

    pieces: tuple[Piece, ...]
    unread: int = 0
    cut: bool = False


def look_into(content: bytes) -> Contents:
    """Cut a file into its recordings. What is not known is one piece, as it is."""
    if content[:4] in (b"RIFF", b"RF64") and content[8:12] == b"WAVE":
        return _wavs(content)
    if content[:4] == b"fLaC":
        return Contents(tuple(_flacs(content)))
    if content[:4] == b"OggS":
        return _oggs(content)
    if content[:4] == b"FORM":
        return Contents((Piece(_aiff(content), "other", has_length=True),))
    if content[:4] == b"caff":
        return Contents((Piece(_caf(content), "other", has_length=True),))
    if _is_mpeg(content):
        # Without one of these headers a decoder can only guess the length from the first frame.
        return Contents((Piece(content, "mp3", has_length=_has_any(content[:8192], b"Xing", b"Info", b"VBRI")),))
    return Contents((Piece(content, "other", has_length=True),))


def _is_dummy(size: int) -> bool:
    """Whether a length of 32 bits means that it is not known."""
    return size == 0 or any(top - DUMMY_MARGIN <= size <= top + 64 for top in (2**31, 2**32 - 1))


def _has_any(content: bytes, *words: bytes) -> bool:
    return any(word in content for word in words)


def _is_mpeg(content: bytes) -> bool:
    """MPEG layers 1 to 3 or ADTS (AAC): a tag, or a frame's first eleven bits."""
    return content[:3] == b"ID3" or (len(content) > 2 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0)


def _wavs(content: bytes) -> Contents:
    pieces: list[Piece] = []
    start = 0
    while content[start : start + 4] in (b"RIFF", b"RF64") and content[start + 8 : start + 12] == b"WAVE":
        piece, end = _wav(content, start)
        if piece is None:
            break
        pieces.append(piece)
        start = end
    return Contents(tuple(pieces), len(content) - start) if pieces else Contents((Piece(content, "wav"),))


def _wav(content: bytes, start: int) -> tuple[Piece | None, int]:
    """The wav that begins at `start`, and where it ends; None if it has no sound."""
    form = long_size = b""
    before: list[bytes] = []
    sides = False
    at = start + 12
    while (chunk := content[at : at + 4]) != b"data":
        if len(chunk) < 4 or at + 8 > len(content):
            return None, at
        size = struct.unpack_from("<I", content, at + 4)[0]
        body = content[at + 8 : at + 8 + size]
        if chunk == b"fmt ":
            form = body
        elif chunk == b"ds64":
            long_size = body[8:16]
        elif chunk == b"fact":
            before.append(chunk + struct.pack("<I", size) + body)
        sides |= chunk == b"LIST" and SIDES in body
        at += 8 + size + size % 2
    if len(form) < 16 or at + 8 > len(content):
        return None, at
    claimed = struct.unpack_from("<I", content, at + 4)[0]
    if claimed == 0xFFFFFFFF and len(long_size) == 8:
        claimed = int.from_bytes(long_size, "little")
    at += 8
    unknown = _is_dummy(claimed) and not (claimed == 0 and _chunks_end(content, at) == len(content))
    if unknown:
        end = behind = _next_wav(content, at)
    else:
        end = min(at + claimed, len(content))
        behind = _chunks_end(content, end + claimed % 2 if content[end : end + 1] == b"\0" else end)
    sides |= SIDES in content[end:behind]
    kind, _, rate, byte_rate, align, _ = struct.unpack_from("<HHIIHH", form)
    data = content[at:end]
    per_second = rate * align if kind in PCM else byte_rate  # of compressed sound only about
    is_honest = not unknown and (kind in PCM or len(data) < claimed)
    promised = claimed / per_second if per_second and is_honest else None
    if kind == MP3_IN_WAV:
        return Piece(data, "mp3", promised), behind
    if kind in PCM and align:
        data = data[: len(data) // align * align]
    chunks = b"".join([b"fmt " + struct.pack("<I", len(form)) + form + b"\0" * (len(form) % 2), *before])
    head = b"WAVE" + chunks + b"data" + struct.pack("<I", min(len(data), 2**32 - 1))
    whole = b"RIFF" + struct.pack("<I", min(len(head) + len(data), 2**32 - 1)) + head + data
    return Piece(whole, "wav", promised, sides=sides, rate=rate), behind


def _next_wav(content: bytes, at: int) -> int:
    """Where the next wav begins, or the end: how far sound of unknown length goes."""
    while (found := content.find(b"RIFF", at)) >= 0:
        if content[found + 8 : found + 16] == b"WAVEfmt ":
            return found
        at = found + 1
    return len(content)


def _chunks_end(content: bytes, at: int) -> int:
    """Where the chunks behind the sound end: at another file, at what is no chunk, or at the end."""
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        if name in (b"RIFF", b"RF64") or not name.isascii() or not name.decode("ascii").isprintable():
            break
        if at + 8 + size > len(content):
            break
        at = min(at + 8 + size + size % 2, len(content))
    return at


def _flacs(content: bytes) -> Iterator[Piece]:
    starts = [0]
    for head in (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22"):
        at = content.find(head, 4)
        while at >= 0:
            starts.append(at)
            at = content.find(head, at + 4)
    starts.sort()
    for start, end in zip(starts, [*starts[1:], len(content)], strict=True):
        piece = content[start:end]
        facts = int.from_bytes(piece[18:26], "big")  # rate, channels and bits; the last 36 bits count the samples
        total = facts & (1 << 36) - 1
        if not total:  # legal, but not for our decoder, which reads to the end whatever stands here
            piece = piece[:18] + (facts | 1).to_bytes(8, "big") + piece[26:]
        rate = facts >> 44
        yield Piece(piece, "flac", total / rate if total and rate else None, rate=rate)


def _oggs(content: bytes) -> Contents:
    """Ogg streams one after another: each begins with a page that says so. The last page may be cut off."""
    starts: list[int] = []  # of streams
    last_pages: list[int] = []  # of each
    at, was_first = 0, False
    while (page := _page_end(content, at)) is not None:
        is_first = bool(content[at + 5] & FIRST_PAGE)
        if is_first and not was_first:
            starts.append(at)
        last_pages[len(starts) - 1 :] = [at]
        at, was_first = page, is_first
    if not starts:
        return Contents((Piece(content, "ogg"),))
    spans = zip(starts, [*starts[1:], at], last_pages, strict=True)
    parts = [content[start:last] + _as_last_page(content[last:end]) for start, end, last in spans]
    pieces = tuple(Piece(part, "opus" if b"OpusHead" in part[:256] else "ogg") for part in parts)
    return Contents(pieces, len(content) - at, cut=content[at : at + 4] == b"OggS")


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


def _aiff(content: bytes) -> bytes:
    """The file with its true length where a pipe left none."""
    fixed, common, at = bytearray(content), 0, 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from(">4sI", content, at)
        if name == b"COMM":
            common = at + 8
        if name == b"SSND" and common and _is_dummy(size):
            channels, frames, bits = struct.unpack_from(">HIH", content, common)
            width = max(1, channels * -(-bits // 8))
            there = (len(content) - at - 16) // width
            if _is_dummy(frames) or frames > there:
                struct.pack_into(">I", fixed, common + 2, there)
            struct.pack_into(">I", fixed, at + 4, 8 + there * width)
            struct.pack_into(">I", fixed, 4, len(content) - 8)
            break
        at += 8 + size + size % 2
    return bytes(fixed)


def _caf(content: bytes) -> bytes:
    """The file with its true length where a pipe left none: -1 is legal there."""
    at = 8
    while at + 12 <= len(content):
        name, size = struct.unpack_from(">4sq", content, at)
        if name == b"data" and size <= 0:
            return content[: at + 4] + struct.pack(">q", len(content) - at - 12) + content[at + 12 :]
        if size < 0:
            break
        at += 12 + size
    return content
