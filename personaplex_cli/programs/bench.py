"""The program behind `personaplex bench`: how fast this machine answers, without a sound card.

It runs the same loop with the same engine as a conversation, and reports where each frame's milliseconds go, how often
80 were not enough, and how far from the limit of the memory's bandwidth it is.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from personaplex_cli import __version__
from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Prompt
from personaplex_cli.conversation import converse
from personaplex_cli.events import Listener, Started, State, Timings
from personaplex_cli.samples import FRAME, FRAME_SECONDS, Samples

if TYPE_CHECKING:
    from personaplex_cli.engine.engine import Engine

BUDGET = 1000 * FRAME_SECONDS  # milliseconds
SHARES = (50, 95, 99.9)


@dataclass(frozen=True)
class Work:
    """What is measured: `frames` of `sound` [n] (repeated if it is shorter), after so many positions of context."""

    sound: Samples
    frames: int
    context_fill: int = 0


def measure(engine: "Engine", prompt: Prompt, work: Work, load_seconds: float, listen: Listener) -> dict[str, Any]:
    """Warm up, hold the conversation, report. Times are milliseconds unless they say otherwise."""
    from personaplex_cli.loader.bandwidth import bandwidth, peak_bytes
    from personaplex_cli.loader.measure import bytes_per_frame, memory, modules_over_lean

    listen(State("warming up"))
    began = time.perf_counter()
    engine.warm_up(prompt, listen)
    warm_up = time.perf_counter() - began
    again, positions = _timed_begin(engine, prompt)
    engine.talk.snapshots.clear()
    prefill, positions = _timed_begin(engine, prompt)
    fill = max(0, work.context_fill - positions)
    audio = Recording(np.resize(work.sound, (fill + work.frames) * FRAME))
    listen(Started("measuring", len(audio)))
    walls: list[float] = []
    timings: list[Timings] = []
    before = time.perf_counter()
    for step in converse(engine, audio):
        now = time.perf_counter()
        if step.index >= fill:
            walls.append(1000 * (now - before))
            timings += [step.timings] if step.timings else []
        listen(step)
        before = time.perf_counter()
    speed = bandwidth(engine.device)
    floor = 1000 * bytes_per_frame(engine) / speed
    return {
        "personaplex": __version__,
        "device": engine.device_name,
        "precision": engine.precision,
        "frames": work.frames,
        "context": [fill + positions, fill + positions + work.frames],
        "load_seconds": round(load_seconds, 2),
        "warm_up_seconds": round(warm_up, 2),
        "cuda_graphs": {"recorded": engine.recorded, "seconds": round(engine.recording_seconds, 2)},
        "prefill": {"frames": positions, "milliseconds": round(prefill, 1), "again": round(again, 1)},
        "milliseconds": _stages(walls, timings),
        "misses": sum(wall > BUDGET for wall in walls),
        "longest_streak_of_misses": _longest_streak(walls),
        "real_time_factor": round(sum(walls) / len(walls) / BUDGET, 4),
        "bytes": memory(engine),
        "peak_bytes": peak_bytes(engine.device),
        "bandwidth_gb_per_s": round(speed / 1e9, 1),
        "floor_milliseconds": round(floor, 3),
        "fraction_of_floor": round(floor / float(np.median(walls)), 3),
        "modules_over_lean": round(modules_over_lean(), 2),
    }


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """The stages as rows of a table: name, p50, p95, p99.9, max."""
    return [(name, *(f"{value:.2f}" for value in stage.values())) for name, stage in report["milliseconds"].items()]


def _timed_begin(engine: "Engine", prompt: Prompt) -> tuple[float, int]:
    """Begin a conversation -> the milliseconds that took, and the frames of its prompt."""
    from personaplex_cli.loader.bandwidth import wait_for

    began = time.perf_counter()
    positions = engine.begin(prompt)
    wait_for(engine.device)
    return 1000 * (time.perf_counter() - began), positions


def _stages(walls: Sequence[float], timings: Sequence[Timings]) -> dict[str, dict[str, float]]:
    stages = {
        "encode": [each.encode for each in timings],
        "lm": [each.lm - each.depformer for each in timings],
        "depformer": [each.depformer for each in timings],
        "decode": [each.decode for each in timings],
        "rest": [wall - each.total for wall, each in zip(walls, timings, strict=True)],
        "whole": list(walls),
    }
    return {
        name: {
            **{f"p{share}": round(float(np.percentile(values, share)), 3) for share in SHARES},
            "max": round(max(values), 3),
        }
        for name, values in stages.items()
    }


def _longest_streak(walls: Sequence[float]) -> int:
    return max((len(list(group)) for missed, group in groupby(walls, lambda wall: wall > BUDGET) if missed), default=0)
