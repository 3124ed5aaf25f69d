"""The benchmark: it counts what happened, and what a frame must read is what the shapes say."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from fakecuda import FakeCuda
from hypothesis import given
from hypothesis import strategies as st
from random_model import SIZES

from personaplex_cli.character import Character, Sampling
from personaplex_cli.cli import main as cli
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.events import Timings, ignore
from personaplex_cli.findings import OK, WARNING, WRONG
from personaplex_cli.library.spec import PERSONAPLEX, spec_with
from personaplex_cli.loader import measure
from personaplex_cli.loader.checkpoint import unfilled_lm, unfilled_mimi
from personaplex_cli.loader.load import NOISE_VOICE, load_random
from personaplex_cli.options import BenchOptions, ModelOptions
from personaplex_cli.programs import bench
from personaplex_cli.samples import SILENT_FRAME


@pytest.mark.slow
def test_the_command_reports_one_json_line(random_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(random_folder), "--device", "cpu", "--frames", "20", "--context-fill", "150"]
    assert cli.program(["bench", *arguments]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert out.count("\n") == 1
    assert report["frames"] == 20 and report["context"] == [150, 170]
    assert list(report["milliseconds"]) == ["encode", "lm", "depformer", "decode", "rest", "whole"]
    for stage in report["milliseconds"].values():
        assert stage["p50"] <= stage["p95"] <= stage["p99.9"] <= stage["max"]
    assert all(name in err for name in ("encode", "lm", "decode"))
    assert 0 <= report["longest_streak_of_misses"] <= report["misses"] <= 20
    assert report["cuda_graphs"] == {"recorded": 0, "seconds": 0.0}
    assert report["bytes"]["layers"] > 0 and report["bytes"]["mimi"] > 0


def test_a_recording_is_heard_over_and_over(random_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = Path(__file__).parents[2] / "examples/question.wav"
    assert (
        cli.program(["bench", str(question), "--model", str(random_folder), "--device", "cpu", "--frames", "80"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["frames"] == 80


@pytest.mark.slow
def test_random_weights_run_like_any() -> None:
    """Also if no more is measured than a single frame: all of a batch talk in it."""
    options = ModelOptions(device="cpu", precision="bf16")
    character = Character("kind", "You are kind.", "noise", NOISE_VOICE, Sampling(seed=0))
    measured: list[int] = []

    def start(slots: int) -> LocalEngine:
        measured.append(slots)
        return load_random(options, spec=spec_with(SIZES), slots=slots)

    report = bench.measure(start, character, SILENT_FRAME, BenchOptions(frames=1, batch_size="1,3"), ignore)
    assert measured == [3] and [each["size"] for each in report["batches"]] == [1, 3]
    assert all(0 < each["p50"] <= each["p95"] and each["in_real_time"] > 0 for each in report["batches"])
    assert report["precision"] == "bf16" and report["frames"] == 1 and report["bandwidth_gb_per_s"] > 0


def test_what_a_frame_reads_at_the_real_size_is_what_the_shapes_say() -> None:
    """13.15 GB of layers, 0.26 of text head, 1.33 of depformer, 1.57 of context, 0.33 of Mimi with 8 codebooks."""
    lm, mimi = unfilled_lm(PERSONAPLEX.lm, torch.bfloat16), unfilled_mimi(PERSONAPLEX)
    model = SimpleNamespace(generator=TokenGenerator(lm), codec=SimpleNamespace(mimi=mimi))
    engine = cast(LocalEngine, SimpleNamespace(model=model))
    assert measure.memory(engine)["context"] == 3000 * 524_288
    layers, head = 6_576_930_816 * 2, 131_072_000 * 2
    weights = layers + head + 1.333e9 + 0.334e9
    assert measure.bytes_per_frame(engine, 3000) == pytest.approx(weights + 1.573e9, rel=0.002)
    assert measure.bytes_per_frame(engine, 100_000) == measure.bytes_per_frame(engine, 3000)
    assert measure.bytes_per_frame(engine, 250) == measure.bytes_per_frame(engine, 3000) - 2750 * 524_288


def test_a_gpus_copies_are_timed_by_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    seconds = measure._seconds_by_events(torch.ones(3), torch.zeros(3))
    assert seconds == 0.001 / measure.COPIES_ON_GPU
    assert [(what, stream) for what, _, stream in cuda.log] == [
        ("record", cuda.first_stream),
        ("record", cuda.first_stream),
        ("synchronize", None),
    ]


def test_a_gpus_memory_is_told_with_what_others_take(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"mem_get_info": (3, 10), "max_memory_allocated": 4, "max_memory_reserved": 5}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert measure.gpu_bytes(torch.device("cuda", 1)) == {"tensors": 4, "reserved": 5, "used": 7}
    assert measure.gpu_bytes(torch.device("cpu")) is None


def speed(p50: float, misses: int = 0, longest: float = 0.0) -> dict[str, Any]:
    whole = {"p50": p50, "p95": p50, "p99.9": p50, "max": max(p50, longest)}
    return {
        "milliseconds": {"whole": whole},
        "misses": misses,
        "frames": 250,
        "real_time_factor": p50 / 80,
        "batches": [],
    }


def test_the_verdict_is_a_sentence() -> None:
    assert bench.verdict(speed(19.5)) == (OK, "20 ms of the 80 that a frame lasts: fast enough, 4.1 times.")
    kind, sentence = bench.verdict(speed(40.0, 3, 143.2))
    assert kind == WARNING and "3 of 250 frames took longer than 80, the longest 143" in sentence
    kind, sentence = bench.verdict(speed(160.0, 250))
    assert (
        kind == WRONG
        and sentence.startswith("160 ms of the 80 that a frame lasts: too slow to talk")
        and "2.0 times" in sentence
    )


@pytest.mark.parametrize(("is_terminal", "flags"), [(True, []), (True, ["--json"]), (False, []), (False, ["--json"])])
def test_a_person_gets_table_and_verdict_and_a_program_json(
    is_terminal: bool, flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = speed(20.0) | {"model": "demo"}
    monkeypatch.setattr(bench, "measure", lambda *_: report)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal, raising=False)
    assert cli.program(["bench", "--model", "demo", *flags]) == 0
    out, err = capsys.readouterr()
    if is_terminal and not flags:
        assert "whole" in out and "fast enough, 4.0 times." in out.splitlines()[-1] and "{" not in out
    else:
        assert json.loads(out) == report and "whole" in err and "fast enough" in err


@given(st.lists(st.sampled_from([10.0, 90.0]), max_size=30))
def test_the_longest_streak_is_the_longest(walls: list[float]) -> None:
    streaks = "".join("x" if wall > 80 else " " for wall in walls).split()
    assert bench._longest_streak(walls) == max(map(len, streaks), default=0)


def test_the_rest_is_what_no_stage_has() -> None:
    stages: dict[str, Any] = bench._stages([10.0, 12.0], [Timings(1, 2, 3), Timings(1, 2, 3)])
    assert stages["rest"]["max"] == 6 and stages["whole"]["max"] == 12 and stages["rest"]["p50"] == 5
