"""Two personas who talk with each other: both in one batch, shown and recorded as one talk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakecard import FakeCard, plug_in
from heldchat import Nothing
from parrot import Parrot

from personaplex_cli.character import Sampling
from personaplex_cli.cli.main import program
from personaplex_cli.events import Began, Event, Finished, Note, Phase, State, Step, Transcribing, UserWords
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions, DuetOptions, SpeakerOptions
from personaplex_cli.programs.duet import Duet
from personaplex_cli.recorded import read_talk

LEFT, RIGHT = (find_character(CharacterOptions(persona=name), Sampling(seed=3)) for name in ("chef", "teacher"))


def held(options: DuetOptions, engine: Any = None) -> tuple[Duet, list[Event]]:
    events: list[Event] = []
    duet = Duet(lambda: engine or Parrot(2), LEFT, RIGHT, options, SpeakerOptions(), events.append)
    duet.run(Nothing(), Nothing())
    while not duet.end():
        pass
    return duet, events


def test_both_voices_and_both_words_are_shown_and_kept(tmp_path: Path) -> None:
    duet, events = held(DuetOptions(minutes=30 * 0.08 / 60, fast=True, record=tmp_path))
    assert duet.error is None
    (began,) = (event for event in events if isinstance(event, Began))
    assert (began.persona, began.user) == ("teacher", "chef")
    assert began.who == f"chef {LEFT.voice} (left) and teacher {RIGHT.voice} (right), seed 3"
    user = began.settings["user"]
    assert (user["persona"], user["voice"], user["sampling"]["seed"]) == ("chef", LEFT.voice, 3)
    steps = [event for event in events if isinstance(event, Step)]
    assert len(steps) == 30
    spoken = [event for event in events if isinstance(event, UserWords)]
    # A parrot speaks in every third frame, and is heard a frame later.
    assert [(event.start, event.end) for event in spoken] == [(n, n + 1) for n in range(3, 31, 3)]
    (finished,) = (event for event in events if isinstance(event, Finished))
    assert finished.seconds == pytest.approx(2.4) and all(Path(name).is_file() for name in finished.files)
    (folder,) = tmp_path.iterdir()
    talk = read_talk(folder)
    assert talk.frames == 30 and not talk.heard[:1920].any() and np.abs(talk.said).max() > 0.1
    # Both say the same here, of the same seed: the one on the left is heard a frame later.
    assert np.array_equal(talk.heard[1920:], talk.said[:-1920])
    assert [type(event) for _, event in talk.events] == [Began, Transcribing]  # so that a replay shows words
    assert sum(isinstance(event, UserWords) for _, event in talk.happened()) == 10
    markdown = (folder / "transcript.md").read_text()
    assert markdown.startswith("# chef and teacher, ") and "chef: word" in markdown and "teacher: word" in markdown


def test_without_a_card_it_is_silent_and_in_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(FakeCard(listed=[]), monkeypatch)
    duet, events = held(DuetOptions(minutes=3 * 0.08 / 60))
    assert duet.error is None and sum(isinstance(event, Step) for event in events) == 3
    assert any(isinstance(event, Note) and "without sound" in event.text for event in events)


class Poisoned(Parrot):
    def _reply(self, slot: int, silent: bool) -> Any:
        return ValueError("poisoned") if slot == 0 and self._heard[0] == 5 else super()._reply(slot, silent)


def test_the_error_of_one_ends_both(tmp_path: Path) -> None:
    duet, events = held(DuetOptions(fast=True, record=tmp_path), Poisoned(2))
    assert isinstance(duet.error, ValueError) and events[-1] == State(Phase.ENDED)
    (folder,) = tmp_path.iterdir()
    assert read_talk(folder).frames >= 5


def test_the_command_with_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "demo", "--minutes", "0.05", "--fast", "--json", "--seed", "1", "--record", str(tmp_path)]
    assert program(["duet", "teacher", "teacher", *arguments]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(event["event"] == "step" for event in events) == round(60 * 0.05 / 0.08)
    (began,) = (event for event in events if event["event"] == "began")
    assert began["seed"] == 2 and began["settings"]["user"]["sampling"]["seed"] == 1
    assert program(["duet", "teacher", "nobody"]) == 2
    assert "There is no persona named 'nobody'" in capsys.readouterr().err
