"""The benchmark: it counts what happened, and what a frame must read is what the shapes say."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli import bench, cli
from personaplex_cli.character import Prompt
from personaplex_cli.engine.engine import Engine
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.events import Timings
from personaplex_cli.library.spec import sizes_with
from personaplex_cli.loader import measure
from personaplex_cli.loader.demo import DIFFERING
from personaplex_cli.loader.load import Demand, random_engine
from personaplex_cli.loader.random_weights import unfilled
from personaplex_cli.samples import SILENT_FRAME


def test_the_command_reports_one_json_line(demo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(demo_folder), "--device", "cpu", "--frames", "20", "--context-fill", "150"]
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
    assert report["modules_over_lean"] > 1 and report["cuda_graphs"] == {"recorded": 0, "seconds": 0.0}
    assert report["bytes"]["layers"] > 0 and report["bytes"]["mimi"] > 0


def test_a_recording_is_heard_over_and_over(demo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = Path(__file__).parents[1] / "examples/question.wav"
    assert cli.program(["bench", str(question), "--model", str(demo_folder), "--device", "cpu", "--frames", "80"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 80


def test_random_weights_run_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = random_engine(Demand("cpu", "bf16"), lambda event: None, sizes_with(DIFFERING))
    assert engine.precision == "bf16"
    prompt = Prompt("You are kind.", SILENT_FRAME)
    report = bench.measure(engine, prompt, bench.Work(SILENT_FRAME, 5), 0.0, lambda event: None)
    assert report["frames"] == 5 and report["bandwidth_gb_per_s"] > 0


def test_what_a_frame_reads_at_the_real_size_is_what_the_shapes_say() -> None:
    """13.15 GB of layers, 0.26 of text head, 1.33 of depformer, 1.57 of context, 0.33 of Mimi with 8 codebooks."""
    lm, mimi = unfilled(sizes_with({}), torch.bfloat16)
    engine = cast(Engine, SimpleNamespace(talk=TokenGenerator(lm), mimi=mimi))
    assert measure.memory(engine)["context"] == 3000 * 524_288
    layers, head = 6_576_930_816 * 2, 131_072_000 * 2
    assert measure.bytes_per_frame(engine) == pytest.approx(layers + head + 1.333e9 + 1.573e9 + 0.334e9, rel=0.002)


@given(st.lists(st.sampled_from([10.0, 90.0]), max_size=30))
def test_the_longest_streak_is_the_longest(walls: list[float]) -> None:
    streaks = "".join("x" if wall > 80 else " " for wall in walls).split()
    assert bench._longest_streak(walls) == max(map(len, streaks), default=0)


def test_the_rest_is_what_no_stage_has() -> None:
    stages: dict[str, Any] = bench._stages([10.0, 12.0], [Timings(1, 2, 3), Timings(1, 2, 3)])
    assert stages["rest"]["max"] == 6 and stages["whole"]["max"] == 12 and stages["rest"]["p50"] == 5
