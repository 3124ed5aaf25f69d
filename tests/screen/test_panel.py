"""What the panel looks like, and that it leaves a clean terminal.

The golden files in tests/data/screen are drawn anew with PERSONAPLEX_DRAW=1; look at them before keeping them.
"""

import io
import os
import re
import runpy
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, Group
from scenes import SCENES, talking

from personaplex_cli.events import (
    Began,
    Downloading,
    Ended,
    Event,
    Finished,
    Glitch,
    Hushed,
    Latency,
    Muted,
    Network,
    Note,
    Phase,
    Started,
    State,
    Step,
    Timings,
)
from personaplex_cli.screen.drawing import View, draw
from personaplex_cli.screen.panel import Panel, screen_for
from personaplex_cli.screen.screens import PlainLines
from personaplex_cli.screen.state import PanelState
from personaplex_cli.screen.theme import ASCII, COLOURS, Theme, theme_for

GOLDEN = Path(__file__).parents[1] / "data" / "screen"
DRAW_ANEW = "PERSONAPLEX_DRAW" in os.environ  # read before a test's own environment begins


def state_of(events: Iterator[tuple[float, Event]]) -> tuple[PanelState, float]:
    state, now = PanelState(), 0.0
    for now, event in events:
        state.apply(event, now)
    return state, now


def drawn(state: PanelState, width: int, height: int, now: float, view: View, theme: Theme) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(Group(*draw(state, width, height, theme, now, view)))
    return capture.get().removesuffix("\n").split("\n")


@pytest.mark.parametrize("name", SCENES)
def test_the_panel_looks_like_its_picture(name: str) -> None:
    script, view = SCENES[name]
    state, now = state_of(script())
    text = "\n".join(line.rstrip() for line in drawn(state, 80, 24, now, view, Theme())) + "\n"
    golden = GOLDEN / f"{name}.txt"
    if DRAW_ANEW:
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@given(st.sampled_from(sorted(SCENES)), st.integers(40, 200), st.integers(8, 60))
def test_at_every_size_the_most_important_parts_stay(name: str, width: int, height: int) -> None:
    script, view = SCENES[name]
    state, now = state_of(script())
    lines = drawn(state, width, height, now, view, Theme())
    assert len(lines) < height
    assert all(cell_len(line) <= width for line in lines)
    assert state.phase and state.phase.capitalize() in lines[0]
    assert "q quit" in lines[-1]
    if state.who:
        names = [line.split()[0] for line in lines if line.strip()]
        assert names.index("agent", names.index("you")) == names.index("you") + 1
        assert not state.turns.text or any("scatters" in line for line in lines)


def test_a_low_terminal_keeps_what_matters_most() -> None:
    state, now = state_of(talking())
    lines = drawn(state, 80, 8, now, View(), Theme())
    assert len(lines) < 8
    assert "Live" in lines[0]
    assert any("scatters" in line for line in lines)
    assert [line.split()[0] for line in lines[2:4]] == ["you", "agent"]
    assert "q quit" in lines[-1]


def test_every_glyph_is_ascii_where_the_console_is() -> None:
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=80, height=40)
    theme = theme_for(console)
    assert theme.glyphs is ASCII
    state, now = state_of(talking())
    state.apply(Note("Żółć \x1b[2J"), now)
    for view in (View(), View(details=True), View(help=True)):
        assert all(line.isascii() and "\x1b" not in line for line in drawn(state, 80, 40, now, view, theme))


def test_a_theme_is_chosen_by_name_by_the_background_and_never_against_no_color(monkeypatch: Any) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLORFGBG", "0;15")
    console = Console(file=io.StringIO(), force_terminal=True)
    assert theme_for(console).you == COLOURS["light"].you
    assert theme_for(console, "dark").you == COLOURS["dark"].you
    monkeypatch.setenv("COLORFGBG", "default")
    assert theme_for(console).you == COLOURS["auto"].you
    monkeypatch.setenv("NO_COLOR", "1")
    assert theme_for(Console(file=io.StringIO(), force_terminal=True), "dark").you == ""


def test_a_missed_step_is_seen_without_colour() -> None:
    state, now = state_of(talking())
    line = next(line for line in drawn(state, 80, 24, now, View(), Theme()) if line.startswith(" step"))
    assert line.count(Theme().glyphs.spark[-1]) == 1
    assert "1 missed" in line


def test_the_end_of_the_persona_is_shown() -> None:
    state = PanelState()
    state.apply(Began("teacher", "NATF2", "demo", "cpu", "fp32", 1, 3000, 3000), 0.0)
    assert any("the persona has faded: r restarts" in line for line in drawn(state, 80, 24, 0.0, View(), Theme()))


figures = st.floats(0, 1e6)
words = st.text(max_size=40)
levels = st.floats(-200, 50)
events = st.one_of(
    st.builds(Note, words),
    st.builds(
        State,
        st.sampled_from(Phase),
        words,
    ),
    st.builds(Downloading, st.integers(0, 10**12), st.integers(0, 10**11)),
    st.builds(
        Began, words, words, words, words, words, st.integers() | st.none(), st.integers(0, 5000), st.integers(0, 5000)
    ),
    st.builds(Step, st.integers(0, 10**6), words, levels, levels, st.none() | st.builds(Timings, *[figures] * 3)),
    st.builds(Network, figures, st.none() | figures),
    st.builds(Latency, figures, figures, figures, figures),
    st.builds(Glitch, st.sampled_from(["underrun", "overflow", "dropped", "shed", "reopened"]), st.integers(0), words),
    st.builds(Started, words, st.integers(0)),
    st.builds(Finished, words, st.tuples(words), figures, figures, words),
    st.builds(Muted, st.booleans()),
    st.builds(Hushed, st.booleans()),
    st.builds(Ended),
)


