"""Bars on a terminal, sentences elsewhere."""

import io
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
from rich.console import Console

from personaplex_cli.events import (
    Began,
    Downloading,
    Event,
    Failed,
    Finished,
    Note,
    Phase,
    Scoring,
    Started,
    State,
    Step,
    Steps,
    Timings,
    Visitors,
)
from personaplex_cli.screen.screens import ProgressScreen, _Answers

EVENTS: list[Event] = [
    State(Phase.DOWNLOADING, "org/[model]"),
    Downloading(0, 1000),
    Downloading(1000, 1000),
    State(Phase.LOADING, "org/[model]"),
    Note("Running on [cpu]."),
    Started("folder/a[1].wav", 2),
    Step(0, " [a] b.", -20, -30, Timings(1, 2, 3)),
    Step(1, "", -20, -30, Timings(1, 2, 3)),
    Finished("folder/a[1].wav", ("b[1].wav", "b[1].json"), 0.16, 3.5, "[a] b."),
    Scoring(0, 2),
    Scoring(1, 2),
]


def shown(terminal: bool, events: list[Event] = EVENTS) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=90, color_system=None, _environ={})
    with ProgressScreen(console) as screen:
        for event in events:
            screen.show(event)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_is_the_same_for_every_recording_is_said_once() -> None:
    began = Began("chef", "NATM1", "demo", "cpu", "fp32", 7, 40, 3000)
    done = Finished("a.wav", (), 1.0, 1.0, "")
    other = Began("chef", "NATM1", "", "gpu:8998", "", None, 0, 0)
    events: list[Event] = [
        State(Phase.PRIMING),
        began,
        done,
        State(Phase.PRIMING),
        began,
        done,
        other,
        Note("!"),
        Note("!"),
    ]
    assert shown(terminal=False, events=events).splitlines() == [
        "Priming",
        "chef with the voice NATM1, seed 7.",
        "a.wav  (1.0 s, 1.0x real time)",
        "a.wav  (1.0 s, 1.0x real time)",
        "chef with the voice NATM1.",
        "!",
        "!",
    ]


def test_elsewhere_there_are_only_sentences() -> None:
    assert shown(terminal=False).splitlines() == [
        "Downloading org/[model]",
        "Loading org/[model]",
        "Running on [cpu].",
        "folder/a[1].wav -> b[1].wav, b[1].json  (0.2 s, 3.5x real time)",
        "It said: [a] b.",
    ]


@pytest.mark.parametrize(("text", "count", "said"), [("", 1, ["It said nothing."]), ("a" * 401, 1, []), ("a", 2, [])])
def test_the_words_of_a_single_short_answer_are_told(text: str, count: int, said: list[str]) -> None:
    events: list[Event] = [Started("a.wav", 2, 1, count), Finished("a.wav", (), 0.16, 3.5, text)]
    assert shown(terminal=False, events=events).splitlines()[1:] == said


def test_what_was_broken_off_does_not_run_into_the_next_turn() -> None:
    words = {0: " I love", 2: " the", 30: " Good", 31: " bye."}
    steps = [Step(index, words.get(index, ""), -20, -30, None) for index in range(40)]
    events: list[Event] = [Started("a.wav", 40), *steps, Finished("a.wav", (), 3.2, 3.5, "".join(words.values()))]
    assert shown(terminal=False, events=events).splitlines()[1:] == ["It said: I love the — Good bye."]


def test_what_both_said_is_told_in_order() -> None:
    turns = (("agent", "Hello."), ("user", "Good day."), ("agent", "Bye."))
    events: list[Event] = [Started("a.wav", 2), Finished("a.wav", (), 0.16, 3.5, "Hello. Bye.", turns)]
    assert shown(terminal=False, events=events).splitlines()[1:] == [
        "It said: Hello.",
        "You said: Good day.",
        "It said: Bye.",
    ]


def test_on_a_terminal_bars_come_and_go() -> None:
    text = shown(terminal=True)
    assert "Downloading" in text and "a[1].wav" in text and "x real time" in text and "1/2" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0  # the cursor is back
    assert all(sentence in text for sentence in shown(terminal=False).splitlines())


