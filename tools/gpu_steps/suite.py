"""The project's own tests that need CUDA. One that fails may spoil its process: a new one runs the rest."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu_steps.context import Context
from gpu_steps.engines import ROOT

TESTS = "tests/engine/test_cuda.py"
TAIL = 1500  # characters of what pytest printed
MORE_EACH = 5.0  # seconds that a process needs at least
RIGHT = ("passed", "skipped")
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "gpu_steps.outcomes", "-W", "default"]


def cuda_tests(context: Context) -> dict[str, Any]:
    """What became of each test. The first that fails is run once more, with CUDA told to fail where the mistake is."""
    scratch = context.facts.with_suffix(".tests")
    outcomes: dict[str, str] = {}
    broken: list[str] = []
    while context.seconds_left > MORE_EACH:
        printed = _run([TESTS, *(f"--deselect={name}" for name in outcomes)], scratch, context.seconds_left)
        told = dict(json.loads(line) for line in scratch.read_text().splitlines())
        if not told and not outcomes:
            return {"failed": f"pytest ran nothing: {printed[-TAIL:]}"}
        outcomes |= told
        failed = [name for name, outcome in told.items() if outcome not in RIGHT]
        context.tell(**_counted(outcomes))
        if not failed:
            break
        if not broken:
            printed = _run(failed, scratch, context.seconds_left, CUDA_LAUNCH_BLOCKING="1")
            context.tell(**{"first failure": failed[0], "once more, blocking": printed[-TAIL:]})
        broken += failed
    else:
        context.tell(**{"time ended after": len(outcomes)})
    scratch.unlink(missing_ok=True)
    return {"failed": f"{len(broken)} of {len(outcomes)} tests"} if broken else {}


def _counted(outcomes: dict[str, str]) -> dict[str, Any]:
    counts = {kind: list(outcomes.values()).count(kind) for kind in sorted(set(outcomes.values()))}
    rows = [{"test": name.rpartition("::")[2], "outcome": outcome} for name, outcome in outcomes.items()]
    return {"counted": counts, "tests": rows}


def _run(which: list[str], told: Path, seconds: float, **environment: str) -> str:
    """Run tests until one fails; each tells its outcome in a line of `told` -> what was printed."""
    told.write_text("")
    paths = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH")]))
    environment |= {"GPU_STEPS_OUTCOMES": str(told.resolve()), "PYTHONPATH": paths}
    command = [*PYTEST, "--exitfirst", *which]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return "It ran past its time."
    return done.stdout + done.stderr
