"""Keys on a real terminal: a pty, whose other end types."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from personaplex_cli.screen.keys import Keys

pytest.importorskip("termios", reason="Windows has no pty")
import pty
import termios

WAIT = 10.0  # seconds: how long a key may take on a busy machine


class Pty:
    def __init__(self) -> None:
        self.hand, terminal = pty.openpty()
        self.stream = open(terminal, encoding="utf-8", newline="")  # noqa: SIM115
        self.before = self.settings()

    def type(self, text: str) -> None:
        os.write(self.hand, text.encode())

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.stream)

    def shows_each_key(self) -> bool:
        return not self.settings()[3] & (termios.ICANON | termios.ECHO)


@pytest.fixture
def terminal() -> Iterator[Pty]:
    end = Pty()
    yield end
    os.close(end.hand)
    end.stream.close()


def test_keys_come_one_by_one_without_enter(terminal: Pty) -> None:
    with Keys(terminal.stream) as keys:
        assert keys.poll() is None
        terminal.type("mé?")
        assert [keys.poll(WAIT) for _ in range(3)] == ["m", "é", "?"]
        assert keys.poll() is None


def test_a_key_ends_the_wait(terminal: Pty) -> None:
    with Keys(terminal.stream) as keys:
        typing = threading.Timer(0.05, terminal.type, ("q",))
        typing.start()
        began = time.monotonic()
        assert keys.poll(WAIT) == "q"
        assert time.monotonic() - began < WAIT
        typing.join()


def test_arrows_and_function_keys_are_no_letters(terminal: Pty) -> None:
    with Keys(terminal.stream) as keys:
        terminal.type("\x1b[A\x1bOP\x1b[15~\x1b[1;5Cd")
        assert keys.poll(WAIT) == "d"
        assert keys.poll() is None


def test_a_pasted_book_does_not_pile_up(terminal: Pty) -> None:
    with Keys(terminal.stream) as keys:
        terminal.type("x" * 500)
        assert keys.poll(WAIT) == "x"
        taken = 0
        while keys.poll() and taken < 1_000:
            taken += 1
        assert taken < 500


def test_the_terminal_is_given_back(terminal: Pty) -> None:
    with Keys(terminal.stream):
        assert terminal.shows_each_key()
        assert terminal.settings()[3] & termios.ISIG  # Ctrl-C stays a signal
    assert terminal.settings() == terminal.before


def test_the_terminal_is_given_back_after_an_error_and_only_once(terminal: Pty) -> None:
    with pytest.raises(KeyboardInterrupt), Keys(terminal.stream) as keys:
        keys.__exit__()
        assert terminal.settings() == terminal.before
        raise KeyboardInterrupt
    assert terminal.settings() == terminal.before


def test_after_a_stop_the_keys_work_again(terminal: Pty) -> None:
    default = signal.getsignal(signal.SIGCONT)
    with Keys(terminal.stream) as keys:
        termios.tcsetattr(terminal.stream, termios.TCSANOW, terminal.before)  # as the shell does
        signal.raise_signal(signal.SIGCONT)
        assert terminal.shows_each_key()
        terminal.type("m")
        assert keys.poll(WAIT) == "m"
    assert signal.getsignal(signal.SIGCONT) == default


def test_a_terminal_that_is_gone_is_like_none() -> None:
    terminal = Pty()
    with Keys(terminal.stream) as keys:
        os.close(terminal.hand)
        assert keys.poll(WAIT) is None
        assert keys.poll() is None
    terminal.stream.close()


@pytest.mark.parametrize("stream", [io.StringIO("m"), None])
def test_what_is_no_terminal_has_no_keys(stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with Keys(stream) as keys:
        began = time.monotonic()
        assert keys.poll(0.02) is None
        assert time.monotonic() - began > 0.01  # it still waits: the program draws at its pace


def test_ctrl_c_interrupts_a_wait_and_leaves_the_terminal_as_it_was(terminal: Pty) -> None:
    program = """
