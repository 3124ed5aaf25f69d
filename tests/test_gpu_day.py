"""The day with a GPU: however a step ends, its line is written and the rest runs."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT

sys.path.append(str(ROOT / "tools"))
import gpu_day
from gpu_day import STEPS, Step, main, run_all
from gpu_steps.context import Context
from gpu_steps.report import markdown, outcome

GOOD = Step("good", 60, "brokensteps:good")
DRY = Context(dry=True)


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of no weight need no torch."""
    monkeypatch.setattr(gpu_day, "PRELOADED", [])


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Run steps, and find the file to hold what they came to."""

    def run(*steps: Step, minutes: float = 10) -> list[dict[str, Any]]:
        lines = list(run_all(steps, tmp_path, DRY, 60 * minutes))
        written = (tmp_path / "lines.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in written] == lines
        return lines

    return run


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("crashes", "ValueError: nothing works"),
        ("dies", "it died by SIGKILL"),
        ("quits", "it ended early, with exit code 0"),
        ("says_what_is_no_json", "TypeError: Object of type object is not JSON serializable"),
    ],
)
def test_a_step_that_breaks_leaves_what_it_told_and_the_rest_runs(
    function: str, reason: str, run: Callable[..., list[dict[str, Any]]]
) -> None:
    broken, good = run(Step("broken", 60, f"brokensteps:{function}"), GOOD)
    assert (broken["failed"], broken["before"]) == (reason, 1) and "cut" not in broken
    assert good["answer"] == 42 and outcome(good) == "done"


def test_a_step_past_its_limit_is_ended(run: Callable[..., list[dict[str, Any]]]) -> None:
    began = time.monotonic()
    hung, good = run(Step("hung", 1, "brokensteps:hangs"), GOOD)
    assert hung["failed"] == "it ran past its 1 s" and outcome(good) == "done"
    assert time.monotonic() - began < 300  # not the 600 s that it wanted


def test_what_a_step_prints_is_in_its_log_alone(run: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    [line] = run(Step("babble", 60, "brokensteps:babbles"))
    assert (line["answer"], line["far"], outcome(line)) == (42, "inf", "done")
    assert (tmp_path / "babble.log").read_bytes() == b'\xff\x00{"answer": 13}\n{\n'


def test_a_part_that_breaks_is_told_and_the_step_goes_on(run: Callable[..., list[dict[str, Any]]]) -> None:
    [line] = run(Step("part", 60, "brokensteps:breaks_in_part"))
    assert line["half failed"] == "ZeroDivisionError: division by zero" and line["answer"] == 42
    assert outcome(line) == "in part: half failed"


def is_running(process: int) -> bool:
    """Whether it has not ended, as far as Linux tells; it may not be buried yet."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_what_a_step_has_started_ends_with_it(run: Callable[..., list[dict[str, Any]]]) -> None:
    [line] = run(Step("parent", 60, "brokensteps:leaves_a_child"))
    deadline = time.monotonic() + 60
    while is_running(line["child"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_steps_that_do_not_fit_are_skipped_and_shorter_ones_run(run: Callable[..., list[dict[str, Any]]]) -> None:
    skipped, good = run(Step("much", 121, "brokensteps:good"), GOOD, minutes=2)
    assert skipped["skipped"].startswith("it may take 121 s, and 1") and "answer" not in skipped
    assert outcome(good) == "done"


def test_a_step_is_given_its_options(run: Callable[..., list[dict[str, Any]]]) -> None:
    [line] = run(Step("good", 60, "brokensteps:good", {"answer": 7}))
    assert line["answer"] == 7


def test_only_the_named_steps_run_and_a_failure_is_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (GOOD, Step("bad", 60, "brokensteps:crashes"), Step("worse", 60, "no_such_module:at_all"))
    monkeypatch.setattr(gpu_day, "STEPS", steps)
    where = ["--dry", "--out", str(tmp_path / "day")]
    assert main([*where, "--only", "good"]) == 0
    assert capsys.readouterr().out == (tmp_path / "day/report.md").read_text()
    assert len((tmp_path / "day/lines.jsonl").read_text().splitlines()) == 1
    assert main([*where, "--only", "bad,good"]) == 1
    assert main([*where, "--only", "worse"]) == 1
    with pytest.raises(SystemExit):
        main([*where, "--only", "unknown"])
    assert "There is no step unknown." in capsys.readouterr().err


def test_the_list_names_every_step_and_all_fit_into_half_an_hour(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert listed == [[step.name, f"{step.seconds:.0f}"] for step in STEPS]
    assert len({step.name for step in STEPS}) == len(STEPS)
    assert sum(step.seconds for step in STEPS) <= 30 * 60


def test_the_report_has_a_table_of_steps_and_tables_of_facts() -> None:
    lines: list[dict[str, Any]] = [
        {"step": "bench", "took": 3.5, "gpu": {"name": "a | b", "bytes": 12345}, "ms": [{"p50": 1.5}, {"max": 2}]},
        {"step": "graphs", "took": 1.0, "failed": "it died by SIGSEGV", "log": "much\ntext"},
        {"step": "demo", "skipped": "needs CUDA"},
    ]
    assert (
        markdown(lines)
        == """## On a GPU

| step | seconds | outcome |
| --- | --- | --- |
| bench | 3.5 | done |
| graphs | 1.0 | failed: it died by SIGSEGV |
| demo |  | skipped: needs CUDA |

### bench

| fact | value |
| --- | --- |
| gpu.name | a \\| b |
| gpu.bytes | 12,345 |

ms:

| p50 | max |
| --- | --- |
| 1.5 |  |
|  | 2 |
"""
    )


@pytest.mark.model
@pytest.mark.slow
def test_without_a_gpu_every_step_says_that_it_needs_one(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("here is a GPU")
    [line] = run_all([GOOD], tmp_path, Context(), 600)
    assert outcome(line) == "skipped: needs CUDA"
