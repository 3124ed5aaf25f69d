"""Keeping a live conversation: whatever ends it, at most the last second is lost."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.audio.recording import read_recording
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.events import Began, Event, Hushed, Muted, Note, Recording, Step, Timings, UserWords, ignore
from personaplex_cli.files import check_folder
from personaplex_cli.recorder import Recorder
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples, from_pcm16, pcm16

SETTINGS: dict[str, Any] = {"persona": "teacher", "sampling": {"seed": 3}}
BEGAN = Began("teacher", "NATF2", "demo", "cpu", "fp32", 3, 10, 3000, SETTINGS)


class Ramp:
    """An Audio whose frame `i` is filled with i/100; what is played is counted."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.played = 0

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples]:
        return (np.full(FRAME, index / 100, dtype=np.float32) for index in range(self.count))

    def play(self, pcm: Samples) -> None:
        self.played += 1


def keep(folder: Path, frames: int, said: list[Event] | None = None) -> Recorder:
    """A conversation in which the agent says the opposite of what it hears, and a word each second; frame `i` has the
    tokens `i`, `i + 1` and so on."""
    with Recorder(Ramp(frames), folder, (said if said is not None else []).append) as kept:
        kept.hear(BEGAN)
        for index, heard in enumerate(kept.frames(wake)):
            assert heard is not None
            kept.play(-heard)
            text, tokens = " word" if index % 12 == 0 else "", tuple(range(index, index + 17))
            kept.hear(Step(index, text, 0, 0, Timings(1, 1, 1), tokens=tokens))
    return kept


def wake() -> None: ...


