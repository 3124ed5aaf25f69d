"""`personaplex run`, through the command line, on a random model: what is written, and what never is."""

import io
import json
import shutil
import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.cli import main as cli
from personaplex_cli.errors import UsageError
from personaplex_cli.programs.jobs import Job, plan
from personaplex_cli.samples import SAMPLE_RATE

EXAMPLE = Path(__file__).parents[2] / "examples/question.wav"
QUESTION = 0.5  # seconds


@pytest.fixture
def question(tmp_path: Path) -> Path:
    return recorded(tmp_path / "question.wav")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recorded(path: Path, seconds: float = QUESTION, rate: int = SAMPLE_RATE, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((random.standard_normal((round(seconds * rate), channels)) * 3000).astype("<i2").tobytes())
    return path


def run(model: Path, *arguments: object) -> int:
    return cli.program(["run", "--model", str(model), "--device", "cpu", *map(str, arguments)])


def length(path: Path) -> tuple[int, int]:
    """Samples and channels of a wav."""
    with wave.open(str(path)) as file:
        assert file.getframerate() == SAMPLE_RATE
        return file.getnframes(), file.getnchannels()


@pytest.mark.parametrize(("given", "name"), [([], "teacher"), (["--prompt", "You sing."], "a custom persona")])
def test_who_says_other_words_is_not_called_by_the_personas_name(
    given: list[str], name: str, question: Path, random_folder: Path
) -> None:
    assert run(random_folder, question, "-o", "answer.wav", *given) == 0
    settings = json.loads(Path("answer.json").read_text())["settings"]
    assert settings["persona"] == name and settings["prompt"].startswith("You ")


def test_a_question_is_answered_in_its_length_with_a_transcript(question: Path, random_folder: Path) -> None:
    assert run(random_folder, question, "-o", "answer.wav", "--seed", 5, "--srt") == 0
    assert length(Path("answer.wav")) == (QUESTION * SAMPLE_RATE, 1)
    report = json.loads(Path("answer.json").read_text())
    assert report["seconds"] == QUESTION
    assert report["settings"]["sampling"]["seed"] == 5 and report["settings"]["voice"] == "NATF2"
    assert report["settings"]["prompt"].startswith("You are a wise and friendly teacher.")
    assert report["settings"]["revision"] == "local"
    assert " ".join(word["word"] for word in report["words"]) == " ".join(report["text"].split())
    assert report["milliseconds"]["total"]["p95"] >= report["milliseconds"]["total"]["p50"] > 0
    assert Path("answer.srt").exists()
    assert sorted(path.name for path in Path().iterdir() if path.is_file()) == [
        "answer.json",
        "answer.srt",
        "answer.wav",
        "question.wav",
    ]


def test_same_seed_same_bytes(question: Path, random_folder: Path) -> None:
    for name in ("a", "b"):
        assert run(random_folder, question, "-o", f"{name}.wav", "--seed", 7, "--no-transcript") == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    assert not Path("a.json").exists()


def test_without_a_seed_one_is_drawn_and_kept(
    question: Path, random_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(random_folder, question, "-o", "a.wav") == 0
    seed = json.loads(Path("a.json").read_text())["settings"]["sampling"]["seed"]
    assert f"seed {seed}" in capsys.readouterr().err
    assert run(random_folder, question, "-o", "b.wav", "--seed", seed) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


def test_stereo_has_the_user_left_and_a_tail_is_listened_to(question: Path, random_folder: Path) -> None:
    assert run(random_folder, question, "-o", "a.wav", "--stereo", "--tail", 0.25) == 0
    assert length(Path("a.wav")) == ((QUESTION + 0.25) * SAMPLE_RATE, 2)
    with wave.open("a.wav") as answer, wave.open(str(question)) as asked:
        left = np.frombuffer(answer.readframes(10**6), "<i2").reshape(-1, 2)[:, 0].astype(int)
        heard = np.frombuffer(asked.readframes(10**6), "<i2").astype(int)
    assert np.abs(left[: len(heard)] - heard).max() <= 1
    assert not left[len(heard) :].any()


def test_several_inputs_go_into_a_folder_each_from_the_same_beginning(random_folder: Path) -> None:
    inputs = [
        recorded(Path("in/a.wav")),
        recorded(Path("in/b.wav")),
        recorded(Path("in/c.wav"), rate=48000, channels=2),
    ]
    assert run(random_folder, *inputs, "-o", "out", "--seed", 1) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *(f"{x}.{y}" for x in "abc" for y in ("json", "wav")),
        "results.jsonl",
    ]
    results = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert results == [json.loads(Path(f"out/{x}.json").read_text()) for x in "abc"]
    assert Path("out/a.wav").read_bytes() == Path("out/b.wav").read_bytes() != Path("out/c.wav").read_bytes()
    assert length(Path("out/c.wav")) == (QUESTION * SAMPLE_RATE, 1)


def test_pipes_carry_wav_in_and_out_and_nothing_else(
    question: Path, random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(random_folder, question, "-o", "a.wav", "--seed", 1) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(question.read_bytes())))
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stdout)
    assert run(random_folder, "-", "--seed", 1) == 0
    assert stdout.buffer.getvalue() == Path("a.wav").read_bytes()  # type: ignore[attr-defined]


