"""The codes of telephones are those of the standard, and sound survives them."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.audio.g711 import A_LAW, MU_LAW, RATE, Law, PhoneReader, PhoneWriter
from personaplex_cli.samples import SAMPLE_RATE, Samples, level

ALL_CODES = bytes(range(256))
ALL_LEVELS = np.arange(-32768, 32768, dtype=np.int16)
MINUS_ZERO = 0x7F  # of mu-law, which has two zeros
LAWS = pytest.mark.parametrize("law", [MU_LAW, A_LAW], ids=["mu", "A"])
TIME = np.arange(SAMPLE_RATE) / SAMPLE_RATE
TONE: Samples = (0.5 * np.sin(2 * np.pi * 440 * TIME)).astype(np.float32)


@LAWS
def test_all_codes_come_back(law: Law) -> None:
    kept = bytes(0xFF if law is MU_LAW and code == MINUS_ZERO else code for code in ALL_CODES)
    assert law.encode(law.decode(ALL_CODES)) == kept


@pytest.mark.parametrize(
    ("law", "some"),
    [
        # Of ITU-T G.711's tables: the extremes, the ends of segments, and what is nearest to zero.
        (MU_LAW, {0x00: -32124, 0x80: 32124, 0x8F: 16764, 0x90: 15996, 0xEF: 132, 0xFE: 8, 0xFF: 0, 0x7E: -8}),
        (A_LAW, {0x2A: -32256, 0xAA: 32256, 0xA5: 16896, 0xBA: 16128, 0xD5: 8, 0x55: -8, 0xC5: 264, 0xDA: 248}),
    ],
    ids=["mu", "A"],
)
def test_levels_are_the_standards(law: Law, some: dict[int, int]) -> None:
    assert {code: int(law.levels[code]) for code in some} == some


@LAWS
def test_a_level_stays_near_and_louder_is_never_quieter(law: Law) -> None:
    came = law.decode(law.encode(ALL_LEVELS)).astype(int)
    assert (np.diff(came) >= 0).all()
    size = np.abs(ALL_LEVELS.astype(int))
    inside = size <= law.levels.max()
    assert (
        np.abs(came - ALL_LEVELS)[inside] <= (size // 32 + 8)[inside]
    ).all()  # half of a step in the loudest segment


def test_codes_are_those_of_audioop() -> None:
    with warnings.catch_warnings(action="ignore"):
        audioop = pytest.importorskip("audioop", reason="Python has none any more")
    raw = ALL_LEVELS.tobytes()
    assert MU_LAW.encode(ALL_LEVELS) == audioop.lin2ulaw(raw, 2)
    assert A_LAW.encode(ALL_LEVELS) == audioop.lin2alaw(raw, 2)
    assert MU_LAW.decode(ALL_CODES).tobytes() == audioop.ulaw2lin(ALL_CODES, 2)
    assert A_LAW.decode(ALL_CODES).tobytes() == audioop.alaw2lin(ALL_CODES, 2)


@LAWS
@given(st.lists(st.integers(0, 4000), min_size=1, max_size=6))
def test_sound_survives_a_telephone_however_it_is_cut(law: Law, sizes: list[int]) -> None:
    writer, reader = PhoneWriter(law), PhoneReader(law)
    codes = b"".join(writer.write(part) for part in np.split(TONE, np.cumsum(sizes)))
    assert abs(len(codes) - RATE) < RATE // 100
    sound = np.concatenate([reader.read(codes[at : at + 160]) for at in range(0, len(codes), 160)])
    middle = sound[4000:20000]
    assert sound.dtype == np.float32 and level(middle) == pytest.approx(level(TONE), abs=0.1)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) ** 2
    assert spectrum[290:297].sum() > 1000 * (spectrum.sum() - spectrum[290:297].sum())  # 440 Hz, 30 dB over the rest


@LAWS
def test_what_is_too_loud_is_clipped_and_silence_stays_silent(law: Law) -> None:
    loud = np.repeat(np.float32([4.0, -4.0]), SAMPLE_RATE // 10)
    levels = law.decode(PhoneWriter(law).write(loud))
    assert levels.max() == law.levels.max() and levels.min() == law.levels.min()
    assert np.abs(law.decode(PhoneWriter(law).write(np.zeros(4000, np.float32)))).max() <= 8
