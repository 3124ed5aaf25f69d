"""The whole program through a real PortAudio, on a sound card made of software: see with_fake_soundcard.sh."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personaplex_cli.audio.recording import read_recording
from personaplex_cli.samples import FRAME, Samples, level

pytestmark = pytest.mark.skipif(
    "PERSONAPLEX_FAKE_SOUNDCARD" not in os.environ, reason="needs tests/with_fake_soundcard.sh"
)

QUESTION = Path(__file__).parents[2] / "examples/question.wav"
CHAT = [sys.executable, "-m", "personaplex_cli", "chat", "--device", "cpu", "--seed", "1", "--json"]


class Call:
    """`personaplex chat --json` in a process of its own; `until` reads its events."""

    def __init__(self, model: Path, *arguments: str) -> None:
        command = [*CHAT, "--model", str(model), *arguments]
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def until(self, kind: str, count: int = 1, **fields: Any) -> None:
        """Read events until `count` of this kind, with these fields, have come."""
        assert self.process.stdout
        for line in self.process.stdout:
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == kind and fields.items() <= event.items():
                count -= 1
                if not count:
                    return
        raise AssertionError(f"it ended: {self.events[-3:]}")

    def hang_up(self) -> tuple[int, str]:
        """Ctrl-C; the exit code and what it said on stderr."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.stdout and self.process.stderr
        with self.process:
            self.events += map(json.loads, self.process.stdout)
            err = self.process.stderr.read()
        return self.process.returncode, err

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def explained(sound: Samples, piece: Samples) -> float:
    """How much of a piece's energy the place in `sound` explains that is most like it."""
    size = 2**20
    alike = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(piece, size)))
    return float(np.abs(alike).max() / np.sum(np.square(piece)))


def test_a_call(demo_folder: Path, tmp_path: Path) -> None:
    """Somebody speaks into the microphone, is heard, and an answer comes out of the speaker."""
    call = Call(demo_folder, "--record", str(tmp_path))
    call.until("state", name="live")
    heard_outside = tmp_path / "speaker.wav"
    record = ["parec", "--device=speaker.monitor", "--rate=24000", "--channels=1", "--file-format=wav", heard_outside]
    recorder = subprocess.Popen(record)
    call.until("step", 10)
    subprocess.run(["paplay", "--device=room", QUESTION], check=True)
    call.until("step", 12)
    recorder.send_signal(signal.SIGINT)
    recorder.wait()
    code, err = call.hang_up()

    assert code == 130 and err.startswith("Stopped.")
    assert call.events[-1] == {"event": "state", "name": "ended", "detail": ""}
    steps, question = call.of("step"), read_recording(QUESTION)
    assert [step["index"] for step in steps] == list(range(len(steps)))
    assert max(step["heard"] for step in steps) > -25 and max(step["said"] for step in steps) > -40
    with wave.open(str(next(tmp_path.glob("*/conversation.wav")))) as kept:
        assert kept.getnframes() == len(steps) * FRAME
        left = np.frombuffer(kept.readframes(kept.getnframes()), "<i2").reshape(-1, 2)[:, 0] / 32767
    # What the model heard is the question. A busy machine's card loses a block now and then: the pieces move apart.
    alike = [explained(left, piece) for piece in np.split(question[: len(question) // 8 * 8], 8) if level(piece) > -40]
    assert len(alike) > 3 and np.median(alike) > 0.8
    assert level(read_recording(heard_outside)) > -45


def test_a_card_of_48_khz_only(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPEWIRE_ALSA", "{ alsa.rate=48000 }")
    call = Call(demo_folder)
    call.until("step", 40)
    code, _ = call.hang_up()
    assert code == 130
    assert all("48 kHz" in opened["microphone"] for opened in call.of("devices")) and call.of("devices")


def test_a_terminal_gets_its_settings_back(demo_folder: Path) -> None:
    """In a real terminal: the panel comes, `q` ends it, the terminal is as it was."""
    if not shutil.which("tmux"):
        pytest.skip("needs tmux")
    server = ["tmux", "-u", "-L", f"personaplex-{os.getpid()}"]
    command = f"LC_ALL=C.UTF-8 {sys.executable} -m personaplex_cli chat --device cpu --model {demo_folder}"
    shell = f"stty -a > {demo_folder}/before; {command}; echo code $?; stty -a > {demo_folder}/after; sleep 60"
    subprocess.run([*server, "new-session", "-d", "-x", "80", "-y", "24", shell], check=True)

    def screen_shows(text: str) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            shown = subprocess.run([*server, "capture-pane", "-p"], capture_output=True, encoding="utf-8").stdout
            if text in shown:
                return shown
            time.sleep(0.1)
        raise AssertionError(f"no {text!r} on the screen:\n{shown}")

    try:
        assert "teacher" in screen_shows("Live")
        screen_shows("answers in")  # the delay is known: a frame has been answered
        subprocess.run([*server, "send-keys", "m"], check=True)
        screen_shows("muted")
        subprocess.run([*server, "send-keys", "q"], check=True)
        shown = screen_shows("code 0")
        assert "Talked for" in shown and "Traceback" not in shown
        while not (demo_folder / "after").exists() or not (demo_folder / "after").stat().st_size:
            time.sleep(0.05)
        assert (demo_folder / "before").read_text() == (demo_folder / "after").read_text()
    finally:
        subprocess.run([*server, "kill-server"], check=False)