def test_who_leaves_no_time_for_an_answer_is_told(random_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The example ends with a pause: its first 1.6 seconds do not."""
    shutil.copy(EXAMPLE, "whole.wav")
    for name in ("a.wav", "b.wav"):
        with wave.open(name, "wb") as file, wave.open(str(EXAMPLE)) as whole:
            file.setparams(whole.getparams())
            file.writeframes(whole.readframes(round(1.6 * SAMPLE_RATE)))
    for arguments, note in (
        (["a.wav"], "The recording ends with your last word: --tail 4 gives time to answer."),
        (["a.wav", "whole.wav", "b.wav"], "2 recordings end with their last word: --tail 4 gives time to answer."),
        (["a.wav", "--tail", "1.2"], ""),
    ):
        assert run(random_folder, *arguments, "-o", "out/", "--overwrite") == 0
        said = capsys.readouterr().err.splitlines()
        assert [each for each in said if "--tail" in each] == [note] * bool(note)
    assert length(Path("out/whole.wav"))[0] == length(EXAMPLE)[0]  # in its length, whatever is noted


def test_json_lines_tell_everything_that_happens(
    question: Path, random_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(random_folder, question, "-o", "a.wav", "--json") == 0
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.count("step") == 7 and kinds[-1] == "finished" and "state" in kinds
    assert [event["index"] for event in events if event["event"] == "step"] == list(range(7))
    assert events[-1]["files"] == ["a.wav", "a.json"]
    assert err == ""


class TestWrong:
    """Bad input ends before the model loads, with its exit code, a sentence and a hint, and leaves nothing behind."""

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["nothing.wav"], 2, "There is no file nothing.wav"),
            (["bad.wav"], 4, "bad.wav is not a sound file"),
            (["question.wav", "bad.wav", "-o", "out", "--strict"], 4, "bad.wav is not a sound file"),
            (["bad.wav", "worse.wav", "-o", "out"], 4, "2 of 2 recordings were not answered"),
            (["question.wav", "--channel", "middle"], 2, "no channel 'middle'"),
            (["question.wav", "--channel", "right"], 4, "no channel right"),
            (["question.wav", "--skip-existing", "--overwrite"], 2, "contradict"),
            (["in", "-o", "in"], 2, "is an input"),
            (["in"], 2, "need an output folder"),
            (["*.ogg", "-o", "out"], 2, "No file matches *.ogg"),
            (["--list", "none.txt", "-o", "out"], 2, "list none.txt cannot be read"),
            (["question.wav", "-o", "question.wav"], 2, "is an input"),
            (["question.wav", "-o", "answer.mp3"], 2, "not the name of a wav"),
            (["question.wav", "in/question.wav", "-o", "out"], 2, "would both be answered"),
            (["question.wav", "other.wav", "-o", "a.wav"], 2, "Several inputs"),
            (["question.wav", "other.wav", "-o", "-"], 2, "Several answers"),
            (["-", "-"], 2, "only once"),
            (["question.wav", "-o", "bad.wav/a.wav"], 4, "cannot be written"),
            (["question.wav", "-o", "-", "--json"], 2, "cannot carry both"),
            (["question.wav", "--voice", "NATF9"], 2, "Did you mean NATF"),
            (["question.wav", "--voice", "./none.wav"], 2, "no file ./none.wav"),
            (["question.wav", "--voice", "short.wav"], 4, "shorter than 0.4 s"),
            (["question.wav", "--persona", "techer"], 2, "Did you mean teacher"),
            (["question.wav", "--prompt", "@none.txt"], 2, "prompt file none.txt"),
            (["question.wav", "--audio-temperature", "nan"], 2, "audio temperature is nan"),
            (["question.wav", "--text-temperature", "-1"], 2, "text temperature is -1"),
            (["question.wav", "--audio-top-k", "0"], 2, "audio top k is 0"),
            (["question.wav", "--seed", "x"], 2, "'--seed'"),
            (["question.wav", "--seed", "-3"], 2, "seed is -3"),
            (["question.wav", "--tail", "-1"], 2, "tail is -1"),
            (["question.wav", "--tail", "inf"], 2, "tail is inf"),
            (["question.wav", "--precision", "int3"], 2, "no precision 'int3'"),
            (["question.wav", "--device", "gpu"], 2, "no device 'gpu'"),
            ([], 2, "Missing argument"),
            (["question.wav", "--temperature", "1"], 2, "No such option"),
        ],
    )
    def test_it_is_told(
        self,
        arguments: list[str],
        code: int,
        said: str,
        question: Path,
        random_folder: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        recorded(Path("in/question.wav"))
        recorded(Path("other.wav"))
        Path("bad.wav").write_text("no sound")
        Path("worse.wav").write_text("")
        recorded(Path("short.wav"), seconds=0.2)
        before = sorted(Path().rglob("*"))
        assert run(random_folder, *arguments) == code
        out, err = capsys.readouterr()
        assert said in err and "Traceback" not in err and out == ""
        # Only what depends on the machine waits until the model is looked at.
        assert "Loading" not in err or {"--precision", "--device"} & set(arguments)
        left = sorted(path for path in Path().rglob("*") if path != Path("out"))
        assert left == before

    def test_a_model_that_is_not_there(self, question: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.program(["run", "question.wav", "--model", "./nowhere"]) == 3
        assert "nowhere" in capsys.readouterr().err

    def test_what_was_finished_stays_when_the_user_stops(
        self, random_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from personaplex_cli.engine.engine import LocalEngine

        step, frames = LocalEngine.step, 0

        def interrupted(*rest: Any) -> Any:
            nonlocal frames
            frames += 1
            if frames == 10:  # in the second recording
                raise KeyboardInterrupt
            return step(*rest)

        monkeypatch.setattr(LocalEngine, "step", interrupted)
        assert run(random_folder, recorded(Path("a.wav")), recorded(Path("b.wav")), "-o", "out") == 130
        assert sorted(path.name for path in Path("out").iterdir()) == ["a.json", "a.wav", "results.jsonl"]
        assert capsys.readouterr().err.endswith("Stopped. Kept: 1 of 2 answers.\n")

    def test_a_bug_says_so_and_shows_itself_only_when_asked(
        self, question: Path, random_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from personaplex_cli.engine.engine import LocalEngine

        monkeypatch.setattr(LocalEngine, "step", lambda *_: 1 / 0)
        assert run(random_folder, question, "-o", "a.wav") == 1
        err = capsys.readouterr().err
        assert "bug: ZeroDivisionError" in err and "Traceback" not in err
        assert cli.program(["--debug", "run", "--model", str(random_folder), "question.wav", "-o", "a.wav"]) == 1
        assert "Traceback" in capsys.readouterr().err
        assert not Path("a.wav").exists()


names = st.lists(st.sampled_from(["a.wav", "b.flac", "in/a.mp3", "-", "c"]), min_size=1, max_size=4)
outs = st.sampled_from([None, "-", "out/", "folder", "x.wav"])


@given(names, outs)
def test_a_plan_never_overwrites_anything(inputs: Sequence[str], out: str | None) -> None:
    try:
        jobs = plan(inputs, out)
    except UsageError as error:
        assert error.hint
        return
    targets = [job.target for job in jobs if job.target]
    assert [job.source for job in jobs] == list(inputs)
    assert len(set(targets)) == len(targets) and not {str(target) for target in targets} & set(inputs)
    assert all(target.suffix == ".wav" for target in targets)
    assert targets or jobs == [Job(inputs[0], None)]
