"""`personaplex eval`, through the command line: of outputs that others have made, and with the demo."""

import json
import math
import wave
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_benchmark import make

from personaplex_cli.audio.recording import write_wav
from personaplex_cli.cli import main as cli
from personaplex_cli.errors import UsageError
from personaplex_cli.evaluation import benchmark, dataset, picture, speech
from personaplex_cli.evaluation.benchmark import TASKS, V1, V1_5
from personaplex_cli.evaluation.dataset import Sample, samples, task_of
from personaplex_cli.evaluation.scores import Scored, Scorer
from personaplex_cli.evaluation.turn_taking import divergence
from personaplex_cli.events import Event, Scoring
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions, EvalOptions
from personaplex_cli.programs.evaluate import prepare
from personaplex_cli.samples import SAMPLE_RATE

detects = pytest.mark.skipif(not speech.can_be_found(), reason="silero-vad is not installed")
draws = pytest.mark.skipif(not find_spec("matplotlib"), reason="matplotlib is not installed")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(name: str, *spans: tuple[float, float | None], root: str = "set", **annotations: Any) -> Path:
    """A sample with the words that somebody's model has said."""
    folder = Path(root) / name
    folder.mkdir(parents=True)
    chunks = [{"text": " word", "timestamp": list(span)} for span in spans]
    (folder / "output.json").write_text(json.dumps({"text": "", "chunks": chunks}))
    for file, content in annotations.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    return folder


def at(start: float, end: float) -> list[dict[str, Any]]:
    return [{"text": "[TURN-TAKING]", "timestamp": [start, end]}]


def evaluate(task: str, *arguments: object, root: str = "set") -> int:
    return cli.program(["eval", root, "--task", task, *map(str, arguments)])


def report(root: str = "set") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(root) / "eval.json").read_text())
    return content


