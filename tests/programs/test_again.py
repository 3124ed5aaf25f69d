"""Talks held again: the same settings make the same talk, others make another answer to the same user."""

import json
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from fakecard import FakeCard, plug_in
from heldchat import Held, Nothing
from hypothesis import given, settings
from hypothesis import strategies as st
from parrot import Parrot
from test_recorded import BEGAN, Given, noise, older

from personaplex_cli.character import Character, Sampling
from personaplex_cli.cli.main import program
from personaplex_cli.cli.replays import EXAMPLE
from personaplex_cli.conversation import Conversation, Engine, converse_all
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.events import Began, Event, Finished, Hushed, Note, Step, UserWords, ignore
from personaplex_cli.loader.load import load
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions, DuetOptions, ModelOptions, SpeakerOptions
from personaplex_cli.programs.again import characters, hold_again, model_options
from personaplex_cli.programs.comparison import page
from personaplex_cli.programs.duet import Duet
from personaplex_cli.recorded import RecordedTalk, read_talk
from personaplex_cli.recorder import Recorder
from personaplex_cli.samples import FRAME, SILENT_FRAME
from personaplex_cli.transcript import AGENT, USER, Word

CHEF, TEACHER = (find_character(CharacterOptions(persona=name), Sampling(seed=3)) for name in ("chef", "teacher"))


@pytest.fixture(scope="module")
def demo() -> LocalEngine:
    return load(ModelOptions("demo", device="cpu"), ignore, TEACHER)


