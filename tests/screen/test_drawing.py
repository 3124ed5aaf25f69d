"""What the panel looks like.

The golden files in tests/data/screen are drawn anew with PERSONAPLEX_DRAW=1; look at them before keeping them.
"""

import io
import os
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
    Devices,
    Downloading,
    Ended,
    Event,
    Favourites,
    Finished,
    Glitch,
    Hushed,
    Latency,
    Muted,
    Network,
    Note,
    Notice,
    Phase,
    Recording,
    Renewed,
    Started,
    State,
    Step,
    Timings,
)
from personaplex_cli.screen.drawing import PAGE_SECONDS, WIDEST, Pen, View, draw
from personaplex_cli.screen.lines import history_lines, rows_of_lane
from personaplex_cli.screen.manual import help_lines
from personaplex_cli.screen.state import BREAK, PanelState
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
    assert {cell_len(line) for line in lines} == {min(width, WIDEST)}
    assert state.phase and state.phase.capitalize() in lines[0]
    assert "q quit" in lines[-1]
    if state.who:
        names = [line.split()[1] for line in lines[1:-1]]
        assert state.agent in names[names.index("you") :]
        assert not state.turns.text or any(state.turns.text.split()[-1] in line for line in lines)


def test_a_low_terminal_keeps_what_matters_most() -> None:
    state, now = state_of(talking())
    lines = drawn(state, 80, 8, now, View(), Theme())
    assert len(lines) < 8
    assert "Live" in lines[0]
    assert any("scatters" in line for line in lines)
    assert [line.split()[1] for line in lines if "▄▃" in line] == ["you", "teacher"]
    assert "q quit" in lines[-1]


def test_every_glyph_is_ascii_where_the_console_is() -> None:
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=80, height=40)
    theme = theme_for(console)
    assert theme.glyphs is ASCII
    state, now = state_of(talking())
    state.apply(Note("Żółć \x1b[2J"), now)
    for view in (View(), View(details=True), View(help=True)):
        assert all(line.isascii() and "\x1b" not in line for line in drawn(state, 80, 40, now, view, theme))


WHITE, BLACK, NIGHT = (255, 255, 255), (0, 0, 0), (30, 40, 50)


