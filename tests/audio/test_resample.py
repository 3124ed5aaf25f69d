"""Laws of the resampler: how the sound was cut does not matter, how late it comes is known, and it stays itself."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from personaplex_cli.audio.resample import Resampler
from personaplex_cli.samples import Samples

RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]


def tone(hertz: float, rate: int, seconds: float = 1.0) -> Samples:
    return np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate).astype(np.float32)


def root_mean_square(sound: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(sound[len(sound) // 4 : -len(sound) // 4]))))


@settings(deadline=None)
@given(st.sampled_from(RATES), st.booleans(), st.lists(st.integers(0, 5000), min_size=1, max_size=8))
def test_blocks_do_not_matter(rate: int, upward: bool, sizes: list[int]) -> None:
    rates = (rate, 24_000) if upward else (24_000, rate)
    sound = np.random.default_rng(0).standard_normal(sum(sizes)).astype(np.float32)
    resampler = Resampler(*rates)
    cut = np.concatenate([resampler(part) for part in np.split(sound, np.cumsum(sizes)[:-1])])
    whole = Resampler(*rates)(sound)
    both = min(len(cut), len(whole))
    assert max(len(cut), len(whole)) - both <= 1 + rates[1] // rates[0]
    assert np.allclose(cut[:both], whole[:both], atol=1e-5)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("upward", [True, False])
def test_next_to_nothing_is_held_back(rate: int, upward: bool) -> None:
    rates = (rate, 24_000) if upward else (24_000, rate)
    resampler, block = Resampler(*rates), np.zeros(rates[0] // 50, dtype=np.float32)
    came = 0
    for number in range(1, 101):
        came += len(resampler(block))
        held = number * len(block) / rates[0] - came / rates[1]
        assert -0.001 < held < 70 / min(rates)  # seconds


@pytest.mark.parametrize("rate", RATES)
def test_speech_is_kept(rate: int) -> None:
    limit = min(rate, 24_000) / 2
    for hertz in (0.02 * limit, 0.3 * limit, 0.8 * limit):
        there = Resampler(rate, 24_000)(tone(hertz, rate))
        back = Resampler(24_000, rate)(there)
        assert root_mean_square(there) == pytest.approx(0.5**0.5, rel=0.01)
        assert root_mean_square(back) == pytest.approx(0.5**0.5, rel=0.01)


def test_what_cannot_be_kept_disappears() -> None:
    for hertz in (12_200, 15_000, 20_000):
        assert root_mean_square(Resampler(48_000, 24_000)(tone(hertz, 48_000))) < 10 ** (-75 / 20)


def test_it_is_the_sound_that_soxr_makes_of_it() -> None:
    sound = sum(tone(hertz, 48_000) for hertz in (110, 440, 1_000, 3_000, 6_000)) / 5
    ours, soxrs = Resampler(48_000, 24_000)(sound), soxr.resample(sound, 48_000, 24_000)
    assert np.allclose(ours[500:-500], soxrs[500 : len(ours) - 500], atol=1e-3)


def test_equal_rates_change_nothing() -> None:
    sound = tone(440, 24_000)
    assert Resampler(24_000, 24_000)(sound) is sound
