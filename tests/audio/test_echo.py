"""Echo: the canceller removes what was played and leaves the user; the detector speaks up on loudspeakers only."""

import sys

import numpy as np
import pytest

from personaplex_cli.audio.echo import BleedDetector, echo_canceller
from personaplex_cli.errors import UsageError
from personaplex_cli.options import LiveSoundCardOptions
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples, level


def babble(seconds: float, seed: int) -> Samples:
    """Noise in words of a fifth of a second with pauses between phrases, loud and soft: an envelope like speech."""
    dice = np.random.default_rng(seed)
    words = round(seconds / 0.2)
    loudness = dice.uniform(0.02, 0.3, words) * (dice.uniform(0, 1, words) < 0.7)
    envelope = np.interp(np.arange(words * 4800), np.arange(words) * 4800 + 2400, loudness)
    return (envelope * dice.standard_normal(len(envelope))).astype(np.float32)


def echo(played: Samples, milliseconds: int, gain: float) -> Samples:
    """What a room makes of it: late, softer, with a tail of 50 ms."""
    tail = np.exp(-np.arange(1200) / 240) * np.random.default_rng(1).standard_normal(1200)
    late = np.concatenate([np.zeros(milliseconds * 24), played])[: len(played)]
    return (gain * np.convolve(late, tail / np.linalg.norm(tail))[: len(played)]).astype(np.float32)


def noticed(heard: Samples, played: Samples) -> float | None:
    """After how many seconds the detector is certain; None if it never is."""
    detector = BleedDetector()
    for begin in range(0, len(heard) - FRAME, FRAME):
        if detector.hears_itself(heard[begin : begin + FRAME], played[begin : begin + FRAME]):
            return begin / SAMPLE_RATE
    return None


@pytest.mark.parametrize("milliseconds", [30, 100, 250, 380])
@pytest.mark.parametrize("gain", [0.03, 0.3, 1.0])
def test_an_echo_is_noticed_in_seconds(milliseconds: int, gain: float) -> None:
    played = babble(30, seed=2)
    hiss = 0.001 * np.random.default_rng(3).standard_normal(len(played)).astype(np.float32)
    after = noticed(echo(played, milliseconds, gain) + hiss, played)
    assert after is not None and 4 <= after <= 12


@pytest.mark.parametrize("seed", range(20))
def test_a_user_who_talks_too_is_no_echo(seed: int) -> None:
    assert noticed(babble(120, seed=100 + seed), babble(120, seed=200 + seed)) is None


def test_turns_and_silence_are_no_echo() -> None:
    agent, user = babble(60, seed=4), babble(60, seed=5)
    turn = (np.arange(len(agent)) // (4 * SAMPLE_RATE)) % 2 == 0
    assert noticed(user * ~turn, agent * turn) is None
    assert noticed(np.zeros_like(agent), agent) is None
    assert noticed(user, np.zeros_like(agent)) is None
    assert noticed(echo(agent, 100, 0.0003), agent) is None  # too soft to disturb


def test_the_canceller_removes_the_echo_and_keeps_the_user() -> None:
    pytest.importorskip("pywebrtc_audio")
    clean = echo_canceller(LiveSoundCardOptions(echo_cancel=True))
    assert clean is not None
    played, user = babble(20, seed=6), babble(20, seed=7)
    user[: 10 * SAMPLE_RATE] = played[10 * SAMPLE_RATE :] = 0
    heard = echo(played, 60, 0.5) + user
    clean = np.concatenate([clean(heard[n : n + FRAME], played[n : n + FRAME]) for n in range(0, len(heard), FRAME)])
    agent, users = slice(2 * SAMPLE_RATE, 10 * SAMPLE_RATE), slice(11 * SAMPLE_RATE, None)
    assert level(heard[agent]) - level(clean[agent]) > 20  # dB
    assert abs(level(clean[users]) - level(user[users])) < 1


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywebrtc_audio", None)
    with pytest.raises(UsageError) as caught:
        echo_canceller(LiveSoundCardOptions(echo_cancel=True))
    assert "pip install" in caught.value.hint
