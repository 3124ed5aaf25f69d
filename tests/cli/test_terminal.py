"""The way out of a program whose thread may be busy."""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from personaplex_cli.cli.main import program
from personaplex_cli.cli.terminal import (
    INTERRUPTED,
    ProgramStack,
    agreed,
    complain,
    report,
    say,
    show_list,
    show_text,
    traces,
)
from personaplex_cli.errors import UsageError
from personaplex_cli.findings import WRONG, Finding
from personaplex_cli.screen.tables import show_findings, show_verdict


class Exit(BaseException):
    pass


@pytest.fixture(autouse=True)
def exits(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise Exit(code)

    monkeypatch.setattr(os, "_exit", leave)


def hold(end: object, error: BaseException | None = None) -> list[str]:
    """Open a screen and a program that ends so, perhaps with an error; returns what was closed, in order."""
    closed: list[str] = []

    def ends() -> bool:
        closed.append("program")
        if isinstance(end, BaseException):
            raise end
        return bool(end)

    try:
        with ProgramStack() as stack:
            stack.callback(closed.append, "screen")
            stack.ends(ends)
            if error:
                raise error
    except Exit as left:
        closed.append(str(left))
    return closed


def test_the_program_ends_before_its_screen_closes() -> None:
    assert hold(True) == ["program", "screen"]
    with pytest.raises(KeyError):
        hold(True, KeyError())


def test_a_thread_that_goes_on_ends_with_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert hold(False) == ["program", "screen", "0"]
    assert hold(False, KeyboardInterrupt()) == ["program", "screen", str(INTERRUPTED)]
    assert hold(KeyboardInterrupt(), KeyboardInterrupt()) == ["program", "screen", str(INTERRUPTED)]
    assert capsys.readouterr().err == "Stopped.\n" * 3


def test_what_failed_is_told_though_a_thread_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert hold(False, KeyError("panel")) == ["program", "screen", "1"]
    assert hold(False, UsageError("There is no such device.", "Choose another.")) == ["program", "screen", "2"]
    said = capsys.readouterr().err
    assert "This is a bug: KeyError: 'panel'" in said and "There is no such device.\nChoose another." in said


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_window_that_is_reported_closed_again_does_not_cut_the_end_short() -> None:
    before = signal.getsignal(signal.SIGHUP)
    closed: list[str] = []

    def end() -> bool:
        signal.raise_signal(signal.SIGHUP)
        closed.append("recording")
        return True

    try:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt), ProgramStack() as stack:
            stack.ends(end)
            signal.raise_signal(signal.SIGHUP)
        assert closed == ["recording"]
        assert signal.getsignal(signal.SIGHUP) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_never_started_need_not_end() -> None:
    with pytest.raises(KeyError), ProgramStack():
        raise KeyError


anything = st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "L"]))


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def fail(text: str) -> None:
    try:
        raise OSError(text)
    except OSError as error:
        report(error, debug=True)


def trace(text: str) -> None:
    log = logging.getLogger("personaplex_cli")
    with traces(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "propagate", False)  # to pytest's report, which cannot hold every text
        log.error(text, exc_info=OSError(text))


@pytest.mark.parametrize(
    "show",
    [
        complain,
        lambda text: complain("It failed.", text),
        say,
        show_text,
        lambda text: show_list(["name"], [[text]], False),
        lambda text: show_list(["name"], [[text]], True),
        lambda text: show_findings(Console(), [Finding(WRONG, "name", text, text, text)]),
        lambda text: show_verdict(Console(), WRONG, text),
        lambda text: agreed(text, yes=False),
        fail,
        trace,
    ],
)
@given(text=anything)
def test_no_words_drive_the_terminal(show: Callable[[str], object], text: str) -> None:
    """Whoever wrote them: a server, the hub, a file."""
    assert_readable(show, text)


@settings(max_examples=20)
@given(text=anything)
def test_no_words_that_were_typed_drive_the_terminal(text: str) -> None:
    """Perhaps they are the name of a file that the shell has put there."""
    assert_readable(lambda text: program(["voices", "--x" + text]), text)


def assert_readable(show: Callable[[str], object], text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shown = StringIO()
        patch.setattr(sys, "stdout", shown)
        patch.setattr(sys, "stderr", shown)
        patch.setattr(sys, "stdin", Terminal("no\n"))
        show(text)
    assert all(part.isprintable() for part in re.split("[\t\n]", shown.getvalue()))


def test_a_terminal_gets_lines_that_end_between_words_and_a_file_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    what, remedy = "The model needs more memory than is free on this GPU.", f"Look at {'/long' * 10}, or offload it."
    for is_terminal in (False, True):
        monkeypatch.setenv("FORCE_COLOR", "1" if is_terminal else "")  # as Rich's consoles take it
        complain(what, remedy)
        say(what)
        lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().err).splitlines()
        assert " ".join(map(str.strip, lines)) == f"{what} {remedy} {what}"
        assert (max(map(len, lines)) == 51) == is_terminal  # the path, whole
