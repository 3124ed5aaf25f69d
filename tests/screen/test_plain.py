import io
import json
import threading

from rich.console import Console

from personaplex_cli.events import (
    Began,
    Downloading,
    Event,
    Finished,
    Glitch,
    Muted,
    Network,
    Note,
    Phase,
    State,
    Step,
    Timings,
    as_json,
)
from personaplex_cli.screen.screens import WAITING, JsonLines, PlainLines, Screen

STILL = Timings(5.0, 30.0, 5.0)


def conversation() -> list[Event]:
    words = {3: " Hello", 6: " there.", 60: " Good", 62: " bye."}
    return [
        State(Phase.DOWNLOADING, "nvidia/personaplex-7b-v1"),
        *(Downloading(done * 10**9, 16 * 10**9) for done in range(17)),
        Note("[red]Captured[/] :smile: in a \x1b[2Jgraph."),
        State(Phase.LIVE),
        Began("teacher", "NATF2", "demo", "cpu", "fp32", 7, 10, 3000),
        *(Step(index, words.get(index, ""), -60.0, -20.0, STILL) for index in range(70)),
        Glitch("underrun", 1, "late"),
        Network(20.0, None),
        Muted(True),
        State(Phase.ENDED),
        Finished("you", ("talk.wav", "talk.json"), 5.6, 1.0, "Hello there. Good bye."),
    ]


def test_people_read_states_turns_glitches_and_notes() -> None:
    file = io.StringIO()
    with PlainLines(Console(file=file, width=40)) as screen:
        for event in conversation():
            screen.show(event)
        screen.refresh(1.0)
    lines = file.getvalue().splitlines()
    downloaded = [line for line in lines if line.startswith("Downloaded")]
    assert downloaded[0] == "Downloaded 0.0 of 16.0 GB"
    assert downloaded[-1] == "Downloaded 16.0 of 16.0 GB"
    assert len(downloaded) == 11
    assert [line for line in lines if line not in downloaded] == [
        "Downloading nvidia/personaplex-7b-v1",
        "[red]Captured[/] :smile: in a  [2Jgraph.",
        "Live",
        "teacher, voice NATF2, seed 7",
        "00:00  teacher: Hello there.",
        "Underrun 1: late",
        "00:04  teacher: Good bye.",
        "Talked for 00:05, 4 words. Steps took 40 ms (p50), 40 ms (p95); 0 of 70 missed 80 ms; 1 underrun.",
        "Written: talk.wav, talk.json",
    ]


def test_a_stream_that_cannot_hold_the_words_gets_what_it_can() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with PlainLines(Console(file=file)) as screen:
        screen.show(Note("Żółć"))
    file.flush()
    assert file.buffer.getvalue() == b"????\n"  # type: ignore[attr-defined]


def test_robots_read_every_event_whole() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    with JsonLines(file) as screen:
        for event in [*conversation(), Note("Żółć")]:
            screen.show(event)
    lines = file.buffer.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [json.loads(line) for line in lines] == [
        json.loads(json.dumps(as_json(event))) for event in [*conversation(), Note("Żółć")]
    ]


def test_nothing_is_written_before_the_refresh_or_by_another_thread() -> None:
    file = io.StringIO()
    with JsonLines(file) as screen:
        thread = threading.Thread(target=screen.show, args=(Note("hello"),))
        thread.start()
        thread.join()
        assert file.getvalue() == ""
        screen.refresh(1.0)
        assert json.loads(file.getvalue()) == {"event": "note", "text": "hello"}


def test_the_rest_is_written_when_it_ends() -> None:
    file = io.StringIO()
    with JsonLines(file) as screen:
        screen.show(Note("last"))
    assert "last" in file.getvalue()


def test_events_that_are_not_written_do_not_pile_up() -> None:
    file = io.StringIO()
    with JsonLines(file) as screen:
        for number in range(WAITING + 5):
            screen.show(Note(str(number)))
    assert len(file.getvalue().splitlines()) == WAITING


def test_only_the_panel_has_keys_of_its_own() -> None:
    screen: Screen = JsonLines(io.StringIO())
    assert not any(screen.press(key) for key in "msrd?q")
