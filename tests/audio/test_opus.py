"""Opus on its way: sound survives it, however it is cut."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaplex_cli.audio.opus import OpusReader, OpusWriter
from personaplex_cli.errors import AudioError
from personaplex_cli.samples import SAMPLE_RATE, Samples

TIME = np.arange(SAMPLE_RATE) / SAMPLE_RATE
CHIRP: Samples = (0.3 * np.sin(2 * np.pi * (200 + 400 * TIME) * TIME)).astype(np.float32)
CUTS = st.lists(st.integers(0, 5000), min_size=1, max_size=6).filter(any)


def cut(whole: Samples | bytes, sizes: list[int]) -> list[Samples] | list[bytes]:
    """`whole` in pieces of these sizes, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(whole):
        pieces.append(whole[at : at + sizes[turn % len(sizes)]])
        at, turn = at + len(pieces[-1]), turn + 1
    return pieces


def written(sound: Samples) -> bytes:
    writer = OpusWriter()
    return writer.write(sound)


def closeness(sent: Samples, came: Samples) -> float:
    """Signal to what differs, in dB, at the best of all small delays."""
    differences = [came[delay : delay + 12_000] - sent[:12_000] for delay in range(600)]
    return 10 * np.log10(np.mean(sent[:12_000] ** 2) / min(np.mean(each**2) for each in differences))


@settings(max_examples=15, deadline=None)
@given(CUTS, CUTS)
def test_sound_survives_any_cutting(sound_cuts: list[int], byte_cuts: list[int]) -> None:
    writer, reader = OpusWriter(), OpusReader()
    pages = b"".join(map(writer.write, cut(CHIRP, sound_cuts)))
    sound = np.concatenate(list(map(reader.read, cut(pages, byte_cuts))))
    assert len(CHIRP) - 1920 <= len(sound) <= len(CHIRP)
    assert sound.dtype == np.float32
    assert closeness(CHIRP, sound) > 12


def test_a_frame_in_is_a_frame_out_at_once() -> None:
    writer, reader = OpusWriter(), OpusReader()
    assert [len(reader.read(writer.write(frame))) for frame in cut(CHIRP, [1920])][:12] == [1920] * 12


def test_the_same_sound_gives_the_same_bytes_but_for_the_streams_number() -> None:
    assert np.array_equal(OpusReader().read(written(CHIRP)), OpusReader().read(written(CHIRP)))


def test_a_second_stream_may_follow() -> None:
    reader = OpusReader()
    first = reader.read(written(CHIRP))
    assert np.array_equal(reader.read(written(CHIRP)), first)


@settings(max_examples=50)
@given(st.binary(), st.integers(0, 300))
def test_what_is_no_opus_is_told_and_does_not_last(garbage: bytes, at: int) -> None:
    reader, pages = OpusReader(), written(CHIRP)
    for spoiled in (garbage, pages[:at] + garbage + pages[at:]):
        with suppress(AudioError):
            reader.read(spoiled)
    assert np.array_equal(reader.read(pages), OpusReader().read(pages))


def test_noise_is_no_opus() -> None:
    with pytest.raises(AudioError, match="Opus"):
        OpusReader().read(bytes(range(256)) * 8)