def test_of_many_recordings_it_says_which_one_and_how_long_all_will_take() -> None:
    events: list[Event] = [Started("a.wav", 2, 3, 1000, 5000), Step(0, "", -20, -30, None), Step(1, "", -20, -30, None)]
    text = shown(terminal=True, events=events)
    assert "3/1000 a.wav" in text and " left" in text
    assert "1/1" not in shown(terminal=True) and " left" not in shown(terminal=True)


def test_how_many_talk_is_one_line_below_all_others() -> None:
    events: list[Event] = [Visitors(0, 8, 0), Note("a visit"), Visitors(1, 8, 1), Visitors(3, 8, 2)]
    assert shown(terminal=False, events=events).splitlines() == ["a visit"]
    last = shown(terminal=True, events=events).rpartition("a visit\n")[2].split("\r\x1b[2K")
    assert [line.strip() for line in last[:3]] == ["Nobody talks.", "1 of 8 talks, 1 waits.", "3 of 8 talk, 2 wait."]


def test_of_several_at_once_there_is_one_bar_for_all() -> None:
    step = Step(0, "", -20, -30, None)
    events: list[Event] = [
        Started("a.wav", 40, 1, 5, 100),
        State(Phase.PRIMING),  # of the next one
        Started("b.wav", 30, 2, 5, 100),
        *[step] * 9,
        Steps("b.wav", 40),
        Finished("a.wav", ("a.out.wav",), 3.2, 1.5, "Hello."),
        Failed("b.wav", "It is gone."),
        Started("c.wav", 10, 3, 5, 30),  # what was left of b is not coming
        Step(9, "", -20, -30, None),
    ]
    text = shown(terminal=True, events=events)
    assert "3/5 c.wav" in text and " 71%" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert shown(terminal=False, events=events).splitlines() == [
        "Priming",
        "a.wav -> a.out.wav  (3.2 s, 1.5x real time)",
        "b.wav was not answered: It is gone.",
    ]


def test_the_bar_of_many_names_the_one_that_is_answered_or_says_how_many_are() -> None:
    answers = _Answers(Started("in/a.wav", 40, 1, 5, 100))
    titles = []
    for source, number in (("in/a.wav", 1), ("in/b.wav", 2)):
        answers.begin(Started(source, 40, number, 5, 100))
        titles.append(answers.title)
    answers.end("in/b.wav")
    assert [*titles, answers.title] == ["1/5 a.wav", "2/5, 2 at once", "2/5 a.wav"]  # the second has begun


def test_interrupted_the_cursor_is_back() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=90, _environ={})
    try:
        with ProgressScreen(console) as screen:
            screen.show(Started("a.wav", 100))
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert isinstance(console.file, io.StringIO) and console.file.getvalue().rstrip().endswith("\x1b[2K")


def test_the_meter_returns_the_level() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=90, _environ={})
    with ProgressScreen(console) as screen:
        assert [screen.level(level) for level in (-100.0, -20.0, 0.0)] == [-100.0, -20.0, 0.0]


DRAWING = """
import sys
from rich.console import Console
from personaplex_cli.events import Downloading
from personaplex_cli.screen.screens import ProgressScreen, _Answers
with ProgressScreen(Console(stderr=True)) as screen:
    screen.show(Downloading(1, 10))
    sys.stdin.read(1)
    screen.show(Downloading(10, 10))
"""
SHOWN, HIDDEN = b"\x1b[?25h", b"\x1b[?25l"


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_program_that_is_stopped_leaves_the_cursor_to_the_shell() -> None:
    import pty

    master, slave = pty.openpty()
    heard = partial(signal.signal, signal.SIGTSTP, signal.SIG_DFL)
    command = [sys.executable, "-c", DRAWING]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=slave, env=environment, process_group=0, preexec_fn=heard
    ) as drawing:
        os.close(slave)
        drawn = read_until(master, HIDDEN, b"")
        drawing.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(drawing.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        drawn = read_until(master, SHOWN, drawn)
        drawing.send_signal(signal.SIGCONT)
        drawn = read_until(master, HIDDEN, drawn)
        drawing.communicate(b"x")
        read_until(master, SHOWN, drawn)
    os.close(master)


def read_until(file: int, code: bytes, before: bytes) -> bytes:
    """What is drawn until this code comes after all that was known before."""
    drawn = before
    while drawn.find(code, len(before)) < 0:
        drawn += os.read(file, 4096)
    return drawn