def table(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_what_others_have_said_is_scored(capsys: pytest.CaptureFixture[str]) -> None:
    told("10", (3.5, 4.0), (4.0, 5.0), turn_taking=at(3.0, 3.4))
    told("9", (2.5, 3.0), (3.0, 3.5), turn_taking=at(3.0, 3.4))
    told("2", (3.0, 3.2), turn_taking=at(2.0, 2.4))
    told("1", turn_taking=at(2.0, 2.4))
    assert evaluate("smooth_turn_taking", "--no-run") == 0
    told_of = report()
    assert list(told_of["samples"]) == ["1", "2", "9", "10"]
    assert told_of["samples"]["10"] == {"takes_turn": True, "latency": 0.5}
    assert told_of["samples"]["2"] == {"takes_turn": False, "latency": None}
    assert told_of["summary"] == {"takes_turn": 0.5, "latency": 0.25, "latency_median": 0.25, "latency_p95": 0.475}
    assert (told_of["version"], told_of["words"], told_of["scored"], told_of["failures"]) == ("1.0", "tokens", 4, {})
    assert table(capsys.readouterr().out) == [
        ["takes the turn ↑", "0.500", "0.992", "-0.492", "Full-Duplex-Bench"],
        ["", "", "0.908", "-0.408", "NVIDIA's model card"],
        ["latency, s ↓", "0.250", "0.070", "+0.180", "Full-Duplex-Bench"],
        ["", "", "0.170", "+0.080", "NVIDIA's model card"],
        ["latency, s: median", "0.250", "", "", ""],
        ["latency, s: 95 % below", "0.475", "", "", ""],
    ]


def test_how_many_are_scored_is_told_meanwhile_and_those_that_fail_count() -> None:
    told("1", turn_taking=at(2.0, 2.4))
    told("2")
    events: list[Event] = []
    prepare(Path("set"), "smooth_turn_taking", EvalOptions(run=False)).score(events.append)
    assert [each for each in events if isinstance(each, Scoring)] == [Scoring(0, 2), Scoring(1, 2)]


def test_only_words_after_an_interruption_count() -> None:
    early = [(1.0, 2.0), (2.0, 4.0), (4.9, 5.5)]
    told("1", *early, interrupt=at(3.0, 5.0))
    told("2", *early, (5.0, 5.5), (6.0, 6.5), interrupt=at(3.0, 5.0))
    told("3", *early, (7.0, 7.9), interrupt=at(3.0, 5.0))
    assert evaluate("user_interruption", "--no-run") == 0
    assert [each["takes_turn"] for each in report()["samples"].values()] == [False, True, False]
    assert report()["summary"]["latency"] == 0.0


SPOILED: dict[str, Mapping[str, Any]] = {
    "no annotation": {},
    "other times": {"pause": [{"timestamp": [1]}]},
    "no number": {"pause": [{"timestamp": ["a", "b"]}]},
    "endless": {"pause": [{"timestamp": [1, float("inf")]}]},
    "no list": {"pause": 7},
}


@pytest.mark.parametrize("annotations", SPOILED.values(), ids=SPOILED)
def test_a_broken_sample_is_named_and_in_no_mean(
    annotations: Mapping[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    told("1", (1.0, 2.5), pause=at(3.0, 4.0))
    told("2", **annotations)
    assert evaluate("pause_handling", "--no-run") == 2
    out, err = capsys.readouterr()
    assert table(out)[0][1] == "1.000"
    assert "1 of 2 samples were left out. 2: set/2/pause.json" in err
    assert report()["scored"] == 1 and list(report()["failures"]) == ["2"]


@pytest.mark.parametrize(
    "words", ["", "{", "[]", '{"chunks": 3}', '{"chunks": [{"text": "a", "timestamp": [null, 1]}]}']
)
def test_so_are_words_that_cannot_be_read(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = told("1", pause=at(3.0, 4.0))
    (folder / "output.json").write_text(words)
    assert evaluate("pause_handling", "--no-run") == 2
    out, err = capsys.readouterr()
    assert "1 of 1 samples" in err and "set/1/output.json" in err
    assert report()["summary"] == {} and "0.000" not in out


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(10**400)
NAMES = st.sampled_from(["chunks", "timestamp", "timestamps", "text", "1"])
CONTENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
CHUNKS = st.fixed_dictionaries({"chunks": st.lists(st.fixed_dictionaries({"text": CONTENTS, "timestamp": CONTENTS}))})


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONTENTS | CHUNKS)
def test_whatever_a_file_holds_it_is_seconds_or_a_usage_error(here: Path, content: Any) -> None:
    for name in ("output.json", "pause.json", "metadata.json", dataset.HUMAN):
        (here / name).write_text(json.dumps(content))
    sample = Sample(here)
    with suppress(UsageError):
        assert all(
            math.isfinite(each.start) and (each.end is None or math.isfinite(each.end)) for each in sample.words()
        )
    for task in (V1[0], V1_5[0]):
        with suppress(UsageError):
            assert all(map(math.isfinite, sample.window(task) or ()))
    with suppress(UsageError):
        for bins in dataset.human_listeners(here).values():
            assert 0 <= (divergence([(0.1, 0.3)], 1.0, bins) or 0) < 0.8326


def test_json_is_what_the_file_has(capsys: pytest.CaptureFixture[str]) -> None:
    told("1", (1.0, 2.5), pause=at(3.0, 4.0))
    assert evaluate("pause_handling", "--no-run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == report()


@pytest.mark.parametrize(
    ("task", "arguments", "said"),
    [
        ("pause_handeling", [], "Did you mean pause_handling?"),
        ("pause_handling", ["--words", "guessed"], "Give tokens or asr."),
        ("pause_handling", ["--plot", "a.bmp"], "Its name must end in .png, .svg or .pdf."),
        ("pause_handling", ["--persona", "nobody"], "no persona named"),
    ],
)
def test_what_cannot_be_is_said_first(
    task: str, arguments: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told("1", pause=at(3.0, 4.0))
    assert evaluate(task, *arguments) == 2
    assert said in capsys.readouterr().err and not Path("set/eval.json").exists()


@draws
@pytest.mark.parametrize(("place", "arguments"), [("set/eval.json", []), ("a.png", ["--plot", "a.png"])])
def test_what_cannot_be_written_is_noticed_first(
    place: str, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told("1", pause=at(3.0, 4.0))
    Path(place).mkdir()
    assert evaluate("pause_handling", *arguments) == 4
    assert f"{place} cannot be written" in capsys.readouterr().err


def test_a_folder_without_samples_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("pause_handling") == 2
    Path("set/1").mkdir(parents=True)
    assert evaluate("pause_handling") == 2
    assert "There are no samples in set" in capsys.readouterr().err
    for name in ("deeper", "there"):
        told("1", root=f"set/{name}", pause=at(3.0, 4.0))
    assert evaluate("pause_handling") == 2
    assert "Its folders have some: set/deeper, set/there" in " ".join(capsys.readouterr().err.split())


def test_data_of_another_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    told("1", turn_taking=at(3.0, 4.0))
    assert evaluate("pause_handling") == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "No sample has a file pause.json: is this data for pause_handling?" in err
    assert "Give --task smooth_turn_taking." in err and not Path("set/eval.json").exists()
    assert evaluate("backchannel") == 2  # which has no annotations
    err = " ".join(capsys.readouterr().err.split())
    assert "There are samples with a file turn_taking.json: is this data for backchannel?" in err
    assert "Give --task smooth_turn_taking." in err and not Path("set/eval.json").exists()


def test_figures_of_another_task_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    told("1", pause=at(3.0, 4.0), turn_taking=at(3.0, 4.0))
    assert evaluate("pause_handling", "--no-run") == evaluate("pause_handling", "--no-run") == 0
    before = report()
    assert evaluate("smooth_turn_taking", "--no-run") == 2
    assert "set/eval.json has the figures of another task, pause_handling." in capsys.readouterr().err
    assert report() == before


SECONDS = 2.0  # of the sound in the next two tests
TIMES = st.floats(-1, 2 * SECONDS) | st.integers(-100, 10_000)


def sound(folder: Path) -> None:
    with (folder / "input.wav").open("wb") as file:
        write_wav(file, np.zeros(round(SECONDS * SAMPLE_RATE), np.float32))


@pytest.mark.parametrize("task", [each for each in V1 + V1_5 if each.annotation], ids=lambda each: each.name)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=TIMES, end=TIMES)
def test_an_annotation_is_within_its_sound_or_an_error_that_names_it(
    here: Path, task: benchmark.Task, start: float, end: float
) -> None:
    folder = here / "7"
    if not folder.exists():
        folder.mkdir()
        sound(folder)
    content = {"timestamps": [start, end]} if task.clean else at(start, end)
    (folder / str(task.annotation)).write_text(json.dumps(content))
    if 0 <= start <= end <= SECONDS + dataset.SLACK and start < SECONDS:
        assert Sample(folder).window(task) == (start, end)
    else:
        with pytest.raises(UsageError, match=f"7/{task.annotation} says"):
            Sample(folder).window(task)


@pytest.mark.parametrize("wrong", [None, at(1430, 1830), at(-5, 1), at(1.5, 1.0)])
def test_what_could_not_be_scored_is_not_answered(wrong: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        told("1", (1.0, 2.0), turn_taking=at(1.0, 1.4)),
        told("2", **({} if wrong is None else {"turn_taking": wrong})),
    ]
    for folder in folders:
        sound(folder)
    (folders[1] / "output.json").unlink()
    assert evaluate("smooth_turn_taking") == 2  # and no model was needed
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("set/2/turn_taking.json") == 2 and "It is skipped." in err  # at once, and at the end
    assert not (folders[1] / "output.wav").exists()
    assert list(report()["samples"]) == ["1"] and list(report()["failures"]) == ["2"]


def test_without_a_task_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.program(["eval", "set"]) == 2
    err = capsys.readouterr().err
    assert all(task in err for task in TASKS)


def test_it_is_told_where_the_figures_are(capsys: pytest.CaptureFixture[str]) -> None:
    told("1", (1.0, 2.5), pause=at(3.0, 4.0))
    assert evaluate("pause_handling", "--no-run") == 0
    assert "Written: set/eval.json" in capsys.readouterr().err


def test_of_outputs_of_its_own_one_is_told_what_is_nearer_to_published_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told("1", (1.0, 2.5), pause=at(3.0, 4.0))
    words = Path("set/1/output.json")
    ours = {"personaplex": "0.1.0", "settings": {"model": "personaplex-7b-v1"}}
    words.write_text(json.dumps({**json.loads(words.read_text()), **ours}))
    assert evaluate("pause_handling", "--no-run") == 0
    assert "--words asr is nearer to them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "task", "arguments"),
    [(speech, "backchannel", []), (speech, "user_backchannel", []), (picture, "pause_handling", ["--plot", "a.png"])],
)
def test_without_the_extra_one_is_told_what_to_install(
    missing: Any,
    task: str,
    arguments: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {each.annotation for each in benchmark.tasks_named(task) if each.annotation}
    told("1", **{Path(name).stem: at(3.0, 4.0) for name in names})
    monkeypatch.setattr(missing, "find_spec", lambda name: None)
    assert evaluate(task, "--no-run", *arguments) == 2
    assert "pip install 'silero-vad" in capsys.readouterr().err


def test_the_version_is_that_of_the_files() -> None:
    told("1", root="old", interrupt=at(1.0, 2.0))
    told("1", root="new", metadata={"timestamps": [1.0, 2.0]})
    assert task_of("user_interruption", samples(Path("old"))) in V1
    assert task_of("user_interruption", samples(Path("new"))) in V1_5
    assert len(TASKS) == 7


def test_the_prompts_are_those_of_nvidia() -> None:
    assert find_character(CharacterOptions(persona="teacher")).prompt == benchmark.TEACHER
    assert {task.prompt for task in V1 + V1_5 if task.name != "user_interruption"} == {benchmark.CONVERSATION}


@detects
@pytest.mark.model
def test_listening_is_scored_as_the_script_does_and_truly() -> None:
    """The script takes 24 kHz for 16: a sound of 2.1 s is 3.2 s for it, and no backchannel."""
    make(Path("made"), samples=1)
    folder = Path("made/backchannel/1")
    with wave.open(str(folder / "input.wav")) as file:
        asked = np.frombuffer(file.readframes(10**6), "<i2").astype(np.float32) / 32768
    said = np.concatenate([np.zeros(SAMPLE_RATE, np.float32), asked[: round(2.25 * SAMPLE_RATE)]])
    said = np.pad(said, (0, len(asked) - len(said)))
    with (folder / "output.wav").open("wb") as out:
        write_wav(out, said)
    (folder / "output.json").write_text('{"chunks": []}')
    human = {"1": [1.0] * 5}
    task = benchmark.tasks_named("backchannel")[0]
    figures = Scorer(task, Sample.words, human)(Sample(folder)).figures
    seconds = len(asked) / SAMPLE_RATE
    assert figures["takes_turn"] is True and figures["backchannels"] == 0.0 and figures["divergence"] == 1.0
    assert figures["any_takes_turn"] is True and figures["true_backchannels"] == pytest.approx(1 / seconds)
    assert 0.3 < (figures["true_divergence"] or 0) < 0.83
    unknown = Scorer(task, Sample.words)(Sample(folder)).figures
    assert unknown["divergence"] is unknown["true_divergence"] is None  # else the mean would be that of the silent ones


def test_human_listeners_are_read_from_the_set_or_beside_it() -> None:
    Path("all/set").mkdir(parents=True)
    assert dataset.human_listeners(Path("all/set")) == {}
    Path("all", dataset.HUMAN).write_text('{"1": [0.5, 0.5]}')
    assert dataset.human_listeners(Path("all/set")) == {"1": [0.5, 0.5]}
    Path("all/set", dataset.HUMAN).write_text('{"1": []}')
    with pytest.raises(UsageError, match="does not say"):
        dataset.human_listeners(Path("all/set"))


def test_the_worst_come_first() -> None:
    (task,) = (each for each in V1 if each.name == "smooth_turn_taking")
    cases: list[Any] = [("a", True, 0.1), ("b", True, 2.0), ("c", False, None)]
    scored = [Scored(name, {"takes_turn": taken, "latency": late}, [], None) for name, taken, late in cases]
    assert [each.name for each in picture.by_worst(task, scored)] == ["c", "b", "a"]


@draws
@pytest.mark.parametrize("suffix", picture.SUFFIXES)
def test_a_picture_is_drawn(suffix: str) -> None:
    for name in range(picture.WORST + 1):
        told(str(name), (3.5, 4.0), (4.0, None), (4.5, 5.0), turn_taking=at(3.0, 3.4))
    assert evaluate("smooth_turn_taking", "--no-run", "--plot", f"picture{suffix}") == 0
    start = Path(f"picture{suffix}").read_bytes()[:300]
    assert {".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}[suffix] in start


class TestDemo:
    """The whole command: the demo answers a small set, and its figures make sense."""

    pytestmark = [pytest.mark.model, detects]  # noqa: RUF012

    def run(self, task: str, *arguments: object) -> int:
        chosen = ["--model", "demo", "--device", "cpu", "--seed", 1, "--batch-size", 2, *arguments]
        return evaluate(task, *chosen, root=f"made/{task}")

    def test_it_answers_after_the_user(self, capsys: pytest.CaptureFixture[str]) -> None:
        make(Path("made"), samples=2)
        root = Path("made/smooth_turn_taking")
        assert self.run("smooth_turn_taking") == 0
        told_of = report(str(root))
        assert told_of["summary"]["takes_turn"] == 1.0
        assert 0.3 < told_of["summary"]["sound_latency"] < 1.5
        assert told_of["summary"]["overlap_share"] == 0.0
        assert told_of["settings"]["prompt"] == benchmark.CONVERSATION
        assert told_of["published"] == [] and "NVIDIA" not in capsys.readouterr().out  # it is another model
        for number in "12":
            with (
                wave.open(str(root / number / "input.wav")) as heard,
                wave.open(str(root / number / "output.wav")) as said,
            ):
                assert said.getnframes() == heard.getnframes()
        # The same again: one is missing, one is there, and one is somebody else's.
        before = (root / "1/output.wav").read_bytes(), (root / "1/output.wav").stat().st_mtime_ns
        (root / "2/output.wav").unlink()
        told("3", (5.0, 7.0), root=str(root), turn_taking=at(4.0, 4.4))
        (root / "3/input.wav").write_bytes((root / "1/input.wav").read_bytes())
        capsys.readouterr()
        assert self.run("smooth_turn_taking", "--persona", "chef") == 0
        assert ((root / "1/output.wav").read_bytes(), (root / "1/output.wav").stat().st_mtime_ns) == before
        assert (root / "2/output.wav").exists() and not (root / "3/output.wav").exists()
        assert report(str(root))["samples"]["3"] == {"takes_turn": True, "latency": 1.0}
        said = capsys.readouterr().err
        assert "made with 2 different settings" in said and "published figures are not shown" in said

    def test_it_stops_when_it_is_interrupted_and_answers_undisturbed(self) -> None:
        make(Path("made"), samples=1)
        assert self.run("talking_to_other") == 0
        means = report("made/talking_to_other")["summary"]
        assert 0 < means["stop_latency"] < 1.5 and 0 < means["clean_response_latency"] < 1.5
        assert Path("made/talking_to_other/1/clean_output.wav").exists()

    def test_it_does_not_talk_in_pauses_and_what_cannot_be_heard_is_left_out(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make(Path("made"), samples=2)
        Path("made/pause_handling/1/input.wav").write_bytes(b"no sound")
        assert self.run("pause_handling") == 4
        assert "1 of 2 samples were left out. 1: " in capsys.readouterr().err
        assert report("made/pause_handling")["samples"]["2"]["takes_turn"] is False