import fcntl, sys, termios
from personaplex_cli.screen.keys import Keys
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
with Keys() as keys:
    print("ready", flush=True)
    keys.poll(60)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdin=terminal.stream, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        terminal.type("\x03")
        _, complaint = child.communicate(timeout=WAIT)
    assert b"KeyboardInterrupt" in complaint
    assert terminal.settings() == terminal.before


@pytest.mark.parametrize(
    ("answer", "colour"),
    [
        ("\x1b]11;rgb:1e1e/2828/32ff\x1b\\", (0x1E, 0x28, 0x32)),
        ("\x1b]11;rgb:ff/80/00\x07", (255, 128, 0)),
        ("\x1b]11;rgba:ffff/ffff/ffff/ffff\x07", (255, 255, 255)),
    ],
)
def test_a_terminal_says_its_background_and_keys_typed_meanwhile_are_kept(
    terminal: Pty, answer: str, colour: tuple[int, int, int]
) -> None:
    with Keys(terminal.stream) as keys:
        terminal.type("m" + answer + "s")
        assert keys.background(WAIT) == colour
        assert os.read(terminal.hand, 64) == b"\x1b]11;?\x1b\\"
        assert [keys.poll(WAIT), keys.poll(WAIT), keys.poll()] == ["m", "s", None]


def test_a_terminal_that_does_not_answer_is_not_waited_for_and_a_late_answer_presses_no_key(terminal: Pty) -> None:
    with Keys(terminal.stream) as keys:
        assert keys.background(0.01) is None
        terminal.type("\x1b]11;rgb:dddd/")
        assert keys.poll(0.01) is None
        terminal.type("dddd/dddd\x1b\\r")
        assert keys.poll(WAIT) == "r"
        assert keys.poll() is None


@pytest.mark.parametrize(
    "said",
    ["\x1b]11;rgb:dd/dd/dd\x1b\\", "\x1b]" + 2000 * "q" + "\x07", "\x1bP>|XTerm(370)\x1b\\", "\x1bOP", "\x1b[1;5C"],
)
def test_what_a_terminal_says_presses_no_key_wherever_it_is_cut(terminal: Pty, said: str) -> None:
    with Keys(terminal.stream) as keys:
        for cut in range(1, min(len(said), 40)):
            terminal.type(said[:cut])
            assert keys.poll(0.01) is None
            terminal.type(said[cut:])
            assert [keys.poll(0.01) for _ in range(4)] == [None] * 4  # what is long comes in pieces
        terminal.type("m")
        assert keys.poll(WAIT) == "m"


def test_a_sequence_that_never_ends_does_not_make_the_keyboard_deaf(
    terminal: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personaplex_cli.screen.keys.PATIENCE", 0.01)
    with Keys(terminal.stream) as keys:
        for begun in ("\x1b", "\x1b]", "\x1bO", "\x1b[", "\x1bP1"):
            terminal.type(begun)
            assert keys.poll(0.02) is None
            time.sleep(0.02)
            terminal.type("q")
            assert keys.poll(WAIT) == "q"


def test_asleep_the_terminal_is_the_shells_and_awake_the_keys_work_again(terminal: Pty) -> None:
    program = """
from personaplex_cli.screen.keys import Keys
with Keys() as keys:
    print("ready", flush=True)
    print(keys.poll(60), flush=True)
"""
    # In a process group of its own: one without a parent that could continue it is never stopped.
    command = [sys.executable, "-c", program]
    child = subprocess.Popen(command, stdin=terminal.stream, stdout=subprocess.PIPE, process_group=0)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert terminal.shows_each_key()
        os.kill(child.pid, signal.SIGTSTP)
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert terminal.settings() == terminal.before
        os.kill(child.pid, signal.SIGCONT)
        terminal.type("m")
        assert child.stdout.readline() == b"m\n"
    assert terminal.settings() == terminal.before
