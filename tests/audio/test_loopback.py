"""Laws of the chirp: it is found wherever it is, however soft, in noise up to a stated level, and nowhere else."""

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
from fakecard import FakeCard, device, plug_in
from hypothesis import given, settings
from hypothesis import strategies as st

from personaplex_cli.audio import loopback as room
from personaplex_cli.audio.loopback import CHIRPS, EVERY, LEAD, chirp, chirps, find, loopback_result, measure_loopback
from personaplex_cli.options import SoundCardOptions
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples, level

SENT = chirp()
LONGEST = EVERY - FRAME  # samples that a chirp may be late
DECIBELS = st.floats(-60, 10)
SEEDS = st.integers(0, 2**32 - 1)


def hiss(count: int, dbfs: float, seed: int) -> Samples:
    return (10 ** (dbfs / 20) * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def late(sound: Samples, samples: int, gain: float) -> Samples:
    """What a wire makes of it: later, softer or upside down, of the same length."""
    return (gain * np.concatenate([np.zeros(samples, dtype=np.float32), sound])[: len(sound)]).astype(np.float32)


@settings(deadline=None)
@given(place=st.integers(0, LONGEST), decibels=DECIBELS, upside_down=st.booleans())
def test_in_silence_it_is_found_to_the_sample(place: int, decibels: float, upside_down: bool) -> None:
    gain = 10 ** (decibels / 20) * (-1 if upside_down else 1)
    found = find(late(np.pad(SENT, (0, LONGEST)), place, gain), SENT)
    assert found is not None and found.place == place
    assert 20 * np.log10(found.gain) == pytest.approx(decibels, abs=0.01)


@settings(deadline=None)
@given(place=st.integers(0, LONGEST), decibels=DECIBELS, above=st.floats(-40, 6), seed=SEEDS)
def test_in_noise_6_db_louder_it_is_found_within_a_millisecond(
    place: int, decibels: float, above: float, seed: int
) -> None:
    came = late(np.pad(SENT, (0, LONGEST)), place, 10 ** (decibels / 20))
    found = find(came + hiss(len(came), level(SENT) + decibels + above, seed), SENT)
    assert found is not None and abs(found.place - place) <= SAMPLE_RATE / 1000


@settings(deadline=None)
@given(seed=SEEDS, dbfs=st.floats(-90, 0), constant=st.floats(-0.5, 0.5))
def test_noise_is_no_chirp(seed: int, dbfs: float, constant: float) -> None:
    assert find(hiss(LONGEST + len(SENT), dbfs, seed) + np.float32(constant), SENT) is None


def test_nothing_is_found_in_nothing_or_in_too_little() -> None:
    for count in (0, 1, len(SENT) - 1, len(SENT), 40_000):
        assert find(np.zeros(count, dtype=np.float32), SENT) is None


def test_it_is_pleasant() -> None:
    """It begins and ends softly, and is not louder than speech."""
    assert abs(SENT[0]) == abs(SENT[-1]) == 0 and np.abs(np.diff(SENT[:50])).max() < 1e-3
    assert np.abs(SENT).max() <= 0.2 and level(SENT) < -15
    sound = chirps()
    assert not sound[:LEAD].any() and np.count_nonzero(np.abs(sound) > 0.1) > CHIRPS * 5000


@settings(deadline=None)
@given(delay=st.integers(0, round(0.9 * SAMPLE_RATE)), decibels=st.floats(-50, 6), seed=SEEDS)
def test_delay_and_level_are_what_the_way_makes_of_them(delay: int, decibels: float, seed: int) -> None:
    """All that is played is a frame late by nature, which is not counted. The noise is 60 dB down."""
    heard = late(chirps(), FRAME + delay, 10 ** (decibels / 20))
    came = loopback_result(heard + hiss(len(heard), level(SENT) + decibels - 60, seed))
    assert came.heard and len(came.delays) == CHIRPS
    assert came.delay == pytest.approx(1000 * delay / SAMPLE_RATE, abs=0.06) and came.spread <= 0.1
    assert came.level == pytest.approx(decibels, abs=0.11)
    assert came.noise == pytest.approx(max(-100, level(SENT) + decibels - 60), abs=0.5)


@settings(deadline=None)
@given(decibels=st.floats(-50, 0), seed=SEEDS)
def test_noise_as_loud_as_the_echo_does_not_count_as_echo(decibels: float, seed: int) -> None:
    heard = late(chirps(), FRAME + 2400, 10 ** (decibels / 20))
    came = loopback_result(heard + hiss(len(heard), level(SENT) + decibels, seed))
    assert came.level == pytest.approx(decibels, abs=0.5)


def test_a_room_that_answers_counts_with_all_its_answer() -> None:
    """A tail of noise after the wall: the correlation alone would miss most of it."""
    tail = np.exp(-np.arange(1200) / 240) * np.random.default_rng(1).standard_normal(1200)
    tail[0] = np.abs(tail).max() * 2
    heard = np.convolve(late(chirps(), FRAME + 2400, 1.0), tail / np.linalg.norm(tail))[: len(chirps())]
    came = loopback_result(heard.astype(np.float32))
    assert came.delay == pytest.approx(100, abs=1)
    assert came.level == pytest.approx(0, abs=2)


def test_a_delay_that_changes_is_told_as_its_spread() -> None:
    """The cushion gets thicker by 20 ms in the middle."""
    sound, middle = chirps(), LEAD + 3 * EVERY - FRAME
    heard = late(sound, FRAME + 1000, 0.1)
    heard[middle:] = late(sound, FRAME + 1480, 0.1)[middle:]
    came = loopback_result(heard)
    assert came.heard and came.spread == pytest.approx(20, abs=0.1)
    assert came.delay == pytest.approx(1000 / 24, abs=0.1)


@settings(deadline=None)
@given(seed=SEEDS, delays=st.lists(st.integers(0, LONGEST), min_size=CHIRPS, max_size=CHIRPS))
def test_what_comes_at_any_time_is_no_echo(seed: int, delays: list[int]) -> None:
    """Sounds alike at times of their own are counted only where most of them agree."""
    heard = hiss(len(chirps()), -60, seed)
    for begin, delay in zip(range(LEAD, LEAD + CHIRPS * EVERY, EVERY), delays, strict=True):
        heard[begin + FRAME + delay :][: len(SENT)] += 0.1 * SENT[: len(heard) - begin - FRAME - delay]
    came = loopback_result(heard)
    assert not came.delays or came.spread <= 2000 * room.MAX_SPREAD
    if came.heard:
        agreed = sum(abs(1000 * each / SAMPLE_RATE - came.delay) <= 2000 * room.MAX_SPREAD for each in delays)
        assert agreed > CHIRPS / 2


@pytest.mark.parametrize("dbfs", [-200.0, -80.0, -20.0])
def test_with_headphones_nothing_is_heard(dbfs: float) -> None:
    came = loopback_result(hiss(len(chirps()), dbfs, 1))
    assert not came.heard and not came.silent
    assert came.noise == pytest.approx(max(dbfs, -100), abs=0.5)


def test_a_microphone_that_delivers_nothing() -> None:
    came = loopback_result(np.zeros(len(chirps()), dtype=np.float32))
    assert came.silent and not came.heard and came.noise == -100


# The whole way, on a card made of numbers.


def wire(fake: FakeCard, delay: int, gain: float) -> Callable[[Samples], Samples]:
    """From the speaker to the microphone, `delay` samples of the card's later."""
    waiting = deque([np.zeros(delay, dtype=np.float32)])
    taken = 0

    def feedback(heard: Samples) -> Samples:
        nonlocal taken
        waiting.extend(fake.played[taken:])
        taken = len(fake.played)
        line = np.concatenate(waiting)
        waiting.clear()
        waiting.append(line[len(heard) :])
        return gain * line[: len(heard)]

    return feedback


@pytest.mark.parametrize(
    ("rate", "block", "two_devices"),
    [(24_000, 480, False), (24_000, 1024, False), (48_000, 960, False), (24_000, 480, True)],
)
def test_the_round_trip_is_that_of_the_card(
    monkeypatch: pytest.MonkeyPatch, rate: int, block: int, two_devices: bool
) -> None:
    """A longer wire makes it longer by as much; the rest is the cushion and the card's own blocks."""
    trips = []
    for milliseconds in (100, 250):
        listed = [device("Mic", outputs=0), device("Speaker", inputs=0)] if two_devices else [device("Fake")]
        microphone = hiss(10 * rate, -70, 1)
        fake = plug_in(FakeCard(microphone=microphone, blocks=(block,), listed=listed, rates=(rate,)), monkeypatch)
        fake.feedback = wire(fake, milliseconds * rate // 1000, 0.1)
        came = measure_loopback(SoundCardOptions())
        assert len(came.delays) == CHIRPS and came.level == pytest.approx(-20, abs=0.5)
        assert came.noise == pytest.approx(-70, abs=4)  # less of it where a resampler cuts its upper half
        assert came.reported > 50 and ("Mic" if two_devices else "Fake") in came.card
        assert not any(stream.running for stream in fake.opened)
        trips.append(came.delay)
    assert trips[1] - trips[0] == pytest.approx(150, abs=2 * 1000 * block / rate)
    assert 100 <= trips[0] <= 300


def test_headphones_on_the_card_made_of_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(FakeCard(microphone=hiss(10 * SAMPLE_RATE, -60, 1)), monkeypatch)
    came = measure_loopback(SoundCardOptions())
    assert not came.heard and came.noise == pytest.approx(-60, abs=0.5)
