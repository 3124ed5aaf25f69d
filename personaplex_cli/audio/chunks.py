"""Formats that are made of chunks, each with a name and a length: one recording is found, and where it ends.

Decoders take what lies behind the sound for sound, or stop at the first recording of several; so each is cut out here,
and given its true length where a program that wrote into a pipe left a dummy.
"""

import struct

from personaplex_cli.audio.pieces import Found, Piece, is_dummy, next_start, starts_at

SIDES = b"personaplex: left is the user, right is the agent"  # a comment in our own recordings of two voices
MP3_IN_WAV = 0x55
PCM = (1, 3, 0xFFFE)
AU_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # bytes of a sample, by encoding
EBML, SEGMENT, VOID = b"\x1aE\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"
W64_TAILS = (bytes.fromhex("00c04f8edb8a"), bytes.fromhex("28db04c10000"))  # how the names of chunks end
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def wav(content: bytes, start: int) -> Found | None:
    """RIFF, and RF64 or BW64 with lengths of 64 bits. None if it has no sound."""
    form = long_size = b""
    before: list[bytes] = []
    sides = False
    at = start + 12
    while (chunk := content[at : at + 4]) != b"data":
        if len(chunk) < 4 or at + 8 > len(content):
            return None
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
        return None
    claimed = struct.unpack_from("<I", content, at + 4)[0]
    if claimed == 0xFFFFFFFF and len(long_size) == 8:
        claimed = int.from_bytes(long_size, "little")
    at += 8
    unknown = is_dummy(claimed) and not (claimed == 0 and _chunks_end(content, at) == len(content))
    if unknown:
        end = behind = next_start(content, at)
    else:
        end = min(at + claimed, len(content))
        behind = _chunks_end(content, _behind_pad(content, end, claimed))
    sides |= SIDES in content[end:behind]
    return _as_wav(form, before, content[at:end], None if unknown else claimed, sides), behind