@pytest.mark.parametrize(
    ("environment", "colours", "name", "background", "chosen"),
    [
        ({}, "truecolor", "auto", WHITE, "light"),
        ({}, "256", "auto", NIGHT, "dark"),
        ({"COLORFGBG": "0;15"}, "truecolor", "auto", BLACK, "dark"),  # the terminal itself knows best
        ({"COLORFGBG": "0;15"}, "truecolor", "auto", None, "light"),
        ({"COLORFGBG": "15;0"}, "truecolor", "auto", None, "dark"),
        ({"COLORFGBG": "default", "COLORTERM": "truecolor"}, "truecolor", "auto", None, "dark"),
        ({}, "256", "auto", None, "auto"),
        ({}, "standard", "auto", WHITE, "auto"),  # sixteen colours: the terminal's own
        ({}, "truecolor", "dark", WHITE, "dark"),
        ({"NO_COLOR": "1"}, "truecolor", "dark", BLACK, "none"),
    ],
)
def test_a_theme_is_chosen_by_name_by_the_background_and_never_against_no_color(
    environment: dict[str, str],
    colours: Any,
    name: str,
    background: Any,
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("NO_COLOR", "COLORFGBG", "COLORTERM"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    theme = theme_for(Console(file=io.StringIO(), force_terminal=True, color_system=colours), name, background)
    assert theme.agent == COLOURS[chosen].agent


def test_what_is_old_fades_into_the_terminals_own_background() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", no_color=False)
    theme = theme_for(console, "auto", NIGHT)

    def distance(age: float) -> int:
        shade = theme.faded(theme.you, age)
        return sum(abs(int(shade[at : at + 2], 16) - own) for at, own in zip((1, 3, 5), NIGHT, strict=True))

    assert theme.faded(theme.you, 0.0) == theme.you
    assert distance(0.0) > distance(0.5) > distance(1.0) > 0
    assert theme_for(console, "none", NIGHT).faded("", 0.0) == ""


def lines_with(state: PanelState, words: str, view: View = View(), now: float = 0.0) -> list[str]:  # noqa: B008
    return [line for line in drawn(state, 80, 24, now, view, Theme()) if words in line]


def test_a_late_step_is_seen_without_colour_for_a_while_and_under_details() -> None:
    state, now = state_of(talking())
    (line,) = lines_with(state, "step ")
    assert line.count(Theme().glyphs.spark[-1]) == 1
    assert "1 late" in line
    for index in range(125, 260):
        state.apply(Step(index, "", -70.0, -90.0, Timings(5.0, 38.0, 7.0)), now)
    assert not lines_with(state, "step ")
    assert lines_with(state, "1 late", View(details=True))


def test_the_end_of_the_persona_is_shown() -> None:
    state = PanelState()
    state.apply(Began("teacher", "NATF2", "demo", "cpu", "fp32", 1, 2999, 3000), 0.0)
    assert lines_with(state, "The model will soon forget who it is. Press r to begin again.")
    state.apply(Step(0, "", -70.0, -90.0, None), 0.0)
    assert lines_with(state, "The model has forgotten who it is. Press r to begin again.")
    assert lines_with(state, "forgets who it is in 00:00")


def test_where_the_memory_is_renewed_it_is_shown_how_much_of_the_talk_it_holds() -> None:
    state = PanelState()
    state.apply(Began("teacher", "NATF2", "demo", "cpu", "fp32", 1, 2900, 3000, memory=1125), 0.0)
    for index in range(125):
        state.apply(Step(index, "", -70.0, -90.0, None), 0.0)
    assert lines_with(state, "remembers all of it")
    state.apply(Renewed(125, 75, 2975), 0.0)
    assert lines_with(state, "remembers the last 00:06") and lines_with(state, "2975 of 3000", View(details=True))
    state.apply(Step(125, "", -70.0, -90.0, None), 0.0)
    assert not lines_with(state, "forgotten") and lines_with(state, "2976 of 3000", View(details=True))


@pytest.mark.parametrize(
    ("latency", "lm", "words", "blamed"),
    [
        ((11.0, 3.0, 40.0, 13.0), 38.0, "good", ""),
        ((100.0, 3.0, 40.0, 60.0), 38.0, "slow", ""),
        ((11.0, 3.0, 40.0, 310.0), 38.0, "bad", "310 ms of it is the speaker: "),
        ((11.0, 160.0, 90.0, 13.0), 90.0, "bad", "160 ms of it is the queue: the model does not keep up"),
    ],
)
def test_a_slow_answer_names_the_guilty_stage_and_a_remedy(
    latency: tuple[float, ...], lm: float, words: str, blamed: str
) -> None:
    state = PanelState()
    state.apply(Began("teacher", "NATF2", "demo", "cpu", "fp32", 1, 100, 3000), 0.0)
    assert not lines_with(state, "answers in")  # nothing is known yet: no zeros
    state.apply(Latency(*latency), 0.0)
    state.apply(Step(0, "", -70.0, -90.0, Timings(5.0, lm, 7.0)), 0.0)
    (line,) = lines_with(state, "answers in")
    assert words in line
    assert bool(lines_with(state, " ms of it is ")) == bool(blamed)
    assert lines_with(state, blamed)


def test_a_notice_stays_until_it_is_over_and_notes_end_by_themselves() -> None:
    state, _ = state_of(talking())
    state.apply(Note("Captured."), 20.0)
    state.apply(Notice("The microphone is silent."), 20.0)
    state.apply(Note("Later."), 50.0)
    assert lines_with(state, "Later.", now=50.0)
    assert lines_with(state, "The microphone is silent.", now=80.0)
    assert not lines_with(state, "Later.", now=80.0)
    assert lines_with(state, "Later.", View(details=True), now=80.0)
    state.apply(Notice("The microphone is silent.", on=False), 81.0)
    assert not lines_with(state, "silent", now=81.0)


@given(st.lists(st.lists(st.text("abc", min_size=1, max_size=60), min_size=1, max_size=30), max_size=6))
def test_every_note_is_seen_whole_in_its_turn(notes: list[list[str]]) -> None:
    lines = list[str]()
    for turn in range(200):
        pen = Pen(PanelState(), 60, 24, Theme(), turn * PAGE_SECONDS, View())
        page = pen.page([" ".join(words) for words in notes], 2)
        assert len(page) <= 2
        lines += page
    assert "".join(lines).replace(" ", "").startswith("".join("".join(words) for words in notes))


def test_what_is_recorded_by_which_devices_and_too_loud_is_seen() -> None:
    state, now = state_of(talking())
    assert not lines_with(state, "rec ")
    state.apply(Recording("talks/now"), now)
    state.apply(Devices("Yeti", "Headphones"), now)
    state.apply(Step(125, "", -3.0, -90.0, None, clipped=True), now)
    assert lines_with(state, "rec ●")
    assert lines_with(state, "Yeti") and lines_with(state, "Headphones") and lines_with(state, "clips")
    for index in range(126, 160):
        state.apply(Step(index, "", -30.0, -90.0, None), now)
    state.apply(Recording(""), now)
    assert not lines_with(state, "clips") and not lines_with(state, "rec ")


def test_where_somebody_else_talks_a_line_divides_the_lanes() -> None:
    for rows in (1, 2):
        alone = rows_of_lane([-20.0] * 5, rows, Theme().glyphs)
        assert rows_of_lane([-20.0] * 5 + [BREAK] + [-20.0] * 5, rows, Theme().glyphs) == [
            f"{row}│{row}" for row in alone
        ]


def test_only_keys_that_do_something_are_offered() -> None:
    state, now = state_of(talking())
    assert not lines_with(state, "1-9", View(help=True))
    state.apply(Favourites({"1": "teacher, NATF2"}), now)
    assert lines_with(state, "1-9 switch") and lines_with(state, "1 teacher, NATF2", View(help=True))


def test_beside_a_recording_there_is_room_for_the_favourites() -> None:
    state, now = state_of(talking())
    for event in (Favourites({"1": "teacher, NATF2"}), Recording("talks/2026-01-31_14-05-09")):
        state.apply(event, now)
    foot = drawn(state, 80, 24, now, View(), Theme())[-1]
    assert "s stop  " in foot and "1-9 switch" in foot and "d details" in foot and "rec" in foot
    assert "rec ● talks/202…" in drawn(state, 100, 24, now, View(), Theme())[-1]


@given(st.integers(30, 80))
def test_the_help_is_cut_between_words(width: int) -> None:
    whole, cut = (help_lines({}, "", cells, Theme()) for cells in (80, width - 4))
    for line, full in zip((each.plain for each in cut), (each.plain for each in whole), strict=True):
        assert line == full or (line.endswith("…") and full.startswith(line[:-1] + " ") and len(line) <= width - 4)


def test_without_a_keyboard_no_keys_are_offered() -> None:
    state, now = state_of(talking())
    foot = drawn(state, 80, 24, now, View(keys=False), Theme())[-1]
    assert "Ctrl-C quit" in foot and "mute" not in foot


figures = st.floats(0, 1e6)
words = st.text(max_size=40)
levels = st.floats(-200, 50)
events = st.one_of(
    st.builds(Note, words),
    st.builds(Notice, words, st.booleans()),
    st.builds(Devices, words, words),
    st.builds(Recording, words),
    st.builds(
        State,
        st.sampled_from(Phase),
        words,
    ),
    st.builds(Downloading, st.integers(0, 10**12), st.integers(0, 10**11)),
    st.builds(
        Began, words, words, words, words, words, st.integers() | st.none(), st.integers(0, 5000), st.integers(0, 5000)
    ),
    st.builds(
        Step,
        st.integers(0, 10**6),
        words,
        levels,
        levels,
        st.none() | st.builds(Timings, *[figures] * 3),
        st.booleans(),
    ),
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
    st.integers(1, 200),
    st.integers(3, 60),
    st.builds(View, st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    st.sampled_from([Theme(), Theme(glyphs=ASCII, encoding="ascii")]),
)
def test_whatever_happens_the_panel_fits(
    happened: list[Event], width: int, height: int, view: View, theme: Theme
) -> None:
    state = PanelState()
    for at, event in enumerate(happened):
        state.apply(event, float(at))
    lines = draw(state, width, height, theme, float(len(happened)), view)
    assert len(lines) < height
    assert all(line.cell_len <= width for line in lines)
    assert all(history_lines(entry, width, 12, theme) for entry in state.history)
