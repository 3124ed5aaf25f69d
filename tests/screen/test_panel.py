"""That the panel leaves a clean terminal, and writes no more than it must."""

import io
import os
import signal
import sys

import pytest
from paper import Terminal
from rich.console import Console
from scenes import talking

from personaplex_cli.events import Began, Finished, Muted, Phase, State
from personaplex_cli.screen.drawing import View
from personaplex_cli.screen.keys import Keys
from personaplex_cli.screen.panel import Panel, screen_for
from personaplex_cli.screen.screens import PlainLines
from personaplex_cli.screen.state import written
from personaplex_cli.screen.theme import theme_for


@pytest.fixture(autouse=True)
def a_terminal_of_some_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


CONVERSATION = """\
  teacher, voice NATF2, seed 42
  00:00  teacher  Hello, what shall we talk about?
  00:03      you  ▆▅▆▆▄▆▅▆▆▄▆▅▆▆▄  2.4 s"""
ENDING = """
  00:07  teacher  The sky is blue since air scatters
  00:08      you  ▆▅▆▆▄▆▅▆▆▄  1.6 s
  Talked for 00:10, 13 words. Steps took 50 ms (p50), 50 ms (p95); 1 of 125
  missed 80 ms; 2 underruns."""
HEAD = "\n╭─ ● Live"


def panel_on(terminal: "Terminal") -> Panel:
    return Panel(terminal.console, theme_for(terminal.console, "none"), View())


def test_finished_turns_stay_and_the_panel_goes() -> None:
    terminal = Terminal()
    with panel_on(terminal) as panel:
        for now, event in talking():
            panel.show(event)
            panel.refresh(now)
        text = terminal.look()
        assert text.startswith(CONVERSATION + HEAD)
        assert text.count("Live") == text.count("q quit") == 1
        assert not terminal.paper.cursor
        assert terminal.paper.title == "personaplex teacher"
    assert terminal.look() == CONVERSATION + ENDING
    assert terminal.paper.cursor
    assert not terminal.paper.kept


def test_an_exception_leaves_a_clean_terminal_too() -> None:
    terminal = Terminal()
    with pytest.raises(KeyboardInterrupt), panel_on(terminal) as panel:
        for now, event in talking():
            panel.show(event)
            if now < 15.0:
                panel.refresh(now)
        raise KeyboardInterrupt
    assert terminal.look() == CONVERSATION + ENDING
    assert terminal.paper.cursor


def test_the_files_are_named_at_the_end() -> None:
    terminal = Terminal()
    with panel_on(terminal) as panel:
        panel.show(Finished("you", ("talk.wav", "talk.json"), 1.0, 1.0, ""))
    assert terminal.look() == "  Written: talk.wav, talk.json"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["talk.wav"], "Written: talk.wav"),
        (["talks/now/talk.wav", "talks/now/talk.json"], "Written to talks/now: talk.wav, talk.json"),
        (["talks/talk.wav", "words/talk.json"], "Written: talks/talk.wav, words/talk.json"),
    ],
)
def test_a_folder_of_all_files_is_named_once(files: list[str], told: str) -> None:
    assert written([file.replace("/", os.sep) for file in files]) == told.replace("/", os.sep)


def test_who_spoke_keeps_the_whole_name_when_somebody_else_speaks() -> None:
    terminal = Terminal()
    with panel_on(terminal) as panel:
        for _, event in talking():
            panel.show(event)
        panel.show(Began("al", "NATM1", "demo", "cpu", "fp32", 7, 54, 3000))
        panel.refresh(20.0)
        assert terminal.look().startswith(CONVERSATION + ENDING)


def test_a_narrowed_terminal_is_drawn_anew_without_a_trace() -> None:
    terminal = Terminal()
    with panel_on(terminal) as panel:
        for _, event in talking():
            panel.show(event)
        panel.refresh(20.0)
        terminal.look()
        terminal.paper.narrow(60)
        terminal.console.size = (60, 24)  # type: ignore[assignment]
        panel.refresh(20.0)
        assert terminal.look().count("Live") == 1
        assert terminal.paper.text().startswith(CONVERSATION + HEAD)
        terminal.console.size = (120, 40)  # type: ignore[assignment]
        panel.refresh(20.0)
        assert terminal.look().startswith(CONVERSATION + HEAD)


def test_nothing_is_written_when_nothing_changed() -> None:
    terminal = Terminal()
    with panel_on(terminal) as panel:
        panel.show(State(Phase.LOADING))
        panel.refresh(1.0)
        assert "Loading" in terminal.look()
        panel.refresh(1.1)
        assert terminal.file.getvalue() == ""
        panel.refresh(2.1)
        assert "00:01" in terminal.look()


def test_only_rows_that_changed_are_written_and_all_of_a_drawing_at_once() -> None:
    terminal = Terminal()
    with panel_on(terminal) as panel:
        for _, event in talking():
            panel.show(event)
        panel.refresh(20.0)
        terminal.look()
        panel.show(Muted(True))
        panel.refresh(20.0)
        assert terminal.file.getvalue().count("\x1b[?2026h") == terminal.file.getvalue().count("\x1b[?2026l") == 1
        before = terminal.paper.text().splitlines()
        after = terminal.look().splitlines()
        changed = [now for was, now in zip(before, after, strict=True) if was != now]
        assert [line for line in changed if "muted" in line or "unmute" in line] == changed
        assert terminal.paper.written[-1].splitlines() == changed


def test_what_a_library_complains_about_is_a_note_and_tears_nothing() -> None:
    terminal = Terminal()
    with panel_on(terminal) as panel:
        for _, event in talking():
            panel.show(event)
        print("something\nis", end=" ", file=sys.stderr)
        print("odd", file=sys.stderr)
        panel.press("d")
        panel.refresh(20.0)
        text = terminal.look()
    assert " something " in text and " is odd " in text


def test_the_panel_takes_its_own_keys_and_leaves_the_others() -> None:
    terminal = Terminal()
    with panel_on(terminal) as panel:
        for _, event in talking():
            panel.show(event)
        assert not panel.press("m")
        for key, seen in (("d", "budget"), ("?", "shown or hidden"), ("?", "budget")):
            assert panel.press(key)
            panel.refresh(20.0)
            assert seen in terminal.look(), key
        panel.press("d")
        panel.refresh(20.0)
        assert "budget" not in terminal.look()


def test_the_signal_of_ctrl_z_is_given_back() -> None:
    before = signal.getsignal(signal.SIGTSTP)
    with panel_on(Terminal()):
        assert signal.getsignal(signal.SIGTSTP) != before
    assert signal.getsignal(signal.SIGTSTP) == before


def test_a_terminal_gets_the_panel_and_anything_else_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(io.StringIO())
    assert isinstance(screen_for(Terminal().console, keys), Panel)
    assert isinstance(screen_for(Console(file=io.StringIO()), keys), PlainLines)
    keys.in_background = True
    assert isinstance(screen_for(Terminal().console, keys), PlainLines)
    keys.in_background = False
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(screen_for(Terminal().console, keys), PlainLines)