def test_the_same_settings_make_the_same_tokens(
    random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live talk, with hushes, one of them twice, a switch to another persona, a restart, and a muted second."""
    model = load(ModelOptions(str(random_folder), device="cpu"), ignore, TEACHER)
    sound = noise(70, 1)
    sound[:12] = sound[20:52] = SILENT_FRAME
    held = Held(plug_in(FakeCard(microphone=sound.reshape(-1)), monkeypatch), lambda _: model, TEACHER, tmp_path / "a")
    chat, conversation = held.chat, held.chat._conversation
    held.at = {
        8: lambda: chat.press("s"),
        20: lambda: conversation.restart(CHEF),
        30: lambda: chat.press("s"),
        35: lambda: chat.press("s"),
        45: lambda: [chat.press(key) for key in "rs"] and None,
        55: lambda: chat.press("m"),
        60: lambda: chat.press("m"),
    }
    held.run()
    (folder,) = (tmp_path / "a").iterdir()
    talk = read_talk(folder)
    assert talk.frames == 70 and talk.tokens is not None and len(np.unique(talk.tokens)) > 50
    said: list[Event] = []
    again = read_talk(hold_again(model, talk, characters(talk, {}), tmp_path / "b", said.append))
    assert np.array_equal(
        (folder / "tokens.npy").read_bytes(), (tmp_path / "b" / again.name / "tokens.npy").read_bytes()
    )
    assert np.array_equal(again.heard, talk.heard) and np.array_equal(again.said, talk.said)
    assert again.words == talk.words
    kinds = (Began, Hushed)
    assert [e for e in again.events if isinstance(e[1], kinds)] == [e for e in talk.events if isinstance(e[1], kinds)]
    assert Note("All tokens are the same, in 70 frames.") in said


Doing = st.sampled_from(["hush", "again", "another"])


def talked(engine: Engine, folder: Path, frames: int, does: dict[int, list[str]], loud: list[bool]) -> RecordedTalk:
    """A recorded talk in which the user does these things before these frames, and says a word in each loud one."""
    sound = noise(frames, 1) * np.array(loud, dtype=np.float32)[:, np.newaxis]
    with Recorder(Given(sound), folder, ignore) as recorder:
        audio = Once(sound)
        recorder._audio = audio
        conversation, ahead = Conversation(TEACHER, recorder), dict(does)
        for _, event in converse_all(engine, [conversation]):
            recorder.hear(event)
            if isinstance(event, Step) and loud[audio.next - 1]:
                recorder.hear(UserWords(" yes", event.index, event.index + 1))
            if isinstance(event, Step) or (isinstance(event, Began) and not audio.next):
                for what in ahead.pop(audio.next, []):  # once: to begin again may come back to this frame
                    wish(conversation, what)
    assert recorder.folder
    return read_talk(recorder.folder)


def wish(conversation: Conversation, what: str) -> None:
    if what == "hush":
        conversation.hush()
    else:
        conversation.restart(CHEF if what == "another" else None)


class Once(Given):
    """Frames that go on where they were when the conversation begins again."""

    next = 0

    def frames(self, wake: Any) -> Iterator[Any]:
        for frame in self.heard[self.next :]:
            self.next += 1
            yield frame


@settings(max_examples=12, deadline=None)
@given(st.dictionaries(st.integers(0, 17), st.lists(Doing, min_size=1, max_size=3), max_size=5), st.data())
def test_whatever_was_done_in_a_talk_is_done_again(does: dict[int, list[str]], data: st.DataObject) -> None:
    loud = data.draw(st.lists(st.booleans(), min_size=18, max_size=18))
    with TemporaryDirectory() as place:
        talk = talked(Parrot(1), Path(place) / "a", 18, does, loud)
        again = read_talk(hold_again(Parrot(1), talk, parrots(talk), Path(place) / "b", ignore))
    assert np.array_equal(again.said, talk.said) and again.words == talk.words
    assert last_of_each_frame(again) == last_of_each_frame(talk)


def parrots(talk: RecordedTalk) -> dict[int, Character]:
    """A parrot's settings are empty: who spoke is known by the name."""
    begun = {frame: event for frame, event in talk.events if isinstance(event, Began)}
    return {frame: CHEF if event.persona == "chef" else TEACHER for frame, event in begun.items()}


def last_of_each_frame(talk: RecordedTalk) -> dict[tuple[int, type], Event]:
    """Where several of a kind came in one frame, only the last counts."""
    return {(frame, type(event)): event for frame, event in talk.events}


class Interrupted(Parrot):
    def step(self, *args: Any) -> Any:
        if self._heard[0] == 9:
            raise KeyboardInterrupt
        return super().step(*args)


def test_an_answer_that_is_interrupted_leaves_no_half_talk(tmp_path: Path) -> None:
    talk = talked(Parrot(1), tmp_path / "a", 18, {}, [True] * 18)
    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        hold_again(Interrupted(1), talk, parrots(talk), tmp_path / "b", events.append)
    assert not list((tmp_path / "b").iterdir())
    assert Note("The new answer was not finished, so nothing of it is kept.") in events


def test_whenever_the_program_is_killed_there_is_no_half_talk(tmp_path: Path) -> None:
    talk = talked(Parrot(1), tmp_path / "a", 30, {}, [True] * 30)
    out = tmp_path / "b"

    def look(event: Event) -> None:
        assert all(map(is_whole, out.glob("[!.]*")))

    for _ in range(2):  # both begin in one second, perhaps
        hold_again(Parrot(1), talk, parrots(talk), out, look)
    assert len(list(out.iterdir())) == 2 and all(map(is_whole, out.iterdir()))


def is_whole(folder: Path) -> bool:
    return read_talk(folder).frames == 30 and (folder / "comparison.html").read_text().endswith("</html>\n")


def test_a_disk_that_is_full_ends_it_with_nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = talked(Parrot(1), tmp_path / "a", 30, {}, [True] * 30)
    monkeypatch.setattr("personaplex_cli.recorder.free_bytes", lambda folder: 0)
    events: list[Event] = []
    with pytest.raises(AudioError, match="cannot be written"):
        hold_again(Parrot(1), talk, parrots(talk), tmp_path / "b", events.append)
    assert not list((tmp_path / "b").iterdir())
    assert any(isinstance(event, Note) and "the disk has less than" in event.text for event in events)


def test_of_two_personas_the_one_who_is_heard_is_named_and_keeps_the_words(tmp_path: Path) -> None:
    options = DuetOptions(minutes=30 * 0.08 / 60, fast=True, record=tmp_path / "a")
    duet = Duet(lambda: Parrot(2), CHEF, TEACHER, options, SpeakerOptions(), ignore)
    duet.run(Nothing(), Nothing())
    assert duet._worker and duet._worker.join(60)
    (folder,) = (tmp_path / "a").iterdir()
    talk, events = read_talk(folder), list[Event]()
    again = hold_again(Parrot(1), talk, {0: replace(TEACHER, persona="actor")}, tmp_path / "b", events.append)
    assert [word for word in read_talk(again).words if word.speaker == USER] == [
        word for word in talk.words if word.speaker == USER
    ]
    began = next(event for event in events if isinstance(event, Began))
    assert (began.user, began.persona, began.left["voice"]) == ("chef", "actor", CHEF.voice)
    (finished,) = (event for event in events if isinstance(event, Finished))
    assert {speaker for speaker, _ in finished.turns} == {"chef", "actor"}
    assert (again / "transcript.md").read_text().startswith("# chef and actor, ")


def test_tokens_are_compared_with_the_examples_where_an_option_repeats_what_was(
    demo: LocalEngine, tmp_path: Path
) -> None:
    talk = read_talk(EXAMPLE)
    assert talk.tokens is not None and len(talk.tokens) == talk.frames
    start = replace(talk, heard=talk.heard[: 12 * FRAME], said=talk.said[: 12 * FRAME], words=[])
    events: list[Event] = []
    hold_again(demo, start, characters(talk, {"persona": "Astronaut", "seed": 1}), tmp_path, events.append)
    assert Note("All tokens are the same, in 12 frames.") in events


def test_other_settings_answer_the_same_user(demo: LocalEngine, tmp_path: Path) -> None:
    talk = talked(demo, tmp_path / "a", 40, {}, [True] * 40)
    changes = {"persona": "chef", "voice": "NATM1", "seed": 5}
    events: list[Event] = []
    folder = hold_again(demo, talk, characters(talk, changes), tmp_path / "b", events.append)
    again = read_talk(folder)
    assert not any(isinstance(event, Note) and "tokens" in event.text for event in events)
    began = next(event for _, event in again.events if isinstance(event, Began))
    assert (began.persona, began.voice, began.seed) == ("chef", "NATM1", 5)
    assert np.array_equal(again.heard, talk.heard) and not np.array_equal(again.said, talk.said)
    assert {path.name for path in folder.iterdir()} >= {
        "conversation.wav",
        "before.wav",
        "before.json",
        "comparison.html",
    }
    assert json.loads((folder / "before.json").read_text())["settings"]["persona"] == "teacher"
    (finished,) = (event for event in events if isinstance(event, Finished))
    assert all(Path(name).is_file() for name in finished.files)


def recorded_with(folder: Path, **values: Any) -> RecordedTalk:
    with_settings = {"persona": "chef", "prompt": "You cook.", "voice": "NATF1", "model": "demo", **values}
    return older(folder, {"settings": with_settings}, frames=2)


def test_what_is_not_changed_is_as_it_was(tmp_path: Path) -> None:
    sampling = {"seed": 7, "greedy": False, "audio_temperature": 0.5, "audio_top_k": 9, "text_temperature": 1, "x": 3}
    talk = recorded_with(tmp_path / "a", sampling=sampling, precision="int8", memory=60.0)
    who = characters(talk, {})[0]
    assert (who.persona, who.prompt, who.voice) == ("chef", "You cook.", "NATF1")
    assert who.sampling == Sampling(7, False, 0.5, 9, 1)
    changed = characters(talk, {"seed": 8, "persona": "teacher"})[0]
    assert (changed.persona, changed.prompt, changed.voice) == ("teacher", TEACHER.prompt, TEACHER.voice)
    assert characters(talk, {"persona": "teacher", "voice": "NATM3"})[0].voice == "NATM3"
    assert changed.sampling == replace(who.sampling, seed=8)
    options = model_options(talk, {"device": "cpu"})
    assert (options.model, options.precision, options.device) == ("demo", "int8", "cpu")
    assert (options.renew, options.memory) == (True, 60.0)
    assert model_options(talk, {"model": "mine"}).precision == "auto"


@pytest.mark.parametrize("named", ["evil/repository", "/etc", "", None, 3])
def test_a_strangers_recording_loads_no_model_of_its_own(named: Any, tmp_path: Path) -> None:
    talk = recorded_with(tmp_path / "a", model=named)
    with pytest.raises(UsageError) as refused:
        model_options(talk, {})
    assert "--model" in refused.value.hint
    assert model_options(talk, {"model": "demo"}).model == "demo"


@pytest.mark.parametrize("voice", ["/etc/passwd", "../../voice.wav", "nothing", "", None])
def test_a_strangers_recording_opens_no_file_of_yours(voice: Any, tmp_path: Path) -> None:
    talk = recorded_with(tmp_path / "a", voice=voice)
    with pytest.raises(UsageError) as refused:
        characters(talk, {})
    assert "--voice" in refused.value.hint
    assert characters(talk, {"voice": "NATM1"})[0].voice == "NATM1"


def test_the_command_holds_a_talk_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSONAPLEX_VOICE", "NATF3")  # what is not given on the command line is as it was
    talk = recorded_with(tmp_path / "talk")
    assert program(["replay", "talk", "--seed", "4", "--json", "-o", "out"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (began,) = (event for event in events if event["event"] == "began")
    assert (began["voice"], began["seed"], began["persona"]) == ("NATF1", 4, "chef")
    assert sum(event["event"] == "step" for event in events) == talk.frames
    (folder,) = (tmp_path / "out").iterdir()
    assert (folder / "comparison.html").is_file()
    assert program(["replay", "talk", "--voice", "nothing"]) == 2
    assert "There is no voice named 'nothing'" in capsys.readouterr().err


class Tags(HTMLParser):
    """What a page holds: tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.texts.append(data)


HOSTILE = st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style><b>", "\ud800", "&lt;", "]]>", "<!--"]
) | st.text(min_size=1)


@settings(deadline=None, max_examples=40)
@given(st.lists(HOSTILE, min_size=1, max_size=5), HOSTILE)
def test_a_page_holds_hostile_words_as_text_and_asks_no_network(words: list[str], name: str) -> None:
    silence = np.zeros(2 * FRAME, dtype=np.float32)
    spoken = [Word(word, at / 10, at / 10 + 0.1, (AGENT, USER)[at % 2]) for at, word in zip(count(), words)]
    talk = RecordedTalk(name, silence, silence, spoken, [(0, replace(BEGAN, persona=name))], None)
    html = page(talk, talk, [name])
    tags = Tags(html)
    known = {"html", "head", "meta", "title", "style", "body", "h1", "p", "button", "div", "span", "svg", "path"}
    assert {tag for tag, _ in tags.tags} <= known | {"b", "br", "figure", "figcaption", "audio", "script"}
    assert len([tag for tag, _ in tags.tags if tag == "script"]) == 1
    for tag, attributes in tags.tags:
        assert not any(each.startswith("on") for each in attributes)
        assert tag == "audio" or not {"src", "href"} & attributes.keys()
        assert (attributes.get("src") or "data:audio/ogg;base64,").startswith("data:audio/ogg;base64,")
    assert "http:" not in "".join(map(str, tags.tags)) and html.encode()


def test_a_page_has_times_and_names_its_lanes_and_who_spoke() -> None:
    silence = np.zeros(30 * FRAME, dtype=np.float32)
    switched = [(0, BEGAN), (9, replace(BEGAN, persona="chef"))]
    texts = Tags(page(*[RecordedTalk("talk", silence, silence, [], switched, None)] * 2)).texts
    assert {
        "talk: two answers to the same recording",
        "0:00",
        "0:01",
        "0:02",
        "You",
        "Play you and the old answer",
    } <= set(texts)
    assert texts.count("The old answer") == 2 and "0:03" not in texts  # its lane, its player
    assert "then chef, voice NATF2, seed 3, demo" in texts


def test_words_that_are_near_each_other_do_not_cover_each_other() -> None:
    talk = RecordedTalk("", np.zeros(FRAME, np.float32), np.zeros(FRAME, np.float32), [], [(0, BEGAN)], None)
    words = [Word("somewhat", 0.1 * at, 0.1 * at + 0.1, AGENT) for at in range(3)]
    html = page(replace(talk, words=words), talk)
    assert all(f"top:{row}px" in html for row in (0, 17, 34))
