"""`personaplex doctor --sound` on a sound card made of software: tests/with_fake_soundcard.sh pytest tests/endtoend."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    not os.environ.get("PERSONAPLEX_FAKE_SOUNDCARD"),
    reason="no virtual sound card: run with tests/with_fake_soundcard.sh",
)


@contextmanager
def loudspeaker() -> Iterator[None]:
    """The microphone hears the speaker."""
    between = ["speaker:monitor_FL", "microphone:input_MONO"]
    subprocess.run(["pw-link", *between], check=True)
    try:
        yield
    finally:
        subprocess.run(["pw-link", "--disconnect", *between], check=True)


def listened(*arguments: str) -> dict[str, Any]:
    """The findings by name."""
    command = [sys.executable, "-m", "personaplex_cli", "doctor", "--sound", "--json", "--model", "demo", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {each["name"]: each for each in json.loads(done.stdout)["findings"]}


@pytest.mark.parametrize("settings", ["", "{ alsa.rate=48000 }"])
def test_on_loudspeakers_the_echo_and_the_round_trip_are_measured(
    settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEWIRE_ALSA", settings)
    with loudspeaker():
        found = listened()
    assert ("resampled" in found["microphone"]["found"]) == bool(settings)
    assert found["echo"]["kind"] == "warning" and "--echo-cancel" in found["echo"]["advice"]
    assert abs(sorted(found["echo"]["figures"]["levels"])[-1]) < 1  # a wire; some chirps may have lost a piece
    trip = found["round trip"]["figures"]
    assert 20 < trip["milliseconds"] < 500
    # There is no air: what is heard is what the system says, but for its blocks and what a slow machine loses.
    assert abs(trip["milliseconds"] - trip["reported"]) < 60


def test_with_headphones_nothing_is_heard() -> None:
    found = listened()
    assert found["echo"]["found"].startswith("none heard") and "round trip" not in found
    assert found["noise"]["figures"]["silent"]