@given(
    st.lists(events, max_size=30),
    st.integers(40, 200),
    st.integers(8, 60),
    st.builds(View, st.booleans(), st.booleans(), st.booleans()),
    st.sampled_from([Theme(), Theme(glyphs=ASCII, encoding="ascii")]),
)
def test_whatever_happens_the_panel_fits(
    happened: list[Event], width: int, height: int, view: View, theme: Theme
) -> None:
    state = PanelState()
    for at, event in enumerate(happened):
        state.apply(event, float(at))
    lines = drawn(state, width, height, float(len(happened)), view, theme)
    assert len(lines) < height
    assert all(cell_len(line) <= width for line in lines)


class Paper:
    """As much of a terminal as the panel needs: rows, and the codes that move up and erase."""

    def __init__(self) -> None:
        self.rows = [""]
        self.row = 0
        self.cursor = True

    def write(self, text: str) -> None:
        for code, plain in re.findall(r"(\x1b\[[?0-9;]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", text):
            if code == "\n":
                self.row += 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif code.endswith("A"):
                self.row = max(0, self.row - int(code[2:-1]))
            elif code == "\x1b[2K":
                self.rows[self.row] = ""
            elif code in ("\x1b[?25l", "\x1b[?25h"):
                self.cursor = code.endswith("h")
            self.rows[self.row] += plain

    def narrow(self, width: int) -> None:
        """Fold what is too long, as terminals do."""
        folded = [[row[at : at + width] for at in range(0, len(row), width)] or [""] for row in self.rows]
        self.row = sum(map(len, folded[: self.row + 1])) - 1
        self.rows = [row for rows in folded for row in rows]

    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self.rows).rstrip()


class Terminal:
    """A console that writes on paper."""

    def __init__(self, width: int = 80, height: int = 24) -> None:
        self.paper = Paper()
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, force_terminal=True, force_interactive=True, width=width, height=height, color_system=None
        )

    def look(self) -> str:
        self.paper.write(self.file.getvalue())
        self.file.seek(0)
        self.file.truncate()
        return self.paper.text()


@pytest.fixture(autouse=True)
def a_terminal_of_some_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


CONVERSATION = """\
 teacher, voice NATF2, seed 42
 00:00    Hello, what shall we talk about?"""
ENDING = """
 00:07    The sky is blue since air scatters
 Talked for 00:10, 13 words. Steps took 50 ms (p50), 50 ms (p95); 1 of 125
 missed 80 ms; 2 underruns."""


def test_finished_turns_stay_and_the_panel_goes() -> None:
    terminal = Terminal()
    with Panel(terminal.console) as panel:
        for now, event in talking():
            panel.show(event)
            panel.refresh(now)
        text = terminal.look()
        assert text.startswith(CONVERSATION + "\n─ ● Live")
        assert text.count("Live") == text.count("q quit") == 1
        assert not terminal.paper.cursor
    assert terminal.look() == CONVERSATION + ENDING
    assert terminal.paper.cursor


def test_an_exception_leaves_a_clean_terminal_too() -> None:
    terminal = Terminal()
    with pytest.raises(KeyboardInterrupt), Panel(terminal.console) as panel:
        for now, event in talking():
            panel.show(event)
            if now < 15.0:
                panel.refresh(now)
        raise KeyboardInterrupt
    assert terminal.look() == CONVERSATION + ENDING
    assert terminal.paper.cursor


def test_the_files_are_named_at_the_end() -> None:
    terminal = Terminal()
    with Panel(terminal.console) as panel:
        panel.show(Finished("you", ("talk.wav", "talk.json"), 1.0, 1.0, ""))
    assert terminal.look() == " Written: talk.wav, talk.json"


def test_a_narrowed_terminal_is_drawn_anew_without_a_trace() -> None:
    terminal = Terminal()
    with Panel(terminal.console) as panel:
        for _, event in talking():
            panel.show(event)
        panel.refresh(20.0)
        terminal.look()
        terminal.paper.narrow(60)
        terminal.console.size = (60, 24)  # type: ignore[assignment]
        panel.refresh(20.0)
        assert terminal.look().count("Live") == 1
        assert terminal.paper.text().startswith(CONVERSATION + "\n─ ● Live")
        terminal.console.size = (120, 40)  # type: ignore[assignment]
        panel.refresh(20.0)
        assert terminal.look().startswith(CONVERSATION + "\n─ ● Live")


def test_nothing_is_written_when_nothing_changed() -> None:
    terminal = Terminal()
    with Panel(terminal.console) as panel:
        panel.show(State(Phase.LOADING))
        panel.refresh(1.0)
        assert "Loading" in terminal.look()
        panel.refresh(1.1)
        assert terminal.file.getvalue() == ""
        panel.refresh(2.1)
        assert "00:01" in terminal.look()


def test_the_panel_takes_its_own_keys_and_leaves_the_others() -> None:
    terminal = Terminal()
    with Panel(terminal.console) as panel:
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
    with Panel(Terminal().console):
        assert signal.getsignal(signal.SIGTSTP) != before
    assert signal.getsignal(signal.SIGTSTP) == before


def test_a_terminal_gets_the_panel_and_anything_else_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(screen_for(Terminal().console), Panel)
    assert isinstance(screen_for(Console(file=io.StringIO())), PlainLines)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(screen_for(Terminal().console), PlainLines)


def test_the_picture_is_drawn_and_says_that_it_is_scripted() -> None:
    picture = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "picture.py"))["picture"]()
    text = re.sub("<[^>]*>", "", picture).replace("&#160;", " ")
    assert "a scripted picture, not a measurement" in text
    assert "1 underrun" in text
    assert "Exactly! At sunset" in text
