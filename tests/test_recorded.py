"""Recordings read again: what the recorder wrote comes back, and no file that a stranger made can do harm."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.audio.recording import write_wav
from personaplex_cli.errors import PersonaplexError, UsageError
from personaplex_cli.events import Began, Event, Hushed, Muted, Renewed, Step, UserWords, ignore
from personaplex_cli.recorded import RecordedTalk, read_talk
from personaplex_cli.recorder import Recorder
from personaplex_cli.samples import FRAME, Samples, from_pcm16

SETTINGS = {"persona": "teacher", "voice": "NATF2", "model": "demo", "device": "cpu", "sampling": {"seed": 3}}
BEGAN = Began("teacher", "NATF2", "demo", "cpu", "fp32", 3, 10, 3000, SETTINGS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


class Given:
    """An Audio that hears these frames [frames, 1920]."""

    def __init__(self, heard: np.ndarray[Any, Any]) -> None:
        self.heard = heard

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples]:
        return iter(self.heard)

    def play(self, pcm: Samples) -> None: ...


def noise(frames: int, seed: int) -> np.ndarray[Any, Any]:
    whole = np.random.default_rng(seed).integers(-3000, 3000, frames * FRAME, dtype="<i2")
    return from_pcm16(whole.tobytes()).reshape(frames, FRAME)


def record(folder: Path, frames: int, happens: dict[int, list[Event]], text: Callable[[int], str]) -> Path:
    """A talk in which these events happen before these frames; in frame `i` all tokens are `i`."""
    heard, said = noise(frames, 1), noise(frames, 2)
    with Recorder(Given(heard), folder, ignore) as kept:
        for event in happens.get(0, []):
            kept.hear(event)
        for index, _ in enumerate(kept.frames(lambda: None)):
            for event in happens.get(index, []) if index else []:
                kept.hear(event)
            kept.play(said[index])
            kept.hear(Step(index, text(index), 0, 0, None, tokens=(index,) * 17))
    assert kept.folder
    return kept.folder


def test_what_was_recorded_is_read(tmp_path: Path) -> None:
    renewed = Renewed(9, 5, 20)
    happens: dict[int, list[Event]] = {0: [BEGAN], 4: [Hushed(True), Muted(True)], 9: [renewed], 13: [BEGAN]}
    folder = record(tmp_path, 15, happens, lambda index: f" {index}" if index % 5 == 2 else "")
    talk = read_talk(folder)
    assert talk.frames == 15
    assert np.array_equal(talk.heard.reshape(15, FRAME), noise(15, 1))
    assert np.array_equal(talk.said.reshape(15, FRAME), noise(15, 2))
    assert [word.word for word in talk.words] == talk.text.split() == ["2", "7", "12"]
    assert list(talk.events) == [(0, BEGAN), (4, Hushed(True)), (4, Muted(True)), (9, renewed), (13, BEGAN)]
    assert talk.tokens is not None and np.array_equal(talk.tokens, np.repeat(np.arange(15)[:, np.newaxis], 17, axis=1))
    by_wav = read_talk(folder / "conversation.wav")
    assert by_wav.name == talk.name and np.array_equal(by_wav.heard, talk.heard)


def older(folder: Path, about: Any, frames: int = 30) -> RecordedTalk:
    """A recording as it was written before there were tokens and events, with this transcript."""
    folder.mkdir(exist_ok=True)
    with (folder / "conversation.wav").open("wb") as file:
        write_wav(file, noise(frames, 1).reshape(-1), noise(frames, 2).reshape(-1))
    (folder / "transcript.json").write_text(json.dumps(about))
    return read_talk(folder)


def test_recordings_without_tokens_and_events_are_read(tmp_path: Path) -> None:
    words = [{"word": "Hi.", "start": 0.16, "end": 0.24}]
    talk = older(tmp_path / "old", {"settings": SETTINGS, "text": "Hi.", "restarts": [1.2], "words": words})
    assert talk.tokens is None and talk.text == "Hi."
    assert [frame for frame, _ in talk.events] == [0, 15]
    assert all(isinstance(began, Began) and began.persona == "teacher" and began.seed == 3 for _, began in talk.events)


def test_a_talk_without_a_transcript_is_sound(tmp_path: Path) -> None:
    older(tmp_path / "old", {})
    (tmp_path / "old" / "transcript.json").unlink()
    assert read_talk(tmp_path / "old").frames == 30


def test_the_users_words_come_when_they_were_spoken_and_count_from_where_it_began(tmp_path: Path) -> None:
    words = [{"word": "Yes", "start": 0.8, "end": 0.96, "speaker": "user"}]
    words += [{"word": "No", "start": 2.0, "end": 2.08, "speaker": "user"}]
    talk = older(tmp_path / "old", {"settings": SETTINGS, "restarts": [1.2], "words": words})
    spoken = [(frame, event) for frame, event in talk.happened() if isinstance(event, UserWords)]
    assert spoken == [(12, UserWords(" Yes", 10, 12)), (26, UserWords(" No", 10, 11))]
    assert talk.text == ""


def test_what_is_no_talk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recorded talk"):
        read_talk(tmp_path)
    with pytest.raises(UsageError, match="no recorded talk"):
        read_talk(tmp_path / "nowhere")
    (tmp_path / "base.wav").write_bytes(b"")
    with pytest.raises(UsageError, match=r"base\.wav is not a recorded talk"):
        read_talk(tmp_path / "base.wav")
    older(tmp_path / "one", {})
    assert read_talk(tmp_path).name == "one"  # there is no other
    older(tmp_path / "two", {})
    with pytest.raises(UsageError, match="several talks") as refused:
        read_talk(tmp_path)
    assert str(tmp_path / "two") in refused.value.hint


HUGE = b"{'descr': '<i4', 'fortran_order': False, 'shape': (1000000000000, 17)}"


@pytest.mark.parametrize(
    "tokens", [b"", b"\x93NUMPY", b"no tokens", b"\x93NUMPY\x01\x00v\x00" + HUGE.ljust(118) + b"1234"]
)
def test_spoiled_tokens_are_refused(tokens: bytes, tmp_path: Path) -> None:
    older(tmp_path / "old", {})
    (tmp_path / "old" / "tokens.npy").write_bytes(tokens)
    with pytest.raises(PersonaplexError, match="holds no tokens"):
        read_talk(tmp_path / "old")


def test_a_transcript_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    older(tmp_path / "old", {})
    deep = '{"settings": ' + 20 * '{"a": ' + "1" + 20 * "}" + "}"
    (tmp_path / "old" / "transcript.json").write_text(deep)
    with pytest.raises(PersonaplexError, match="not a valid transcript"):
        read_talk(tmp_path / "old")


EVENTS = st.fixed_dictionaries(
    {"frame": JSON, "event": st.sampled_from(["began", "hushed", "muted", "renewed", "step", ""])},
    optional={name: JSON for name in ("persona", "on", "index", "remembered", "filled", "seed", "settings")},
)
WORDS = st.fixed_dictionaries({"word": JSON, "start": JSON, "end": JSON}, optional={"speaker": JSON})
TRANSCRIPTS = JSON | st.fixed_dictionaries(
    {},
    optional={
        "settings": JSON,
        "restarts": JSON | st.lists(st.floats()),
        "events": JSON | st.lists(EVENTS, max_size=3),
        "words": JSON | st.lists(WORDS, max_size=3),
    },
)


@given(TRANSCRIPTS)
def test_a_hostile_transcript_is_read_as_a_talk_or_refused(
    tmp_path_factory: pytest.TempPathFactory, about: Any
) -> None:
    folder = tmp_path_factory.getbasetemp() / "hostile"
    try:
        talk = older(folder, about, frames=2)
    except PersonaplexError as error:
        assert "transcript" in str(error) and error.hint
        return
    assert isinstance(talk.events[0][1], Began) or any(isinstance(event, Began) for _, event in talk.events)
    assert [frame for frame, _ in talk.happened()] == sorted(frame for frame, _ in talk.happened())
    assert all(isinstance(word.word, str) and 0 <= word.start <= word.end for word in talk.words)
