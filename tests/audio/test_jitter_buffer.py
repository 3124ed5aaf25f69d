"""Laws of the cushion: what is said is played, gaps are soft and counted, no stall makes the sound late for long."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaplex_cli.audio import jitter_buffer as law
from personaplex_cli.audio.jitter_buffer import JitterBuffer, shorten
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SAMPLE_RATE, Samples

BLOCK = 480  # samples: 20 ms
STEP = 480
FADE = 120


def tone(count: int, begin: int = 0) -> Samples:
    return (0.5 * np.sin(2 * np.pi * 200 * np.arange(begin, begin + count) / SAMPLE_RATE)).astype(np.float32)


SILENCE = np.zeros(FRAME, dtype=np.float32)
SPEECH = tone(FRAME)  # 16 whole periods


def played(cushion: JitterBuffer, milliseconds: int) -> Samples:
    return np.concatenate([cushion.take(BLOCK) for _ in range(milliseconds // 20)] or [SILENCE[:0]])


def converse(cushion: JitterBuffer, frames: Iterable[Samples]) -> Samples:
    """A frame every 80 ms."""
    sound = [np.zeros(0, dtype=np.float32)]
    for frame in frames:
        cushion.put(frame)
        sound.append(played(cushion, 80))
    return np.concatenate(sound)


def steepest(sound: Samples) -> float:
    return float(np.abs(np.diff(sound, prepend=0)).max())


def test_it_begins_with_the_cushion_and_then_plays_what_was_said() -> None:
    cushion = JitterBuffer(SAMPLE_RATE)
    assert not played(cushion, 100).any()  # no sound has come, nothing is missing
    said = np.concatenate([tone(FRAME, begin) for begin in range(0, 50 * FRAME, FRAME)])
    sound = converse(cushion, np.split(said, 50))
    begin = round(law.FIRST_SECONDS * SAMPLE_RATE)
    assert not sound[:begin].any()
    assert np.array_equal(sound[begin + FADE :], said[FADE : len(said) - begin])
    assert (cushion.underruns, cushion.shed, cushion.dropped) == (0, 0, 0)
    assert cushion.depth == cushion.thickness == begin


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=20), st.integers(8_000, 96_000))
def test_whatever_is_asked_for_is_given(counts: list[int], rate: int) -> None:
    cushion = JitterBuffer(rate)
    for index, count in enumerate(counts):
        if index % 3 == 0:
            cushion.put(tone(round(FRAME_SECONDS * rate)))
        block = cushion.take(count)
        assert block.shape == (count,) and block.dtype == np.float32
        assert np.isfinite(block).all() and np.abs(block).max() <= 1


@pytest.mark.parametrize("block", [64, 100, 480, 1000, 4096])
def test_a_gap_is_silent_soft_and_counted_once(block: int) -> None:
    cushion = JitterBuffer(SAMPLE_RATE)
    cushion.put(tone(3 * FRAME - 17))  # ends in the middle of a period, and of a block
    before = np.concatenate([cushion.take(block) for _ in range(6 * FRAME // block)])
    assert cushion.underruns == 1
    assert not cushion.take(block).any()
    cushion.put(tone(5 * FRAME, 30))
    after = np.concatenate([cushion.take(block) for _ in range(4 * FRAME // block + 1)])
    assert after.any()
    assert steepest(np.concatenate([before, after])) < 2 * 0.5 * 2 * np.pi * 200 / SAMPLE_RATE
    assert cushion.underruns == 1


def test_it_grows_by_20_ms_when_it_runs_dry_and_no_further_than_120_ms() -> None:
    cushion = JitterBuffer(SAMPLE_RATE)
    thickness = []
    for _ in range(8):
        cushion.put(SILENCE)
        played(cushion, 400)
        thickness.append(cushion.thickness * 1000 // SAMPLE_RATE)
    assert thickness == [60, 80, 100, 120, 120, 120, 120, 120]
    assert cushion.underruns == 8


def test_it_shrinks_by_20_ms_in_30_clean_seconds_and_the_latency_with_it() -> None:
    cushion = JitterBuffer(SAMPLE_RATE)
    for _ in range(4):
        cushion.put(SILENCE)
        played(cushion, 400)
    assert cushion.thickness == 120 * 24
    for seconds, thickness in ((29, 120), (2, 100), (28, 100), (2, 80), (30, 60), (30, 40), (30, 20), (60, 20)):
        converse(cushion, [SILENCE] * round(seconds / FRAME_SECONDS))
        assert cushion.thickness == thickness * 24
    assert cushion.depth <= cushion.thickness + STEP
    assert cushion.underruns == 4


@pytest.mark.parametrize("late", [20, 40, 60, 100, 200])
def test_frames_that_come_late_now_and_then_are_soon_heard_without_gaps(late: int) -> None:
    cushion = JitterBuffer(SAMPLE_RATE)
    for _ in range(10):
        converse(cushion, [SPEECH] * 10)
        played(cushion, late)
        cushion.put(SPEECH)
        if late < 80:
            played(cushion, 80 - late)
        else:
            for _ in range(late // 80):
                cushion.put(SPEECH)
            played(cushion, 80 * (1 + late // 80) - late)
    assert cushion.underruns <= 4
    assert cushion.depth <= cushion.thickness + STEP + law.LOUD_SECONDS * SAMPLE_RATE + 80 * 24


@settings(deadline=None)
@given(st.integers(0, 40), st.sampled_from([SILENCE, SPEECH]), st.integers(1, 2000))
def test_a_burst_after_a_stall_is_bounded_and_shed(frames: int, frame: Samples, block: int) -> None:
    """A stall of any length; then the frames of that time all at once; then the talk goes on."""
    cushion = JitterBuffer(SAMPLE_RATE)
    converse(cushion, [frame] * 5)
    played(cushion, frames * 80)
    for _ in range(frames):
        cushion.put(frame)
    for _ in range(STEP // block + 2):
        cushion.take(block)
    bound = round((law.LIMIT_SECONDS + FRAME_SECONDS) * SAMPLE_RATE)
    converse(cushion, [frame])
    assert cushion.depth <= bound
    converse(cushion, [frame] * round(14 / FRAME_SECONDS))
    allowed = law.LOUD_SECONDS * SAMPLE_RATE if frame is SPEECH else 0
    assert cushion.depth <= cushion.thickness + STEP + allowed + BLOCK
    converse(cushion, [SILENCE] * 15)
    assert cushion.depth <= cushion.thickness + STEP + BLOCK
    assert cushion.underruns <= 3


def test_what_was_dropped_is_the_oldest_and_the_seam_is_soft() -> None:
    cushion = JitterBuffer(SAMPLE_RATE)
    converse(cushion, [SPEECH] * 5)
    for begin in range(20):
        cushion.put(tone(FRAME, begin * FRAME))
    sound = played(cushion, 400)
    assert cushion.dropped > 0
    assert np.abs(np.diff(sound)).max() < 2 * np.abs(np.diff(SPEECH)).max()
    assert cushion.underruns == 0


def test_only_the_quiet_part_of_a_frame_is_cut() -> None:
    pause = np.concatenate([tone(960), SILENCE[:480], tone(480, 960)])
    shorter = shorten(pause, 10_000, SAMPLE_RATE)
    assert len(shorter) == FRAME - 480 + FADE
    assert np.array_equal(shorter[:960], pause[:960]) and np.array_equal(shorter[-480:], pause[-480:])
    assert len(shorten(pause, 100, SAMPLE_RATE)) == FRAME - 100


@given(st.integers(1, 5000), st.sampled_from([8_000, 24_000, 44_100, 96_000]), st.booleans())
def test_shortening_never_takes_more_than_asked_for_and_speech_only_if_it_may(most: int, rate: int, loud: bool) -> None:
    frame = tone(round(0.08 * rate))
    cut = len(frame) - len(shorten(frame, most, rate, loud))
    assert cut <= min(most, round(law.LOUD_CUT_SECONDS * rate) + 1) if loud else cut == 0
    assert 0 <= len(SILENCE) - len(shorten(SILENCE, most, SAMPLE_RATE)) <= most


@given(st.integers(0, FRAME))
def test_shortened_speech_has_no_step(begin: int) -> None:
    frame = tone(FRAME, begin)
    shorter = shorten(frame, FRAME, SAMPLE_RATE, loud=True)
    assert len(shorter) == FRAME - 240
    assert np.abs(np.diff(shorter)).max() < 1.5 * np.abs(np.diff(frame)).max()


def test_putting_never_waits_when_nothing_is_taken() -> None:
    cushion = JitterBuffer(SAMPLE_RATE)
    for _ in range(1000):
        cushion.put(SPEECH)
    assert cushion.depth < 10 * SAMPLE_RATE
    assert cushion.dropped > 0
