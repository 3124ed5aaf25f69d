"""The process that writes down speech, with a library that only counts, and with faster-whisper itself."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from fakehub import FakeHub
from random_whisper import write_random_whisper

from personaplex_cli.audio.recording import read_recording
from personaplex_cli.errors import ModelError, PersonaplexError, UsageError
from personaplex_cli.events import ignore
from personaplex_cli.library import whisper_files
from personaplex_cli.library.whisper_files import NEEDED, find_whisper
from personaplex_cli.recogniser import RATE, Recogniser
from personaplex_cli.samples import SAMPLE_RATE, Samples
from personaplex_cli.transcriber import transcribe
from personaplex_cli.transcript import USER, Word

QUESTION = Path(__file__).parents[2] / "examples" / "question.wav"


def tone(level: float, seconds: float = 1.0) -> Samples:
    return np.full(round(seconds * SAMPLE_RATE), level, np.float32)


def test_all_is_answered_in_order_and_one_that_fails_spoils_no_other(library: Path) -> None:
    with Recogniser(library) as recogniser:
        assert recogniser.name == library.name
        sounds = [[tone(0.1)], [tone(0.8)], [tone(0.2, 0.5), tone(0.3, 0.5)], []]
        first, second, third, fourth = (recogniser.submit(sound) for sound in sounds)
        heard, level = first.result()
        assert (heard, level.word) == (Word("heard", 0.0, 0.5, USER), "0.1!")
        assert abs(level.end - 1.0) < 0.02  # at 16 kHz
        with pytest.raises(PersonaplexError, match="ValueError: too loud"):
            second.result()
        assert third.result()[1].word == "0.2!"
        assert fourth.result()[1].word == "0.0!"


def test_a_crash_fails_what_waits_and_what_comes(library: Path) -> None:
    with Recogniser(library) as recogniser:
        words = [recogniser.submit([tone(level)]) for level in (0.1, 0.9, 0.1)]
        assert words[0].result()
        for each in (*words[1:], recogniser.submit([tone(0.1)])):
            with pytest.raises(PersonaplexError, match="has ended"):
                each.result()


def test_closed_it_lets_nobody_wait(library: Path) -> None:
    recogniser = Recogniser(library)
    words = [recogniser.submit([tone(0.1)]) for _ in range(20)]
    recogniser.close()
    assert all(each.done() for each in words)
    with pytest.raises(PersonaplexError, match="closed"):
        recogniser.submit([tone(0.1)]).result()


def test_much_sound_that_waits_is_all_answered(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personaplex_cli.recogniser.IN_MEMORY", 1000)  # bytes: the rest waits on the disk
    with Recogniser(library) as recogniser:
        levels = [round(0.1 * (1 + index % 7), 1) for index in range(30)]
        words = [recogniser.submit([tone(level, 0.2)]) for level in levels]
        assert [each.result()[1].word for each in words] == [f"{level}!" for level in levels]


def test_a_model_that_cannot_be_loaded_is_told_at_once(library: Path) -> None:
    with pytest.raises(ModelError, match="broken cannot write down speech: RuntimeError: no such model"):
        Recogniser(library / "broken")


def test_the_folder_that_one_is_in_has_no_say(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = library / "trap"
    trap.mkdir()
    for name in ("json", "numpy", "struct"):
        (trap / f"{name}.py").write_text("import os; os._exit(9)")
    monkeypatch.chdir(trap)
    with Recogniser(library) as recogniser:
        assert recogniser.transcribe(tone(0.1))


# The files of a model


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper_files, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="faster-whisper is needed") as caught:
        find_whisper("base.en", ignore)
    assert "pip install faster-whisper" in caught.value.hint


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper_files, "find_spec", lambda name: True)


@pytest.mark.usefixtures("installed")
def test_a_folder_must_have_the_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json and model\.bin are missing"):
        (tmp_path / "config.json").touch()
        find_whisper(str(tmp_path), ignore)
    for name in NEEDED:
        (tmp_path / name).touch()
    assert find_whisper(str(tmp_path), ignore) == tmp_path


@pytest.mark.usefixtures("installed")
def test_a_name_that_is_no_size_is_refused_without_the_network() -> None:
    with pytest.raises(UsageError, match="no Whisper model named 'nosuch'") as caught:
        find_whisper("nosuch", pytest.fail)
    assert caught.value.hint == "Try tiny.en, base.en, small.en or a folder."
    with pytest.raises(UsageError) as caught:
        find_whisper("smal.en", pytest.fail)
    assert "Did you mean small.en" in caught.value.hint


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("installed")
def test_a_name_is_downloaded_once_and_then_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    origin = tmp_path / "origin"
    origin.mkdir()
    for name in (*NEEDED, "vocabulary.txt", "README.md"):
        (origin / name).write_text(name)
    with FakeHub(origin, repo="Systran/faster-whisper-tiny.en"):
        folder = find_whisper("tiny.en", ignore)
    assert {path.name for path in folder.iterdir()} == {*NEEDED, "vocabulary.txt"}
    assert find_whisper("Systran/faster-whisper-tiny.en", ignore) == folder  # the hub is gone


# The library itself


@pytest.mark.skipif(not find_spec("faster_whisper"), reason="faster-whisper, of the extra `asr`, is not installed")
def test_the_real_library_loads_a_real_model_and_hears_the_same_again(tmp_path: Path) -> None:
    model = write_random_whisper(tmp_path / "model")
    sound = read_recording(QUESTION)
    words = transcribe(sound, str(model))
    with Recogniser(model) as recogniser:
        assert recogniser.transcribe(sound) == words
        assert recogniser.transcribe(np.zeros_like(sound)) == []
    assert words  # it makes them up, where somebody speaks
    assert all(0 <= word.start <= word.end <= len(sound) / SAMPLE_RATE + 0.1 for word in words)
    assert RATE == 16_000