def sound(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (SAMPLE_RATE, 2, 2)
        both = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / 32767
    return both[:, 0], both[:, 1]


@pytest.mark.parametrize("frames", [1, 11, 12, 13, 40])
def test_both_sides_and_all_words_are_kept(frames: int, tmp_path: Path) -> None:
    kept = keep(tmp_path, frames)
    left, right = sound(kept.folder / "conversation.wav")
    assert len(left) == frames * FRAME
    assert np.allclose(left[::FRAME], np.arange(frames) / 100, atol=1e-4)
    assert np.allclose(right, -left, atol=1e-4)
    transcript = json.loads((kept.folder / "transcript.json").read_text())
    assert transcript["settings"] == transcript["events"][0]["settings"] == SETTINGS
    assert transcript["text"].split() == ["word"] * -(-frames // 12)
    assert (kept.folder / "transcript.srt").read_text().count("-->") == -(-frames // 12)
    assert (kept.folder / "transcript.md").read_text().startswith("# teacher")
    assert sorted(map(str, kept.folder.iterdir())) == sorted(kept.files)
    if frames:
        tokens = np.load(kept.folder / "tokens.npy")
        assert tokens.dtype == np.int32 and np.array_equal(tokens, np.add.outer(range(frames), range(17)))


@given(st.binary().filter(lambda pcm: len(pcm) % 2 == 0))
def test_what_16_bits_hold_they_hold_again(pcm: bytes) -> None:
    assert pcm16(from_pcm16(pcm)) == pcm


def test_what_is_heard_is_what_the_wav_holds(tmp_path: Path) -> None:
    """Else the recording could not be held again with the same tokens."""

    class Noise(Ramp):
        def frames(self, wake: Callable[[], None]) -> Iterator[Samples]:
            return iter(np.random.default_rng(0).uniform(-1.1, 1.1, (self.count, FRAME)).astype(np.float32))

    with Recorder(Noise(5), tmp_path, ignore) as kept:
        kept.hear(BEGAN)
        heard = []
        for index, frame in enumerate(kept.frames(wake)):
            heard.append(frame)
            kept.hear(Step(index, "", 0, 0, None))
    assert kept.folder
    assert np.array_equal(read_recording(kept.folder / "conversation.wav", "left"), np.concatenate(heard))


def test_what_is_done_to_a_talk_is_kept_with_the_frame_before_which_it_came(tmp_path: Path) -> None:
    happens: dict[int, list[Event]] = {0: [BEGAN], 3: [Hushed(True), Muted(True)], 20: [replace(BEGAN, voice="NATM1")]}
    with Recorder(Ramp(30), tmp_path, ignore) as kept:
        for event in happens.pop(0):
            kept.hear(event)
        for index, _ in enumerate(kept.frames(wake)):
            for event in happens.pop(index, ()):
                kept.hear(event)
            kept.hear(Step(index, "", 0, 0, None))
    assert kept.folder
    events = json.loads((kept.folder / "transcript.json").read_text())["events"]
    assert [(each["frame"], each["event"]) for each in events] == [
        (0, "began"),
        (3, "hushed"),
        (3, "muted"),
        (20, "began"),
    ]
    assert [each["voice"] for each in events if each["event"] == "began"] == ["NATF2", "NATM1"]
    assert events[0]["settings"] == SETTINGS


def test_the_words_of_a_long_talk_are_written_less_often_and_all_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time they are all written anew: every second would be too much for hours."""
    writes, write = [0], Recorder._write_transcripts

    def counted(self: Recorder) -> None:
        writes[0] += 1
        write(self)

    monkeypatch.setattr(Recorder, "_write_transcripts", counted)
    monkeypatch.setattr("personaplex_cli.recorder.PIECES_A_SECOND", 50)
    with Recorder(Ramp(300), tmp_path, ignore) as kept:
        kept.hear(BEGAN)
        for index, _ in enumerate(kept.frames(wake)):
            kept.hear(Step(index, f" {index}", 0, 0, None))
    assert kept.folder
    assert json.loads((kept.folder / "transcript.json").read_text())["text"].split() == [str(n) for n in range(300)]
    assert writes[0] < 300 // 12 - 5


def test_an_engine_without_tokens_leaves_no_file_of_them(tmp_path: Path) -> None:
    with Recorder(Ramp(3), tmp_path, ignore) as kept:
        kept.hear(BEGAN)
        for index, _ in enumerate(kept.frames(wake)):
            kept.hear(Step(index, "", 0, 0, None))
    assert kept.folder and "tokens.npy" not in {path.name for path in kept.folder.iterdir()}
    assert not any(name.endswith("tokens.npy") for name in kept.files)


@pytest.mark.skipif(os.name == "nt", reason="modes are of POSIX")
def test_a_recording_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        kept = keep(tmp_path / "talks", 3)
    finally:
        os.umask(before)
    assert kept.folder
    assert [stat.S_IMODE(each.stat().st_mode) for each in (kept.folder.parent, kept.folder)] == [0o700, 0o700]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept.folder.iterdir()} == {0o600}


def test_a_disk_that_is_nearly_full_ends_the_keeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personaplex_cli.recorder.free_bytes", lambda folder: 10**7)
    said: list[Event] = []
    assert keep(tmp_path, 30, said)._audio.played == 30  # type: ignore[attr-defined]
    assert [event for event in said if isinstance(event, Note) and "less than 100 MB" in event.text]


def test_late_answers_are_kept_as_late_as_they_came(tmp_path: Path) -> None:
    """Nothing for two frames, then three at once, then a half: none of it is lost, and the sides stay together."""
    said = [
        np.full(size, number / 10, dtype=np.float32) for number, size in enumerate((0, 0, 3 * FRAME, 0, FRAME // 2, 0))
    ]
    with Recorder(Ramp(6), tmp_path, ignore) as kept:
        kept.hear(BEGAN)
        for index, _ in enumerate(kept.frames(wake)):
            kept.play(said[index])
            kept.hear(Step(index, "", 0, 0, None))
    left, right = sound(kept.folder / "conversation.wav")
    assert len(left) == len(right) == 6 * FRAME
    expected = [np.zeros(2 * FRAME), np.full(3 * FRAME, 0.2), np.full(FRAME // 2, 0.4), np.zeros(FRAME // 2)]
    assert np.allclose(right, np.concatenate(expected), atol=1e-4)


def test_each_conversation_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = {keep(tmp_path, 1).folder for _ in range(3)}
    assert len(folders) == 3


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    recorder = Recorder(Ramp(1), tmp_path / "file", ignore)
    (tmp_path / "file").touch()  # it came later
    with recorder as kept, pytest.raises(AudioError, match="cannot be written"):
        kept.hear(BEGAN)
    assert kept.files == ()


def test_a_conversation_that_never_begins_leaves_nothing(tmp_path: Path) -> None:
    with Recorder(Ramp(1), tmp_path / "talks", ignore):
        pass
    assert not (tmp_path / "talks").exists()


def test_a_conversation_without_a_frame_leaves_nothing(tmp_path: Path) -> None:
    kept = keep(tmp_path, 0)
    assert kept.files == () and not list(tmp_path.iterdir())


def test_begun_again_it_goes_on_in_the_same_recording(tmp_path: Path) -> None:
    with Recorder(Ramp(3), tmp_path, ignore) as kept:
        for _ in range(2):
            kept.hear(BEGAN)
            for index, heard in enumerate(kept.frames(wake)):
                assert heard is not None
                kept.play(heard)
                kept.hear(Step(index, "", 0, 0, None))
    (folder,) = tmp_path.iterdir()
    assert len(sound(folder / "conversation.wav")[0]) == 6 * FRAME


def test_a_disk_that_fails_ends_the_keeping_and_not_the_talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wave.Wave_write, "writeframes", full)
    said: list[Event] = []
    kept = keep(tmp_path, 30, said)
    assert kept._audio.played == 30  # type: ignore[attr-defined]
    assert [event for event in said if isinstance(event, Note) and "has stopped" in event.text]


def test_text_that_cannot_be_encoded_ends_nothing(tmp_path: Path) -> None:
    said: list[Event] = []
    with Recorder(Ramp(14), tmp_path, said.append) as kept:
        kept.hear(Began("bad\ud800\n# forged", "\udce9", "\ud800", "cpu", "fp32", 3, 10, 3000, {"model": "\ud800"}))
        for index, _ in enumerate(kept.frames(wake)):
            kept.play(np.zeros(FRAME, dtype=np.float32))
            kept.hear(Step(index, " \ud800", 0, 0, None))
    assert kept.folder and said == [Recording(str(kept.folder))]
    assert json.loads((kept.folder / "transcript.json").read_text())["text"].split() == ["\ud800"] * 14
    assert (kept.folder / "transcript.md").read_text().startswith("# bad\\ud800 # forged, ")


def test_whatever_ends_the_keeping_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "_append", lambda *_: 1 / 0)
    said: list[Event] = []
    assert keep(tmp_path, 30, said)._audio.played == 30  # type: ignore[attr-defined]
    assert [event for event in said if isinstance(event, Note) and "has stopped" in event.text]


def test_a_file_in_place_of_the_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(b"")
    for place in (tmp_path / "talk.wav", tmp_path / "talk.wav" / "talks"):
        with pytest.raises(UsageError, match=r"talk\.wav is a file, not a folder"):
            check_folder(place)


def test_a_restart_is_marked_and_ends_the_turn(tmp_path: Path) -> None:
    with Recorder(Ramp(26), tmp_path, ignore) as kept:
        kept.hear(BEGAN)
        for index, _ in enumerate(kept.frames(wake)):
            if index == 13:
                kept.hear(BEGAN)
            kept.play(np.zeros(FRAME, dtype=np.float32))
            kept.hear(Step(index % 13, " word" if index in (11, 14) else "", 0, 0, None))
    assert kept.folder
    assert json.loads((kept.folder / "transcript.json").read_text())["restarts"] == [1.04]
    lines = (kept.folder / "transcript.md").read_text().splitlines()
    assert lines[2::2] == ["**0:00** word", "*0:01 The conversation begins again.*", "**0:01** word"]


def test_all_who_spoke_are_named_from_the_first_on(tmp_path: Path) -> None:
    chef, astronaut = (replace(BEGAN, persona=name, voice="NATM1") for name in ("chef", "astronaut"))
    with Recorder(Ramp(26), tmp_path, ignore) as kept:
        kept.hear(BEGAN)
        for index, _ in enumerate(kept.frames(wake)):
            for event in {13: [chef], 20: [astronaut], 22: [chef]}.get(index, []):
                kept.hear(event)
            kept.play(np.zeros(FRAME, dtype=np.float32))
            kept.hear(Step(index, "", 0, 0, None))
    assert kept.folder
    title, *marks = (kept.folder / "transcript.md").read_text().splitlines()[::2]
    assert title.startswith("# teacher, chef, astronaut, ")
    assert marks == [
        "*0:00 First teacher speaks, with the voice NATF2.*",
        "*0:01 From here on chef speaks, with the voice NATM1.*",
        "*0:01 From here on astronaut speaks, with the voice NATM1.*",
        "*0:01 From here on chef speaks, with the voice NATM1.*",
    ]


def test_words_of_the_users_are_kept_where_they_were_spoken_however_late_they_come(tmp_path: Path) -> None:
    with Recorder(Ramp(26), tmp_path, ignore) as kept:
        kept.hear(BEGAN)
        for index, _ in enumerate(kept.frames(wake)):
            if index == 20:
                kept.hear(BEGAN)  # six frames of this conversation, twenty of the one before
            kept.play(np.zeros(FRAME, dtype=np.float32))
            kept.hear(Step(index, " Yes." if index == 15 else "", 0, 0, None))
        kept.hear(UserWords(" now?", 2, 4))
        kept.hear(UserWords(" Then?", -10, -8))
    assert kept.folder
    words = json.loads((kept.folder / "transcript.json").read_text())["words"]
    assert [(word["word"], word["speaker"], word["start"]) for word in words] == [
        ("Then?", "user", 0.8), ("Yes.", "agent", 1.2), ("now?", "user", 1.76)
    ]  # fmt: skip
    assert "You: Then?" in (kept.folder / "transcript.srt").read_text()


def test_a_later_run_hears_the_user_alone(tmp_path: Path) -> None:
    path = keep(tmp_path, 13).folder / "conversation.wav"
    path.rename(tmp_path / "renamed.wav")  # nothing beside it tells what it is
    heard = read_recording(tmp_path / "renamed.wav")
    assert np.allclose(heard[::FRAME], np.arange(13) / 100, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of POSIX")
def test_killed_it_loses_at_most_the_last_second(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from pathlib import Path; import test_recorder as t;"
        "kept = t.Recorder(t.Ramp(30), Path(sys.argv[1]), t.ignore); kept.hear(t.BEGAN);"
        "step = lambda i: t.Step(i, ' word', 0, 0, t.Timings(1, 1, 1), tokens=(i,) * 17);"
        "[(kept.play(-heard), kept.hear(step(i))) for i, heard in enumerate(kept.frames(t.wake))];"
        "print('said', flush=True); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"said\n"
        wavs: list[Path] = []
        while not (wavs and wavs[0].stat().st_size >= 24 * FRAME * 4):  # the writer has its own thread
            wavs = list(tmp_path.glob("*/conversation.wav"))
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    left, _ = sound(wavs[0])
    assert len(left) >= 24 * FRAME
    assert json.loads((wavs[0].parent / "transcript.json").read_text())["words"]
    assert len(np.load(wavs[0].parent / "tokens.npy")) >= 12


def test_what_keeps_the_sound_from_opening_comes_out_at_once(tmp_path: Path) -> None:
    class Refused(Ramp):
        def frames(self, wake: Callable[[], None]) -> Iterator[Samples]:
            raise AudioError("No such card.")

    with Recorder(Refused(1), tmp_path, ignore) as kept, pytest.raises(AudioError, match="No such card"):
        kept.frames(wake)
    assert not list(tmp_path.iterdir())
