"""The real PortAudio on a sound card made of software: run with `tests/with_fake_soundcard.sh pytest tests/endtoend`.

Speech is played into the microphone, the agent repeats every frame, the speaker is recorded. Slow machines may lose
some sound; what is asserted here holds on them too.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from personaplex_cli.audio.devices import devices
from personaplex_cli.audio.recording import read_recording
from personaplex_cli.audio.soundcard import DEFAULT_DEVICES, SoundCard, waited
from personaplex_cli.errors import AudioError
from personaplex_cli.events import Devices, Event, Glitch, Note, Phase, State
from personaplex_cli.options import LiveSoundCardOptions, SoundCardOptions
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SAMPLE_RATE, Samples, frame_at, level

SOUND_SERVER = os.environ.get("PERSONAPLEX_FAKE_SOUNDCARD", "")

pytestmark = [
    pytest.mark.skipif(not SOUND_SERVER, reason="no virtual sound card: run with tests/with_fake_soundcard.sh"),
    pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed"),
]

BEGIN_FRAME = 25  # the speech begins after two seconds
TEXT = (
    "Hello? Can you hear me? The quick brown fox jumps over the lazy dog, and then it goes home to sleep. Good night."
)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Seven seconds of a voice."""
    path = tmp_path / "speech.wav"
    subprocess.run(["espeak-ng", "-w", path, TEXT], check=True)
    return path


@contextmanager
def recording(path: Path) -> Iterator[None]:
    """What the speaker plays meanwhile."""
    command = ["parec", "--device=speaker.monitor", "--latency-msec=20", "--rate=24000", "--channels=1"]
    recorder = subprocess.Popen([*command, "--file-format=wav", path])
    try:
        while not path.exists() or path.stat().st_size < 10_000:  # it has begun
            time.sleep(0.02)
        yield
    finally:
        recorder.terminate()
        recorder.wait()


def talk(
    seconds: float,
    options: SoundCardOptions = DEFAULT_DEVICES,
    answer: Callable[[int, Samples], Samples] = lambda _, heard: heard,
) -> tuple[Samples, list[Event], list[float]]:
    """A talk: what was heard, what was told, and the milliseconds around the engine at each frame."""
    heard: list[Samples] = []
    told: list[Event] = []
    around: list[float] = []
    with SoundCard(options, told.append) as card:
        for index, frame in enumerate(waited(card)):
            heard.append(frame)
            card.play(answer(index, frame))
            latency = card.latency()
            around.append(latency.device_in + latency.queue + latency.cushion + latency.device_out)
            if index * FRAME > seconds * SAMPLE_RATE:
                break
    return np.concatenate(heard), told, around


def found(sound: Samples, speech: Samples) -> int:
    """How many of seven seconds of `speech` are in `sound` as they were."""
    return sum(likeness(sound, part) > 0.9 for part in np.split(speech[: 7 * SAMPLE_RATE], 7))


def likeness(long: Samples, short: Samples) -> float:
    """How much of `short` is somewhere in `long` (1: it is there exactly)."""
    size = len(long) + len(short)
    product = np.fft.irfft(np.fft.rfft(long, size) * np.conj(np.fft.rfft(short, size)), size)[: len(long)]
    place = int(np.argmax(product))
    energy = np.linalg.norm(long[place : place + len(short)]) * np.linalg.norm(short)
    return float(product[place] / (energy + 1e-9))


def repeat_speech(speech: Path, played: Path) -> tuple[Samples, list[Event], list[float]]:
    """Play the speech into the microphone, repeat it, record the speaker."""
    players: list[subprocess.Popen[bytes]] = []

    def answer(index: int, heard: Samples) -> Samples:
        if index == BEGIN_FRAME:
            players.append(subprocess.Popen(["paplay", "--device=room", speech]))
        return heard

    with recording(played):
        talked = talk(BEGIN_FRAME * FRAME_SECONDS + 9, answer=answer)
    for player in players:
        with player:
            player.terminate()
    return talked


def glitches(told: list[Event], detail: str) -> int:
    return sum(isinstance(event, Glitch) and event.detail == detail for event in told)


def names(told: list[Event]) -> list[Phase]:
    return [event.name for event in told if isinstance(event, State)]


def test_the_virtual_card_is_listed() -> None:
    default = next(each for each in devices() if each.is_default_input)
    assert default.is_default_output and default.host_api == "ALSA"


def test_speech_is_heard_and_what_is_said_is_played(speech: Path, tmp_path: Path) -> None:
    heard, told, around = repeat_speech(speech, tmp_path / "played.wav")
    said = read_recording(speech)
    assert found(heard, said) >= 4
    assert found(read_recording(tmp_path / "played.wav"), said) >= 4
    assert glitches(told, "the answer came late") <= 2
    assert 40 < np.median(around) < 250  # milliseconds


def test_a_card_that_only_runs_at_48_khz(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPEWIRE_ALSA", "{ alsa.rate=48000 }")
    heard, told, _ = repeat_speech(speech, tmp_path / "played.wav")
    said = read_recording(speech)
    assert "48 kHz" in next(event.microphone for event in told if isinstance(event, Devices))
    assert found(heard, said) >= 4
    assert found(read_recording(tmp_path / "played.wav"), said) >= 4


def test_a_rate_that_the_card_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPEWIRE_ALSA", "{ alsa.rate=48000 }")
    with pytest.raises(AudioError, match="Invalid sample rate"):
        talk(1, SoundCardOptions(device_rate=44_100))


def test_a_sound_server_that_stands_still_for_three_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    server = int(SOUND_SERVER)

    def stop() -> None:
        time.sleep(2)
        os.kill(server, signal.SIGSTOP)
        time.sleep(3)
        os.kill(server, signal.SIGCONT)

    stopping = threading.Thread(target=stop)
    stopping.start()
    heard, told, _ = talk(8)
    stopping.join()
    assert len(heard) > 8 * SAMPLE_RATE
    assert names(told) == [Phase.RECONNECTING, Phase.LIVE]
    assert capfd.readouterr().err == ""


def test_echo_is_noticed_and_cancelled(speech: Path, tmp_path: Path) -> None:
    pytest.importorskip("pywebrtc_audio")
    voice = np.tile(read_recording(speech) * 0.5, 3)
    between = ["speaker:monitor_FL", "microphone:input_MONO"]
    subprocess.run(["pw-link", *between], check=True)
    try:
        plain, told, _ = talk(12, answer=lambda index, _: frame_at(voice, index))
        clean, told_clean, _ = talk(12, LiveSoundCardOptions(echo_cancel=True), lambda index, _: frame_at(voice, index))
    finally:
        subprocess.run(["pw-link", "--disconnect", *between], check=True)
    later = slice(4 * SAMPLE_RATE, None)
    assert level(plain[later]) > -40
    assert level(plain[later]) - level(clean[later]) > 20  # dB of echo return loss
    assert any("--echo-cancel" in event.text for event in told if isinstance(event, Note))
    assert not any("--echo-cancel" in event.text for event in told_clean if isinstance(event, Note))
