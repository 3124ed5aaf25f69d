"""Programs that write down the user's words: files, a live conversation, a server."""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import parrot
import pytest
from runningserver import RunningServer, connected, frames, next_json, talk_pcm, wav

from personaplex_cli.cli import main as cli
from personaplex_cli.events import Note, Recording, Transcribing, UserWords
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions, OutputOptions, ServeOptions
from personaplex_cli.programs import run as program
from personaplex_cli.programs.jobs import plan
from personaplex_cli.samples import FRAME, Samples


def speech(level: float) -> Samples:
    """A second of a voice, and one without: two words, as the library of these tests hears it."""
    return np.repeat(np.float32([level, 0.0]), 13 * FRAME)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "personaplex_cli.loader.load", parrot)


@pytest.mark.usefixtures("no_model")
def test_answers_to_recordings_have_the_words_of_both(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(library)
    Path("in").mkdir()
    wav(library / "in" / "a.wav", speech(0.1))
    wav(library / "in" / "b.wav", speech(0.3))
    arguments = ["run", "in", "-o", "out/", "-m", "demo", "--srt", "--md", "--seed", "3", "--asr", str(library)]
    assert cli.program(arguments) == 0
    for name, heard in (("a", "0.1!"), ("b", "0.3!")):
        report = json.loads(Path(f"out/{name}.json").read_text())
        mine = [word["word"] for word in report["words"] if word["speaker"] == "user"]
        assert mine == ["heard", heard] and "heard" not in report["text"]
        assert (
            "You: heard" in Path(f"out/{name}.srt").read_text() and "You: heard" in Path(f"out/{name}.md").read_text()
        )
        assert report["settings"]["asr"] == str(library)


def test_the_benchmark_reads_the_agents_words_alone(library: Path) -> None:
    class ForTheBenchmark(OutputOptions):
        chunks = True

    options, out = ForTheBenchmark(asr=str(library)), str(library / "out.wav")
    work = program.check(plan([str(wav(library / "a.wav", speech(0.1)))], out, options), out, options)
    program.answer_all(parrot.Parrot(1), find_character(CharacterOptions()), work, options)
    report = json.loads((library / "out.json").read_text())
    agents = [word["word"] for word in report["words"] if word["speaker"] == "agent"]
    assert [chunk["text"] for chunk in report["chunks"]] == agents != [word["word"] for word in report["words"]]


@pytest.mark.usefixtures("no_model")
def test_a_recording_whose_words_cannot_be_had_fails_and_the_others_do_not(
    library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(library)
    Path("in").mkdir()
    wav(library / "in" / "a.wav", np.full(13 * FRAME, 0.8, np.float32))
    wav(library / "in" / "b.wav", speech(0.3))
    assert cli.program(["run", "in", "-o", "out/", "-m", "demo", "--asr", str(library)]) == 1
    assert "a.wav cannot be written down: ValueError: too loud" in capsys.readouterr().err
    assert sorted(path.name for path in Path("out").iterdir()) == ["b.json", "b.wav", "results.jsonl"]


def test_a_model_that_is_not_there_is_told_before_anything_loads(
    library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(library)
    wav(library / "a.wav", speech(0.1))
    assert cli.program(["run", "a.wav", "-m", "demo", "--asr", "./nothing"]) == 3
    assert "not a Whisper model" in capsys.readouterr().err


@pytest.mark.model
def test_a_live_talk_is_written_down_with_its_last_words(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fakecard import FakeCard, plug_in
    from heldchat import Held

    from personaplex_cli.options import ModelOptions

    card = plug_in(FakeCard(microphone=np.concatenate([speech(0.1), speech(0.2)[: 15 * FRAME]])), monkeypatch)
    character = find_character(CharacterOptions())
    options = ModelOptions("demo")
    held = Held(card, lambda listen: parrot.load(options, listen), character, tmp_path / "kept", asr=str(library)).run()
    assert held.chat.error is None
    assert [each.text for each in held.of(UserWords)] == [" heard", " 0.1!", " heard", " 0.2!"]
    (transcribing,) = held.of(Transcribing)
    assert transcribing.model == str(library)
    (recording,) = held.of(Recording)
    words = json.loads((Path(recording.folder) / "transcript.json").read_text())["words"]
    assert len([word for word in words if word["speaker"] == "user"]) == 4


@pytest.mark.usefixtures("no_model")
def test_clients_get_their_words_and_recordings_have_them(library: Path, tmp_path: Path) -> None:
    serve = ServeOptions(asr=str(library), record=tmp_path / "kept")
    with RunningServer("demo", serve) as server:

        async def talk() -> list[str]:
            async with connected(server.socket("/pcm")) as socket:
                await next_json(socket, "ready")
                _, messages = await talk_pcm(socket, frames(np.tile(speech(0.1), 3)))
            return [each["text"] for each in messages if each["type"] == "transcript" and each["role"] == "user"]

        assert set(asyncio.run(talk())) <= {" heard", " 0.1!"}
    (kept,) = (tmp_path / "kept").glob("*/transcript.json")
    words = [word["word"] for word in json.loads(kept.read_text())["words"] if word["speaker"] == "user"]
    assert words == ["heard", "0.1!"] * 3


@pytest.mark.usefixtures("no_model")
def test_a_recogniser_that_crashes_ends_no_conversation(library: Path) -> None:
    with RunningServer("demo", ServeOptions(asr=str(library))) as server:

        async def talk() -> bytes:
            async with connected(server.socket("/pcm")) as socket:
                await next_json(socket, "ready")
                loud = np.full(13 * FRAME, 0.9, np.float32)
                sound, _ = await talk_pcm(socket, frames(np.concatenate([loud, np.zeros(13 * FRAME, np.float32)] * 4)))
            return sound

        assert len(asyncio.run(talk())) == 2 * 4 * 26 * FRAME
        told = Note("Your words are not written down any more: its process has ended.")
        server.wait(lambda: told in server.events)  # once, for its owner
        assert server.events.count(told) == 1
