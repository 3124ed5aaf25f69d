"""Which channel is heard, and how loud: the voice at its own level, whatever lies beside it."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaplex_cli.audio.recording import read_recording, write_wav
from personaplex_cli.audio.voice import OneChannel, about_clipping, at_full_scale, one_voice
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.samples import SAMPLE_RATE, Samples, level

RATE = SAMPLE_RATE
OFFSETS = st.floats(-0.5, 0.5)  # of an input that nothing is plugged into


def speech(seed: int = 0, seconds: float = 4.0, amplitude: float = 0.1) -> Samples:
    """Noise that comes and goes like syllables and sentences: nobody speaks all the time."""
    random = np.random.default_rng(seed)
    blocks = round(seconds * 10)
    loud = np.repeat(random.random(blocks) * (random.random(blocks) < 0.5), RATE // 10)
    return (amplitude * loud * random.standard_normal(len(loud))).astype(np.float32)


@settings(deadline=None)
@given(st.integers(1, 8), st.data())
def test_a_voice_among_silent_channels_keeps_its_level(count: int, data: st.DataObject) -> None:
    voice = speech()
    with_voice = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    hiss = 10 ** (data.draw(st.floats(-100, -40)) / 20) * 0.05 * np.random.default_rng(3).standard_normal(len(voice))
    hiss += data.draw(OFFSETS)
    sound = np.stack([voice if index in with_voice else hiss for index in range(count)]).astype(np.float32)
    heard, remarks = one_voice(sound, RATE, "x")
    assert level(heard) == pytest.approx(level(voice), abs=0.01)
    assert bool(remarks) == (len(with_voice) < count)


@settings(deadline=None)
@given(st.floats(-1, 1), st.integers(0, 400), st.booleans())
def test_one_voice_in_two_microphones_is_not_made_quieter(gain: float, late: int, inverted: bool) -> None:
    voice = speech()
    other = np.roll(voice, late) * (-1 if inverted else 1) * 10 ** (gain / 20)
    heard, _ = one_voice(np.stack([voice, other]).astype(np.float32), RATE, "x")
    assert abs(level(heard) - level(voice)) <= 1.01


def test_a_call_with_a_speaker_on_each_side_is_heard_whole_or_by_choice() -> None:
    left, right = speech(1), speech(2)
    heard, (remark,) = one_voice(np.stack([left, right]), RATE, "call.wav")
    assert np.allclose(heard, left + right, atol=1e-6)
    assert "different voices in its left and right channel" in remark and "--channel" in remark
    for channel, expected in (("left", left), ("1", left), ("right", right), ("2", right)):
        assert np.array_equal(one_voice(np.stack([left, right]), RATE, "x", channel)[0], expected)


@pytest.mark.parametrize("channel", ["3", "1000"])
def test_a_channel_that_is_not_there(channel: str) -> None:
    with pytest.raises(AudioError, match=f"no channel {channel}: it has 2"):
        one_voice(np.stack([speech(), speech()]), RATE, "x", channel)


@pytest.mark.parametrize("channel", ["0", "-1", "middle", "", "1.5", "²"])
def test_a_channel_that_cannot_be(channel: str) -> None:
    with pytest.raises(UsageError, match="no channel"):
        one_voice(np.stack([speech(), speech()]), RATE, "x", channel)


class TestOurOwnRecordings:
    def write(self, path: Path, channels: tuple[Samples, ...]) -> Path:
        with path.open("wb") as file:
            write_wav(file, *channels)
        return path

    def test_the_user_alone_is_heard(self, tmp_path: Path) -> None:
        user, agent = speech(1), speech(2)
        remarks: list[str] = []
        heard = read_recording(self.write(tmp_path / "x.wav", (user, agent)), remark=remarks.append)
        assert np.abs(heard - user).max() < 1e-3 and "its left channel, the user's" in remarks[0]

    def test_the_other_side_can_be_chosen(self, tmp_path: Path) -> None:
        agent = speech(2)
        heard = read_recording(self.write(tmp_path / "x.wav", (speech(1), agent)), "right")
        assert np.abs(heard - agent).max() < 1e-3

    @pytest.mark.parametrize("name", ["conversation.wav", "a.wav"])
    def test_one_that_was_cut_off_is_known_by_what_lies_beside(self, name: str, tmp_path: Path) -> None:
        whole = io.BytesIO()
        write_wav(whole, speech(1), speech(2))
        (tmp_path / name).write_bytes(whole.getvalue()[: 44 + len(speech()) * 4])
        about: dict[str, Any] = {"personaplex": "1", "settings": {"stereo": True}}
        (tmp_path / ("transcript.json" if name[0] == "c" else "a.json")).write_text(json.dumps(about))
        assert np.abs(read_recording(tmp_path / name) - speech(1)).max() < 1e-3


class TestLevel:
    @settings(deadline=None)
    @given(st.sampled_from([8, 16, 24, 32]), st.floats(0.6, 1))
    def test_integers_as_floats_are_scaled(self, bits: int, loudness: float) -> None:
        sound = np.round(speech(amplitude=0.2) * loudness * 2.0 ** (bits - 1))[None]
        scaled, (remark,) = at_full_scale(sound.astype(np.float32), "x")
        assert np.abs(scaled[0] - speech(amplitude=0.2) * loudness).max() < 0.02
        assert f"numbers of {bits} bits" in remark

    @settings(deadline=None)
    @given(st.floats(-300, 100))
    def test_nothing_gets_beyond_full_scale_and_nothing_odd_goes_without_a_word(self, decibels: float) -> None:
        sound = (speech() / np.abs(speech()).max() * 10 ** (decibels / 20)).astype(np.float32)[None]
        heard, remarks = at_full_scale(sound, "x")
        assert np.abs(heard).max(initial=0) <= 1.0001
        assert bool(remarks) == (not -60 <= decibels < 1) or abs(decibels + 60) < 1e-3 or abs(decibels - 1) < 1e-3

    @given(st.floats(-1, 1))
    def test_silence_deserves_a_word(self, offset: float) -> None:
        silence = np.repeat(np.float32([[offset], [-offset]]), 100, axis=1)
        assert at_full_scale(silence, "x")[1] == ["x is silent: all samples are the same."]

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
    def test_what_is_no_sound(self, value: float) -> None:
        with pytest.raises(AudioError):
            at_full_scale(np.full((1, 100), value, dtype=np.float32), "x")


class TestLive:
    @settings(deadline=None)
    @given(st.integers(1, 8), st.data())
    def test_a_voice_in_one_input_of_an_interface_keeps_its_level(self, count: int, data: st.DataObject) -> None:
        voice, index = speech(), data.draw(st.integers(0, count - 1))
        block = np.full((len(voice), count), data.draw(OFFSETS), dtype=np.float32)
        block[:, index] = voice
        pick = OneChannel(RATE)
        heard = np.concatenate([pick(part) for part in np.array_split(block, 400)])
        since = int(np.flatnonzero(voice)[0]) + RATE // 100  # a block: there it fades in
        assert np.array_equal(heard[since:], voice[since:])

    def test_the_chosen_one_is_heard_however_quiet(self) -> None:
        block = np.stack([speech(1), speech(2) * 0.01], axis=1)
        assert np.array_equal(OneChannel(RATE, 2)(block), block[:, 1])

    def test_who_speaks_at_another_microphone_is_heard(self) -> None:
        block = np.zeros((2 * RATE, 2), dtype=np.float32)
        block[:RATE, 0] = block[RATE:, 1] = voice = np.where(np.arange(RATE) % 100 < 50, 0.1, -0.1)
        pick = OneChannel(RATE)
        heard = np.concatenate([pick(part) for part in np.array_split(block, 100)])
        assert np.array_equal(heard[:RATE], block[:RATE, 0])
        assert np.abs(heard[-RATE // 5 :] - voice[-RATE // 5 :]).max() < 0.01


@settings(deadline=None)
@given(st.floats(0.01, 1), st.floats(4, 20), st.integers(0, 100))
def test_a_clipped_voice_is_told_from_one_that_is_loud(ceiling: float, too_loud: float, seed: int) -> None:
    voice = speech(seed)
    voice *= ceiling / np.abs(voice).max()
    assert about_clipping(voice, "x") == []
    (remark,) = about_clipping(np.clip(too_loud * np.repeat(voice, 3), -ceiling, ceiling), "x")
    assert remark.startswith("x is clipped")


@pytest.mark.parametrize("sound", [np.zeros(0), np.zeros(4000), np.ones(4000), np.full(2, 0.5)])
def test_what_is_no_voice_is_not_called_clipped(sound: Samples) -> None:
    assert about_clipping(sound.astype(np.float32), "x") == []
