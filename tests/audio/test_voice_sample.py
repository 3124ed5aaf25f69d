"""What of a recording becomes a voice: its loudness, its best part, what is said of it."""

from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaplex_cli.audio.recording import read_recording, write_wav
from personaplex_cli.audio.voice_sample import Chosen, choose_voice_sample, read_voice_sample
from personaplex_cli.errors import AudioError
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SAMPLE_RATE, Samples

ROOM = 0.0003  # -70 dBFS
few = settings(max_examples=25, deadline=None)


def tone(seconds: float, amplitude: float = 0.3) -> Samples:
    return (amplitude * np.sin(0.11 * np.arange(round(seconds * SAMPLE_RATE)))).astype(np.float32)


def noise(frames: int, amplitude: float, seed: int = 0) -> Samples:
    return (amplitude * np.random.default_rng(seed).standard_normal(frames * FRAME)).astype(np.float32)


def talk(*frames: int, amplitude: float = 0.05, room: float = ROOM) -> Samples:
    """Frames of somebody who speaks, of a pause, of speech, and so on. Between syllables the room is heard."""
    parts = [noise(count, room, place) for place, count in enumerate(frames)]
    for place, part in enumerate(parts[::2]):
        syllables = part.reshape(-1, FRAME)
        syllables[:, FRAME // 4 :] += noise(len(syllables), amplitude, 99 - place).reshape(-1, FRAME)[:, FRAME // 4 :]
    return np.concatenate(parts)


def wav(folder: Path, sound: Samples) -> Path:
    with (folder / "x.wav").open("wb") as file:
        write_wav(file, sound)
    return folder / "x.wav"


def chosen(folder: Path, sound: Samples) -> Chosen:
    return choose_voice_sample(wav(folder, sound))


def loudness(sound: Samples) -> float:
    return float(pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(sound))


def enough(most: int, count: int) -> st.SearchStrategy[list[int]]:
    """Frames for `talk`, with more than three seconds of speech first."""
    return st.lists(st.integers(5, most), min_size=1, max_size=count).map(lambda frames: [40 + frames[0], *frames[1:]])


@pytest.mark.parametrize("amplitude", [0.01, 0.3, 1.0])
def test_it_is_set_to_the_loudness_of_the_models_voices(amplitude: float, tmp_path: Path) -> None:
    assert loudness(read_voice_sample(wav(tmp_path, tone(1.0, amplitude)))) == pytest.approx(-24, abs=0.1)


def test_peaks_stay_below_full_scale(tmp_path: Path) -> None:
    quiet = tone(1.0, 0.003)
    quiet[5000] = 0.9
    assert np.abs(read_voice_sample(wav(tmp_path, quiet))).max() <= 0.9901


@pytest.mark.parametrize("read", [read_voice_sample, choose_voice_sample])
def test_too_short_or_silent_is_an_error(read: object, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"shorter than 0\.4 s"):
        read(wav(tmp_path, tone(0.39)))  # type: ignore[operator]
    with pytest.raises(AudioError, match="is silent"):
        read(wav(tmp_path, np.zeros(SAMPLE_RATE, dtype=np.float32)))  # type: ignore[operator]


@few
@given(enough(120, 7), st.floats(0.005, 0.3))
def test_a_part_of_at_most_20_seconds_that_is_as_loud_as_voices_are(
    tmp_path_factory: pytest.TempPathFactory, frames: list[int], amplitude: float
) -> None:
    part = chosen(tmp_path_factory.mktemp("x"), talk(*frames, amplitude=amplitude))
    assert 0 <= part.start < part.end <= part.whole
    assert len(part.sound) <= 20 * SAMPLE_RATE
    assert np.abs(part.sound).max() <= 0.9901
    assert loudness(part.sound) == pytest.approx(-24, abs=0.5) or np.abs(part.sound).max() > 0.98


@few
@given(enough(40, 5).filter(lambda frames: len(frames) % 2))
def test_of_what_is_short_enough_all_speech_is_kept_and_the_silence_around_it_is_not(
    tmp_path_factory: pytest.TempPathFactory, frames: list[int]
) -> None:
    speech, folder = talk(*frames), tmp_path_factory.mktemp("x")
    part = chosen(folder, np.concatenate([noise(30, ROOM), speech, noise(50, ROOM)]))
    begin, end = 30 * FRAME_SECONDS, (30 + sum(frames)) * FRAME_SECONDS
    assert begin - 2 * FRAME_SECONDS <= part.start <= begin
    assert end <= part.end <= end + 2 * FRAME_SECONDS


def test_what_was_made_ready_comes_out_as_it_is(tmp_path: Path) -> None:
    ready = wav(tmp_path, chosen(tmp_path, talk(100, 20, 90)).sound)
    assert np.array_equal(read_voice_sample(ready), read_recording(ready))


def test_the_choice_does_not_depend_on_how_loud_it_was_recorded(tmp_path: Path) -> None:
    sound = talk(60, 30, 200, 20, 20)
    loud, quiet = chosen(tmp_path, sound), chosen(tmp_path, sound / 40)
    assert (loud.start, loud.end) == (quiet.start, quiet.end)


def test_of_a_long_recording_the_part_with_the_most_speech(tmp_path: Path) -> None:
    part = chosen(tmp_path, talk(60, 100, 150, 8, 80, 100, 90))
    assert part.start == pytest.approx(160 * FRAME_SECONDS, abs=0.2)
    assert part.end == pytest.approx(398 * FRAME_SECONDS, abs=0.2)
    assert part.warnings == ()


def test_of_long_pauses_a_second_is_kept(tmp_path: Path) -> None:
    part = chosen(tmp_path, talk(80, 300, 80))
    assert part.end - part.start == pytest.approx(460 * FRAME_SECONDS, abs=0.2)
    assert part.seconds == pytest.approx((160 + 12) * FRAME_SECONDS, abs=0.2)


def test_a_click_is_no_speech(tmp_path: Path) -> None:
    sound = np.concatenate([noise(40, ROOM), talk(150), noise(60, ROOM)])
    sound[10 * FRAME] = sound[-10 * FRAME] = 0.9
    part = chosen(tmp_path, sound)
    assert part.start == pytest.approx(39 * FRAME_SECONDS, abs=0.1)
    assert part.end == pytest.approx(191 * FRAME_SECONDS, abs=0.1)


def test_who_makes_no_pause_is_cut_where_it_is_quietest(tmp_path: Path) -> None:
    sound = talk(400)
    sound[180 * FRAME : 181 * FRAME] *= 0.3
    part = chosen(tmp_path, sound)
    assert (part.start, part.end) == pytest.approx((0, 181 * FRAME_SECONDS))
    assert abs(part.sound[-1]) < 0.01 < np.abs(part.sound[-FRAME:]).max(), "it fades"


def test_what_makes_a_voice_worse_is_said(tmp_path: Path) -> None:
    assert chosen(tmp_path, talk(100, 10, 60)).warnings == ()
    (short,) = chosen(tmp_path, talk(50)).warnings
    assert "Only 4.0 s of it is speech" in short
    (noisy,) = chosen(tmp_path, talk(100, 20, 60, room=0.01)).warnings
    assert "only 16 dB above the noise" in noisy
    (clipped,) = chosen(tmp_path, np.clip(40 * talk(100, 20, 60), -1, 1)).warnings
    assert "is clipped" in clipped


@few
@given(st.integers(4, 60))
def test_less_than_three_seconds_of_speech_make_no_voice(tmp_path_factory: pytest.TempPathFactory, frames: int) -> None:
    folder, sound = tmp_path_factory.mktemp("x"), np.concatenate([noise(60, ROOM), talk(frames), noise(60, ROOM)])
    if frames * FRAME_SECONDS >= 3:
        assert chosen(folder, sound).seconds >= 3
        return
    with pytest.raises(AudioError, match=rf"Only {frames * FRAME_SECONDS:.1f} s of .* is speech"):
        chosen(folder, sound)


def test_a_recording_of_hours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="longer than 600 s"):
        chosen(tmp_path, np.zeros(601 * SAMPLE_RATE, dtype=np.float32))
