"""Recorded talks shown again, by the one loop: nothing of them is lost, at their own pace, with or without a card."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakecard import FakeCard, plug_in
from hypothesis import given
from hypothesis import strategies as st
from test_recorded import BEGAN, older, record

from personaplex_cli.audio.speaker import MAX_LATE, Speaker, ticks
from personaplex_cli.cli.main import program
from personaplex_cli.conversation import Conversation, converse_all
from personaplex_cli.events import Began, Event, Hushed, Note, Renewed, Step
from personaplex_cli.options import SpeakerOptions
from personaplex_cli.programs.replay import NOBODY, Playback
from personaplex_cli.recorded import RecordedTalk, read_talk
from personaplex_cli.samples import FRAME, FRAME_SECONDS, Samples


class Ears(Speaker):
    """In place of a speaker: keeps what is played."""

    def __init__(self) -> None:
        super().__init__(SpeakerOptions(), lambda event: None)
        self.heard: list[tuple[Samples, ...]] = []

    def open(self) -> None: ...

    def play(self, *voices: Samples) -> None:
        self.heard.append(voices)


def fast() -> Callable[[], float]:
    """A clock on which the next frame is due whenever it is looked at."""
    return itertools.count(0.0, FRAME_SECONDS).__next__


def shown(talk: RecordedTalk, ears: Ears, again_at: int | None = None) -> list[Event]:
    """What happens when it is shown; in this frame the user wants to see it again."""
    playback = Playback(talk, ears, fast())
    conversation = Conversation(NOBODY, playback)
    happened = []
    for _, event in converse_all(playback, [conversation]):
        happened.append(event)
        if again_at is not None and isinstance(event, Step) and len(ears.heard) == again_at:
            conversation.restart()
    return happened[:-1]


def test_all_of_a_talk_is_shown_and_heard_again(tmp_path: Path) -> None:
    renewed = Renewed(8, 5, 20)
    happens: dict[int, list[Event]] = {0: [BEGAN], 3: [Hushed(True)], 8: [renewed], 11: [BEGAN]}
    talk = read_talk(record(tmp_path, 14, happens, lambda index: " word" if index in (2, 12) else ""))
    ears = Ears()
    events = shown(talk, ears)
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.index for step in steps] == [*range(11), *range(3)]
    assert [at for at, step in enumerate(steps) if step.text == " word"] == [2, 12]
    assert [step.tokens for step in steps] == [(at,) * 17 for at in range(14)]
    others = [(sum(isinstance(each, Step) for each in events[:at]), event) for at, event in enumerate(events)]
    assert [each for each in others if not isinstance(each[1], Step)] == list(talk.events)
    heard, said = (np.concatenate(side) for side in zip(*ears.heard, strict=True))
    assert np.array_equal(heard, talk.heard) and np.array_equal(said, talk.said)


def test_it_can_be_seen_again_from_the_beginning(tmp_path: Path) -> None:
    talk = read_talk(record(tmp_path, 6, {0: [BEGAN]}, lambda index: " word"))
    ears = Ears()
    steps = [event for event in shown(talk, ears, again_at=4) if isinstance(event, Step)]
    assert [step.index for step in steps] == [*range(4), *range(6)]
    heard = np.concatenate([heard for heard, _ in ears.heard])
    assert np.array_equal(heard, np.concatenate([talk.heard[: 4 * FRAME], talk.heard]))


@given(st.lists(st.floats(0, 2), max_size=60))
def test_frames_go_by_as_fast_as_they_were_spoken(waits: list[float]) -> None:
    """However seldom the clock is looked at: never ahead of it, and behind it by no more than is caught up."""
    times = list(itertools.accumulate(waits, initial=0.0))
    pace = ticks(iter([0.0, *times]).__next__)
    due = 0
    for time in times:
        due += next(pace)
        assert (due - 1) * FRAME_SECONDS <= time + 1e-6
    if max(waits, default=0.0) < FRAME_SECONDS:
        assert due >= times[-1] / FRAME_SECONDS - MAX_LATE / FRAME_SECONDS


def test_both_voices_are_played_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = plug_in(FakeCard(), monkeypatch)
    with Speaker(SpeakerOptions(), lambda event: None) as speaker:
        speaker.open()
        for _ in range(5):
            speaker.play(np.full(FRAME, 0.25, np.float32), np.full(FRAME, 0.5, np.float32))
        while sum(map(len, fake.played)) < 5 * FRAME:
            fake.pass_time()
    assert np.isclose(np.concatenate(fake.played).max(), 0.75) and not fake.running


def test_without_a_card_it_is_shown_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(FakeCard(listed=[]), monkeypatch)
    events: list[Event] = []
    with Speaker(SpeakerOptions(), events.append) as speaker:
        speaker.open()
        speaker.play(np.zeros(FRAME, np.float32))
    assert [event.text for event in events if isinstance(event, Note)] == [
        "The talk is shown without sound: There is no speaker."
    ]


def test_the_command_shows_a_talk_as_lines_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in(FakeCard(listed=[]), monkeypatch)
    folder = record(tmp_path, 5, {0: [BEGAN]}, lambda index: " word")
    assert program(["replay", str(folder), "--json"]) == 0
    written = capsys.readouterr()
    assert written.err == "Playing 0 s at its own speed.\n"
    events = [json.loads(line) for line in written.out.splitlines()]
    assert [event["name"] for event in events if event["event"] == "state"] == ["replay", "ended"]
    assert [event["text"] for event in events if event["event"] == "step"] == [" word"] * 5
    assert [event["event"] for event in events if event["event"] != "step"] == ["note", "began", "state", "state"]


def test_lines_say_that_it_is_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in(FakeCard(listed=[]), monkeypatch)
    folder = record(tmp_path, 5, {0: [BEGAN]}, lambda index: " word")
    (folder / "transcript.json").unlink()  # who spoke is not known
    assert program(["replay", str(folder)]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["An unknown persona", "Replay"] and lines[-1].startswith("Played 00:00, ")


def test_the_example_is_a_talk_in_which_the_agent_is_interrupted() -> None:
    talk = read_talk(Path(__file__).parents[2] / "personaplex_cli" / "example")
    assert 15 < talk.frames * FRAME_SECONDS < 60
    (_, began), *_ = talk.events
    assert isinstance(began, Began) and began.model == "demo" and len(talk.text.split()) > 15


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 2, "There is no recorded talk in nowhere."),
        (["example", "--theme", "pink"], 2, "no theme named 'pink'"),
        (["example", "--output-device", "nothing"], 2, "no output device 'nothing'"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in(FakeCard(), monkeypatch)
    assert program(["replay", *arguments]) == code
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_old_recordings_are_shown(tmp_path: Path) -> None:
    talk = older(tmp_path / "old", {"settings": {"persona": "chef"}, "restarts": [0.8]}, frames=12)
    began = [event for event in shown(talk, Ears()) if isinstance(event, Began)]
    assert [each.persona for each in began] == ["chef", "chef"]
