"""FLAC: how long a stream says that it is, and where it ends, which only its last frame shows."""

import struct

from personaplex_cli.audio.pieces import Found, Piece, next_start

SYNC = (b"\xff\xf8", b"\xff\xf9")  # how a frame begins: with frames of one size, and of several
HEAD = 42  # bytes of the mark and of what is said of the stream


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = (byte << 1 ^ (0x07 if byte & 0x80 else 0)) & 0xFF
    return byte


CRC = [_crc_of_byte(byte) for byte in range(256)]


def flac(content: bytes, start: int) -> Found:
    """The stream at `start`. A length of 0 is legal, but not for our decoder, which reads to the end in any case."""
    end = next_start(content, start + 4)
    piece = content[start:end]
    if end == len(content):
        piece = piece[: _end(piece)]
    facts = int.from_bytes(piece[18:26], "big")  # rate, channels and bits; the last 36 bits count the samples
    total, rate = facts & (1 << 36) - 1, facts >> 44
    end = start + len(piece)
    if not total:
        piece = piece[:18] + (facts | 1).to_bytes(8, "big") + piece[26:]
    return Piece(piece, "flac", total / rate if total and rate else None, rate=rate), end


def _end(piece: bytes) -> int:
    """Where the last frame ends at the latest: whatever comes behind is no sound."""
    if len(piece) < HEAD:
        return len(piece)
    block, largest = struct.unpack_from(">H", piece, 10)[0], int.from_bytes(piece[15:18], "big")
    facts = int.from_bytes(piece[18:26], "big")
    channels, bits = (facts >> 41 & 7) + 1, (facts >> 36 & 31) + 1
    uncompressed = block * channels * (bits + 7) // 8 + 64
    last = max((_last_frame(piece, sync) for sync in SYNC), default=-1)
    return len(piece) if last < 0 else min(len(piece), last + min(largest or uncompressed, uncompressed))


def _last_frame(piece: bytes, sync: bytes) -> int:
    """Where the last frame begins whose head is what its checksum says; -1 if there is none."""
    at = piece.rfind(sync, HEAD)
    while at >= 0 and not _is_head(piece[at : at + 16]):
        at = piece.rfind(sync, HEAD, at + 1)
    return at


def _is_head(head: bytes) -> bool:
    """Whether these are the first bytes of a frame: its head is 6 to 16 bytes long and ends in a checksum."""
    if len(head) < 16:
        return False
    number = max(1, 8 - (head[4] ^ 0xFF).bit_length()) if head[4] & 0x80 else 1
    size, rate = head[2] >> 4, head[2] & 15
    end = 4 + number + {6: 1, 7: 2}.get(size, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    check = 0
    for byte in head[:end]:
        check = CRC[check ^ byte]
    return end < 16 and head[end] == check
