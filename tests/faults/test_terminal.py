"""`chat` on a terminal that is taken from it: signals, Ctrl-Z, a window that is closed, a device that is lost."""

import json
import os
import signal
import wave
from pathlib import Path

import pytest

if os.name == "nt":
    pytest.skip("terminals and signals of Unix", allow_module_level=True)
from liveterminal import HIDDEN, SHOWN, OnTerminal

SECOND = 24_000 * 4  # bytes of both sides


def check_recording(folder: Path) -> float:
    """The only recording there is whole; its seconds."""
    (talk,) = folder.iterdir()
    assert not list(talk.glob(".*"))
    json.loads((talk / "transcript.json").read_text())
    with wave.open(str(talk / "conversation.wav")) as file:
        assert (talk / "conversation.wav").stat().st_size >= 44 + 4 * file.getnframes()
        return file.getnframes() / file.getframerate()


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    return tmp_path / "talks"


def test_a_signal_gives_the_terminal_back_and_closes_the_recording(talks: Path) -> None:
    with OnTerminal("chat", "--record", str(talks)) as chat:
        chat.until(b"word")
        chat.send(signal.SIGTERM)
        assert chat.end() == 128 + signal.SIGTERM
        assert b"Traceback" not in chat.drawn
    assert check_recording(talks) > 0


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_goes_on(talks: Path) -> None:
    with OnTerminal("chat", "--record", str(talks)) as chat:
        chat.until(b"word")
        for _ in range(2):
            chat.type(b"\x1a")
            chat.until(b"SHELL")
            assert chat.settings() == chat.before and chat.drawn.rfind(SHOWN) > chat.drawn.rfind(HIDDEN)
            chat.type(b"\n")
            chat.until(HIDDEN)
            chat.until(b"word")
        chat.type(b"q")
        assert chat.end() == 0
    assert check_recording(talks) > 0


def test_a_window_that_is_closed_ends_the_talk_and_keeps_it(talks: Path) -> None:
    with OnTerminal("chat", "--record", str(talks)) as chat:
        while not any(path.stat().st_size > 2 * SECOND for path in talks.glob("*/conversation.wav")):
            chat.until(b"word")
        chat.hang_up()  # the system says so, and the shell may say it again
        chat.end()  # its shell has ended, too
    assert check_recording(talks) > 0


def test_a_lost_device_gives_the_terminal_back_and_closes_the_recording(talks: Path) -> None:
    with OnTerminal("chat", "--record", str(talks), LOST_AFTER="20") as chat:
        assert chat.end() == 5
        assert b"Traceback" not in chat.drawn
    assert check_recording(talks) == pytest.approx(20 * 0.08)
