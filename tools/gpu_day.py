"""One command that learns as much as possible about the program on a CUDA GPU, in half an hour.

    python tools/gpu_day.py [--out FOLDER] [--minutes N] [--only STEP,...] [--reference FOLDER] [--dry] [--list]

Each step is a process of its own with a time limit: a GPU's error spoils the whole process that meets it. As soon as it
ends, however it does, its line is in FOLDER/lines.jsonl; what it printed is in FOLDER/STEP.log. At the end the lines
become FOLDER/report.md, tables for docs/performance.md. Weights are random, of the real sizes: nothing is downloaded.

`--dry` runs the same code on the CPU with a tiny model, to show that no time of a GPU will be lost on mistakes.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from gpu_steps.context import Context, Skipped
from gpu_steps.report import markdown, outcome

LOG_TAIL = 1500  # characters of what a failed step printed


@dataclass(frozen=True)
class Step:
    """`function` is "module:function" of what measures; it is given a `Context` and `options`, and returns facts.

    `seconds` is its limit; it is left out where fewer are left.
    """

    name: str
    seconds: float
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)


# What teaches most comes first: the time may run out.
STEPS = (
    Step("machine", 60, "gpu_steps.machine:machine"),
    Step("small-kernels", 25, "gpu_steps.machine:small_kernels"),
    Step("tests", 120, "gpu_steps.suite:cuda_tests"),
    Step("bench-bf16", 90, "gpu_steps.speed:bench", {"precision": "bf16"}),
    Step("graphs", 100, "gpu_steps.equality:graphs"),
    Step("kernels", 130, "gpu_steps.kernels:kernels"),
    Step("bench-int8", 80, "gpu_steps.speed:bench", {"precision": "int8"}),
    Step("bench-int4", 80, "gpu_steps.speed:bench", {"precision": "int4"}),
    Step("equality", 180, "gpu_steps.equality:equality"),
    Step("reference", 130, "gpu_steps.reference:reference"),
    Step("batches-bf16", 110, "gpu_steps.speed:batches", {"precision": "bf16"}),
    Step("batches-int8", 90, "gpu_steps.speed:batches", {"precision": "int8"}),
    *(Step(f"card-{size}", 40, "gpu_steps.memory:card", {"gigabytes": size}) for size in (8, 10, 12, 16, 24)),
    Step("offload", 90, "gpu_steps.memory:offload"),
    Step("long", 110, "gpu_steps.speed:long"),
    Step("real-time", 80, "gpu_steps.speed:real_time"),
    Step("demo", 40, "gpu_steps.equality:demo"),
)
PRELOADED = ["personaplex_cli.loader.load", "personaplex_cli.programs.bench"]


def run_all(steps: Sequence[Step], out: Path, context: Context, seconds: float) -> Iterator[dict[str, Any]]:
    """Run the steps one after the other, each in a process; yields their lines, which then are in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    lines = out / "lines.jsonl"
    lines.write_text("")
    deadline = time.monotonic() + seconds
    for step in steps:
        left = deadline - time.monotonic()
        if step.seconds > left:
            line = {"step": step.name, "skipped": f"it may take {step.seconds:.0f} s, and {max(0, left):.0f} are left"}
        else:
            line = run_step(step, out, context)
        with lines.open("a") as file:
            file.write(f"{json.dumps(line)}\n")
        yield line


def run_step(step: Step, out: Path, context: Context) -> dict[str, Any]:
    """Run a step until it ends or its time is up -> its line: what it told until then, and how it failed if it did."""
    facts, log = out / f"{step.name}.facts", out / f"{step.name}.log"
    facts.write_text("")
    context = context.for_step(facts, time.monotonic() + step.seconds)
    began = time.monotonic()
    process = _processes(context.dry).Process(target=_in_process, args=(step, context, log))  # type: ignore[attr-defined]
    process.start()
    try:
        process.join(step.seconds)
        in_time = process.exitcode is not None
    finally:
        _end(process)
    line = {"step": step.name, "took": round(time.monotonic() - began, 1), **_told(facts)}
    ended = line.pop("ended", False)
    if not ended and "failed" not in line and "skipped" not in line:
        line["failed"] = _reason(process.exitcode) if in_time else f"it ran past its {step.seconds:g} s"
    if "failed" in line:
        line["log"] = log.read_text(errors="replace")[-LOG_TAIL:] if log.exists() else ""
    facts.unlink()
    return line


def _processes(dry: bool) -> multiprocessing.context.BaseContext:
    """In a dry run processes are copies of one that has imported what is slow to import; CUDA bears no copies."""
    if not dry or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _in_process(step: Step, context: Context, log: Path) -> None:
    """What a step's process does."""
    if hasattr(os, "setsid"):
        os.setsid()  # what it starts ends with it
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        module, _, function = step.function.partition(":")
        measure = getattr(importlib.import_module(module), function)
        _prepare(context)
        context.tell(**measure(context, **step.options))
        context.tell(ended=True)
    except Skipped as why:
        context.tell(skipped=str(why))
    except Exception as error:
        traceback.print_exc()
        context.tell(failed=f"{type(error).__name__}: {error}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _prepare(context: Context) -> None:
    if "torch" in sys.modules or not context.dry:
        import torch

        if not context.dry and not torch.cuda.is_available():
            raise Skipped("needs CUDA")
        if context.dry:
            torch.set_num_threads(1)  # for a tiny model threads cost more than they gain


def _end(process: BaseProcess) -> None:
    """End a process, if it has not, and what it has started."""
    if process.pid and hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _told(facts: Path) -> dict[str, Any]:
    """All that a step told; the last line is cut short if it died while it wrote."""
    told: dict[str, Any] = {}
    for line in facts.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            told.update(json.loads(line))
    return told


def _reason(code: int | None) -> str:
    if code is not None and code < 0:
        return f"it died by {signal.Signals(-code).name}"
    return f"it ended early, with exit code {code}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code is 1 if a step failed, or a part of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-day"), help="folder for lines, logs and the report")
    parser.add_argument("--minutes", type=float, default=30.0, help="steps that do not fit are left out")
    parser.add_argument("--only", default="", help="names of steps, with commas")
    parser.add_argument("--reference", type=Path, help="a checkout of https://github.com/NVIDIA/personaplex")
    parser.add_argument("--dry", action="store_true", help="on the CPU, with a tiny model")
    parser.add_argument("--list", action="store_true", help="only name the steps, and their limits in seconds")
    chosen = parser.parse_args(arguments)
    names = [each.name for each in STEPS]
    only = [each for each in chosen.only.split(",") if each] or names
    if unknown := sorted(set(only) - set(names)):
        parser.error(f"There is no step {unknown[0]}. Steps are {', '.join(names)}.")
    steps = [each for each in STEPS if each.name in only]
    if chosen.list:
        print(*(f"{each.name:14}{each.seconds:5.0f}" for each in steps), sep="\n")
        return 0
    context = Context(dry=chosen.dry, reference=chosen.reference and chosen.reference.resolve())
    lines = []
    for line in run_all(steps, chosen.out, context, 60 * chosen.minutes):
        print(f"{line['step']:14}{line.get('took', 0):6.1f} s  {outcome(line)}", file=sys.stderr, flush=True)
        lines.append(line)
    report = markdown(lines)
    (chosen.out / "report.md").write_text(report)
    print(report, end="")
    return int(any(outcome(line).startswith(("failed", "in part")) for line in lines))


if __name__ == "__main__":
    sys.exit(main())
