"""A sound for the user to hear, on a sound card made of numbers."""

from collections.abc import Callable
from threading import Event

import numpy as np
import pytest
from fakecard import FakeCard, device, plug_in
from hypothesis import given, settings
from hypothesis import strategies as st

from personaplex_cli.audio import player
from personaplex_cli.audio.player import play
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.options import SpeakerOptions
from personaplex_cli.samples import SAMPLE_RATE, Samples


def played(card: FakeCard, sound: Samples, patch: pytest.MonkeyPatch) -> Samples:
    """What comes out of the speaker, while the time of the card passes in place of waiting."""

    class Passing(Event):
        def wait(self, timeout: float | None = None) -> bool:
            while not self.is_set() and card.pass_time():
                pass
            return self.is_set()

    patch.setattr(player, "Event", Passing)
    plug_in(card, patch)
    play(sound, SpeakerOptions())
    assert not card.running
    return np.concatenate(card.played)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 20_000), st.lists(st.integers(1, 2000), min_size=1, max_size=5), st.booleans())
def test_all_of_a_sound_is_played_and_then_silence(samples: int, blocks: list[int], mono: bool) -> None:
    """However many channels the speaker has, but no microphone."""
    sound = np.random.default_rng(samples).uniform(-1, 1, samples).astype(np.float32)
    card = FakeCard(listed=[device("Speaker", inputs=0, outputs=2)], blocks=tuple(blocks), mono=mono)
    with pytest.MonkeyPatch.context() as patch:
        out = played(card, sound, patch)
    assert np.array_equal(out[:samples], sound)
    assert len(out) >= samples + SAMPLE_RATE // 2 and not out[samples:].any()


def test_at_the_rate_of_the_speaker(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = np.sin(0.1 * np.arange(SAMPLE_RATE)).astype(np.float32)
    out = played(FakeCard(rates=(48_000,)), sound, monkeypatch)
    assert np.allclose(out[1000:40_000], np.sin(0.05 * np.arange(1000, 40_000)), atol=0.01)


def test_a_speaker_that_stops_or_is_not_there(plug: Callable[..., FakeCard], monkeypatch: pytest.MonkeyPatch) -> None:
    plug()  # nothing lets its time pass
    monkeypatch.setattr(player, "PATIENCE", 0.0)
    with pytest.raises(AudioError, match="Fake has stopped"):
        play(np.zeros(10, dtype=np.float32), SpeakerOptions())
    with pytest.raises(UsageError, match="no output device 'zz'"):
        play(np.zeros(10, dtype=np.float32), SpeakerOptions(output_device="zz"))
