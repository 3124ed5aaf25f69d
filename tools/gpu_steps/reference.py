"""The reference's own loop beside ours, by turns, on the same GPU, with random weights of the same sizes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_steps.context import Context
from gpu_steps.engines import begin, engine_of, let_go, percentiles, recorded, spec_of, talk
from personaplex_cli.library.spec import CODEBOOKS

WHERE_FROM = "not given: `git clone https://github.com/NVIDIA/personaplex` beforehand, and name it by --reference"
LOOP = Path(__file__).with_name("reference_loop.py")
BOTH_BYTES = 44e9  # what both take in bf16


Walls = Callable[[int], list[float]]  # milliseconds of each of so many frames


def reference(context: Context) -> dict[str, Any]:
    """NVIDIA's moshi if there is a checkout of it, else PyPI's, with 8 and with 16 depformer steps."""
    context.tell(reference=str(context.reference or WHERE_FROM))
    pypi = [(f"moshi, dep_q {steps}", None, steps) for steps in (CODEBOOKS, 2 * CODEBOOKS)]
    others = [("NVIDIA's", context.reference, 2 * CODEBOOKS)] if context.reference else pypi
    rows: list[dict[str, Any]] = []
    for name, folder, steps in others:
        if context.attempt(name, partial(_by_turns, context, name, folder, steps, rows)) is None and not context.dry:
            # It compiles pieces by itself, which needs a compiler.
            name = f"{name}, nothing compiled"
            context.attempt(name, partial(_by_turns, context, name, folder, steps, rows, NO_TORCH_COMPILE="1"))
        let_go()
    medians = {
        row["loop"]: float(np.median([each["p50"] for each in rows if each["loop"] == row["loop"]])) for row in rows
    }
    return {"middle of the rounds' p50, ms": medians}


def _by_turns(
    context: Context, name: str, folder: Path | None, steps: int, rows: list[dict[str, Any]], **environment: str
) -> bool:
    """Both hold talks by turns, where memory is enough for both; else ours first."""
    rounds = context.either(3, 1)
    ours = partial(_our_loop, context)
    other = partial(_other_loop, context, folder, steps, environment)

    def measure(loop: str, walls: Walls) -> None:
        rows.append({"against": name, "loop": loop, **percentiles(walls(context.either(100, 3)))})
        context.tell(rounds=rows)

    if context.dry or torch.cuda.mem_get_info()[1] > BOTH_BYTES:
        with ours() as our_walls, other() as other_walls:
            for _ in range(rounds):
                measure("ours", our_walls)
                measure(name, other_walls)
        return True
    for loop, started in (("ours", ours), (name, other)):
        with started() as walls:
            for _ in range(rounds):
                measure(loop, walls)
        let_go()
    return True


@contextmanager
def _our_loop(context: Context) -> Iterator[Walls]:
    engine = recorded(context, engine_of(context))
    begin(engine)
    yield lambda frames: talk(engine, frames).walls


@contextmanager
def _other_loop(context: Context, folder: Path | None, steps: int, environment: dict[str, str]) -> Iterator[Walls]:
    """A process with the reference, since its package is called as ours. Raises RuntimeError if it says nothing."""
    spec = spec_of(context)
    asked = {
        "folder": str(folder / "moshi") if folder else None,
        "lm": {**spec.lm, "dep_q": steps},
        "mimi": spec.mimi,
        "device": context.either("cuda", "cpu"),
    }
    environment = {**os.environ, **({"NO_TORCH_COMPILE": "1"} if context.dry else {}), **environment}
    command = [sys.executable, str(LOOP), json.dumps(asked)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        requests, answers = process.stdin, process.stdout

        def walls(frames: int) -> list[float]:
            requests.write(f"{frames}\n")
            requests.flush()
            while line := answers.readline():
                if line.startswith("["):
                    return [float(each) for each in json.loads(line)]
            raise RuntimeError("The reference's process ended: its log says why.")

        try:
            walls(1)  # it is loaded and warmed up
            yield walls
        finally:
            process.kill()