def wave64(content: bytes, start: int) -> Found | None:
    """Sony's: a wav whose names are GUIDs and whose lengths have 64 bits. It becomes a wav."""
    form, at = b"", start + 40
    while at + 24 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 16 : at + 24], "little")
        if name == b"data" and len(form) >= 16:
            unknown = size <= 24 or size >= 2**62
            end = next_start(content, at) if unknown else min(at + size, len(content))
            piece = _as_wav(form, [], content[at + 24 : end], None if unknown else size - 24, False)
            return piece, _wave64_end(content, start, end)
        if size < 24:
            break
        form = content[at + 24 : at + size] if name == b"fmt " else form
        at += -(-size // 8) * 8
    return None


def aiff(content: bytes, start: int) -> Found | None:
    """AIFF and AIFF-C. None if it has no sound, or does not say of what kind."""
    chunks: dict[bytes, bytes] = {}
    at, claimed = start + 12, 0
    while at + 8 <= len(content) and not starts_at(content, at):
        name, size = struct.unpack_from(">4sI", content, at)
        end = at + 8 + size
        if name == b"SSND" and name not in chunks:
            claimed = size
            end = next_start(content, at) if is_dummy(size) else min(end, len(content))
        elif not _is_name(name) or end > len(content):
            break
        chunks[name] = content[at + 8 : end]
        at = _behind_pad(content, end, size)
    if b"SSND" not in chunks or len(chunks.get(b"COMM", b"")) < 18:
        return None
    if is_dummy(claimed):
        chunks[b"COMM"], chunks[b"SSND"] = _true_length(chunks[b"COMM"], chunks[b"SSND"])
        claimed = len(chunks[b"SSND"])
    return _as_aiff(content[start + 8 : start + 12], chunks, claimed), at


def _as_aiff(kind: bytes, chunks: dict[bytes, bytes], claimed: int) -> Piece:
    """The file with its sound, of so many bytes, at its end: decoders take all that follows for sound."""
    sound, common = chunks.pop(b"SSND"), chunks[b"COMM"]
    parts = [struct.pack(">4sI", name, len(each)) + each + b"\0" * (len(each) % 2) for name, each in chunks.items()]
    body = kind + b"".join(parts) + b"SSND" + struct.pack(">I", claimed)
    whole = b"FORM" + struct.pack(">I", min(len(body) + claimed, 2**32 - 1)) + body + sound
    exponent, mantissa = struct.unpack_from(">HQ", common, 8)  # of the rate
    rate = mantissa * 2.0 ** (exponent - 16446) if 16383 <= exponent < 16383 + 32 else 0.0
    frames = struct.unpack_from(">I", common, 2)[0]
    return Piece(whole, "other", frames / rate if rate else None, has_length=True)


def caf(content: bytes, start: int) -> Found | None:
    """Apple's Core Audio Format, where -1 is a legal length. None if it has no sound."""
    form, at = b"", start + 8
    while at + 12 <= len(content):
        name, size = struct.unpack_from(">4sq", content, at)
        if name == b"data":
            end = next_start(content, at) if size <= 0 else min(at + 12 + size, len(content))
            behind = _caf_end(content, end)
            true = end - at - 12 if size <= 0 else size
            whole = content[start : at + 4] + struct.pack(">q", true) + content[at + 12 : behind]
            return Piece(whole, "other", _caf_seconds(form, true), has_length=True), behind
        if size < 0 or not _is_name(name):
            break
        form = content[at + 12 : at + 12 + size] if name == b"desc" else form
        at += 12 + size
    return None


def mp4(content: bytes, start: int) -> Found | None:
    """MP4, QuickTime and 3GP: boxes, from one `ftyp` to the next."""
    at, cut = start, False
    while at + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        if size == 1:
            size = int.from_bytes(content[at + 8 : at + 16], "big")
        if (at > start and starts_at(content, at)) or not _is_name(name) or 0 < size < 8:
            break
        cut = size > len(content) - at
        at = min(at + size, len(content)) if size else len(content)
    return Piece(content[start:at], "other", has_length=True, cut=cut), at


def matroska(content: bytes, start: int) -> Found | None:
    """Matroska and WebM: a header and a segment, which may be of unknown length."""
    at, cut = start, False
    while content[at : at + 4] == SEGMENT or content[at : at + 1] == VOID or at == start:
        head = at + (1 if content[at : at + 1] == VOID else 4)
        length = 9 - content[head].bit_length() if head < len(content) else 9
        if length > 8 or head + length > len(content):
            break
        size = int.from_bytes(content[head : head + length], "big") & (1 << 7 * length) - 1
        if size == (1 << 7 * length) - 1:
            return Piece(content[start : (at := next_start(content, head))], "matroska"), at
        cut = size > len(content) - head - length
        at = min(head + length + size, len(content))
    return (Piece(content[start:at], "matroska", cut=cut), at) if at > start else None


def asf(content: bytes, start: int) -> Found | None:
    """Windows Media: objects, from one header to the next."""
    at, cut = start, False
    while at + 24 <= len(content):
        name, size = content[at : at + 16], int.from_bytes(content[at + 16 : at + 24], "little")
        if (at > start and starts_at(content, at)) or size < 24:
            break
        if size > len(content) - at:
            at, cut = (len(content), True) if name == ASF_DATA else (at, cut)
            break
        at += size
    return (Piece(content[start:at], "other", cut=cut), at) if at > start else None


def au(content: bytes, start: int) -> Found | None:
    """Sun's au: a header and the sound, often of unknown length."""
    if start + 24 > len(content):
        return None
    head, size, encoding, rate, channels = struct.unpack_from(">5I", content, start + 4)
    at = start + head
    end = next_start(content, at) if is_dummy(size) else min(at + size, len(content))
    per_second = AU_WIDTHS.get(encoding, 0) * rate * channels
    promised = size / per_second if per_second and not is_dummy(size) else None
    return Piece(content[start:end], "other", promised), max(end, start + 24)


def _as_wav(form: bytes, before: list[bytes], data: bytes, claimed: int | None, sides: bool) -> Piece:
    """The sound as a wav with its true length; `claimed` are the bytes of the header, None if they are not known."""
    kind, _, rate, byte_rate, align, _ = struct.unpack_from("<HHIIHH", form)
    per_second = rate * align if kind in PCM else byte_rate  # of compressed sound only about
    is_honest = claimed is not None and (kind in PCM or len(data) < claimed)
    promised = claimed / per_second if claimed is not None and per_second and is_honest else None
    if kind == MP3_IN_WAV:
        return Piece(data, "mp3", promised)
    if kind in PCM and align:
        data = data[: len(data) // align * align]
    chunks = b"".join([b"fmt " + struct.pack("<I", len(form)) + form + b"\0" * (len(form) % 2), *before])
    head = b"WAVE" + chunks + b"data" + struct.pack("<I", min(len(data), 2**32 - 1))
    whole = b"RIFF" + struct.pack("<I", min(len(head) + len(data), 2**32 - 1)) + head + data
    return Piece(whole, "wav", promised, sides=sides, rate=rate)


def _true_length(common: bytes, data: bytes) -> tuple[bytes, bytes]:
    """What COMM and SSND of an aiff of unknown length should hold."""
    channels, frames, bits = struct.unpack_from(">HIH", common)
    width = max(1, channels * -(-bits // 8))
    there = max(0, len(data) - 8) // width
    if is_dummy(frames) or frames > there:
        common = common[:2] + struct.pack(">I", there) + common[6:]
    return common, data[: 8 + there * width]


def _caf_seconds(form: bytes, size: int) -> float | None:
    """How long so many bytes last, where all packets have the same size."""
    if len(form) < 24:
        return None
    rate, _, _, packet, frames = struct.unpack_from(">d4s3I", form)
    return (size - 4) / packet * frames / rate if packet and frames and rate > 0 else None


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= each < 127 for each in name)


def _behind_pad(content: bytes, end: int, size: int) -> int:
    """Chunks of odd size are followed by a zero, which some programs leave out."""
    return end + 1 if size % 2 and content[end : end + 1] == b"\0" and not starts_at(content, end) else end


def _chunks_end(content: bytes, at: int) -> int:
    """Where the chunks behind the sound of a wav end: at another file, at what is no chunk, or at the end."""
    return _end_of(content, at, "<4sI", even=True)


def _caf_end(content: bytes, at: int) -> int:
    return _end_of(content, at, ">4sq")


def _end_of(content: bytes, at: int, form: str, even: bool = False) -> int:
    head = struct.calcsize(form)
    while at + head <= len(content):
        name, size = struct.unpack_from(form, content, at)
        if starts_at(content, at) or not _is_name(name) or not 0 <= size <= len(content) - at - head:
            break
        at = min(at + head + size + (size % 2 if even else 0), len(content))
    return at


def _wave64_end(content: bytes, start: int, at: int) -> int:
    """Where the chunks behind the sound end, each at a multiple of 8 bytes from the start of the file."""
    while not starts_at(content, at):
        chunk = at + (start - at) % 8
        size = int.from_bytes(content[chunk + 16 : chunk + 24], "little")
        is_chunk = content[chunk + 10 : chunk + 16] in W64_TAILS and 24 <= size <= len(content) - chunk
        if starts_at(content, chunk) or not is_chunk:
            break
        at = chunk + size
    return min(at, len(content))
