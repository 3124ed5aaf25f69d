"""The program behind `personaplex bench`: how fast this machine answers, without a sound card.

It runs the same loop with the same engine as a conversation, and reports where each frame's milliseconds go, how often
80 were not enough, and how far from the limit of the memory's bandwidth it is.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import cycle, groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from personaplex_cli import __version__
from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Character
from personaplex_cli.conversation import Conversation, converse, converse_all
from personaplex_cli.events import Began, Ended, Listener, Phase, Started, State, Step, Timings
from personaplex_cli.findings import OK, WARNING, WRONG
from personaplex_cli.options import BenchOptions
from personaplex_cli.samples import FRAME, FRAME_MS, Samples, frame_at, frames_for

if TYPE_CHECKING:
    from personaplex_cli.engine.engine import LocalEngine

SHARES = {"p50": 50, "p95": 95, "p99.9": 99.9, "max": 100}


def measure(
    start: "Callable[[int], LocalEngine]", character: Character, sound: Samples, options: BenchOptions, listen: Listener
) -> dict[str, Any]:
    """Load, warm up, hold a conversation, report. Times are milliseconds unless they say otherwise.

    `start` returns an engine of so many slots that is not warmed up; `sound` [n] is heard, repeated if it is shorter
    than the frames.
    """
    from personaplex_cli.loader.measure import bandwidth, bytes_per_frame, gpu_bytes, memory

    began = time.perf_counter()
    engine = start(max(options.sizes))
    loaded = time.perf_counter()
    listen(State(Phase.WARMING_UP))
    engine.warm_up(character)
    warm = time.perf_counter()
    again, positions = _timed_prefill(engine, character)
    engine.model.prompts.clear()
    prefill, positions = _timed_prefill(engine, character)
    fill = max(0, options.context_fill - positions)
    walls, timings = _frames(engine, character, sound, fill, options.frames, listen)
    gpu = gpu_bytes(engine.device)  # before memory is taken to measure how fast it is
    speed = bandwidth(engine.device)
    floor = 1000 * bytes_per_frame(engine, fill + positions + options.frames // 2) / speed
    return {
        "personaplex": __version__,
        "device": engine.device_name,
        "precision": engine.model.precision,
        "frames": options.frames,
        "context": [fill + positions, fill + positions + options.frames],
        "load_seconds": round(loaded - began, 2),
        "warm_up_seconds": round(warm - loaded, 2),
        "cuda_graphs": {"recorded": len(engine.pipeline.recordings), "seconds": round(engine.recording_seconds, 2)},
        "prefill": {"frames": positions, "milliseconds": round(prefill, 1), "again": round(again, 1)},
        "milliseconds": _stages(walls, timings),
        "misses": sum(wall > FRAME_MS for wall in walls),
        "longest_streak_of_misses": _longest_streak(walls),
        "real_time_factor": round(sum(walls) / len(walls) / FRAME_MS, 4),
        "bytes": memory(engine),
        "gpu_bytes": gpu,
        "bandwidth_gb_per_s": round(speed / 1e9, 1),
        "floor_milliseconds": round(floor, 3),
        "fraction_of_floor": round(floor / float(np.median(walls)), 3),
        "batches": [_batch(engine, character, sound, size, options.frames, listen) for size in options.sizes]
        if options.sizes != [1]
        else [],
    }


def verdict(report: Mapping[str, Any]) -> tuple[str, str]:
    """The kind of what was measured (as in `findings`), and a sentence for it."""
    whole, misses, frames = report["milliseconds"]["whole"], report["misses"], report["frames"]
    of = f"{whole['p50']:.0f} ms of the {FRAME_MS:.0f} that a frame lasts"
    if whole["p50"] > FRAME_MS:
        slow = report["real_time_factor"]
        return (
            WRONG,
            f"{of}: too slow to talk. Recordings take {slow:.1f} times as long as they are (`personaplex run`).",
        )
    times = FRAME_MS / whole["p50"]
    if misses:
        late = f"{misses} of {frames} frames took longer than {FRAME_MS:.0f}, the longest {whole['max']:.0f}"
        return WARNING, f"{of}: fast enough on average, {times:.1f} times, but {late}: there speech breaks up."
    return OK, f"{of}: fast enough, {times:.1f} times."


def _timed_prefill(engine: "LocalEngine", character: Character) -> tuple[float, int]:
    """Read a prompt -> the milliseconds that took, and its frames."""
    from personaplex_cli.loader.measure import wait_for

    began = time.perf_counter()
    engine.begin(0, character)
    events = [event for _, event in engine.prefill() or ()]
    wait_for(engine.device)
    milliseconds = 1000 * (time.perf_counter() - began)
    for event in events:
        if isinstance(event, Exception):
            raise event
    return milliseconds, sum(event.prompt_frames for event in events if isinstance(event, Began))


def _frames(
    engine: "LocalEngine", character: Character, sound: Samples, fill: int, frames: int, listen: Listener
) -> tuple[list[float], list[Timings]]:
    """Hold a conversation -> the milliseconds of each frame, and of its stages, without the first `fill` frames."""
    audio = Recording(np.resize(sound, (fill + frames) * FRAME))
    listen(Started("measuring", len(audio)))
    walls: list[float] = []
    timings: list[Timings] = []
    before = time.perf_counter()
    for step in converse(engine, audio, character):
        now = time.perf_counter()
        if step.index >= fill:
            walls.append(1000 * (now - before))
            if step.timings:
                timings.append(step.timings)
        listen(step)
        before = time.perf_counter()
    return walls, timings


def _batch(
    engine: "LocalEngine", character: Character, sound: Samples, size: int, frames: int, listen: Listener
) -> dict[str, float]:
    """Hold so many conversations at once -> milliseconds of a round in which all talk, and how many would be held by
    as much computing in real time."""
    listen(Started(f"{size} at once", frames))
    conversations = [Conversation(character, _Endless(sound)) for _ in range(size)]
    talking, walls, before = 0, list[float](), 0.0
    with closing(converse_all(engine, conversations)) as events:
        for conversation, event in events:
            match event:
                case Began():
                    talking += 1
                case Ended(error) if error:
                    raise error
                case Step() if conversation is conversations[0] and talking == size:
                    now = time.perf_counter()
                    if before:
                        walls.append(1000 * (now - before))
                        listen(event)
                    before = now
            if len(walls) == frames:
                break
    p50, p95 = (float(np.percentile(walls, share)) for share in (50, 95))
    return {"size": size, "p50": round(p50, 3), "p95": round(p95, 3), "in_real_time": round(size * FRAME_MS / p50, 1)}


class _Endless:
    """A user who says the same over and over: however long others take to join, all talk until the end."""

    def __init__(self, sound: Samples) -> None:
        self._frames = [frame_at(sound, index) for index in range(frames_for(len(sound)))]

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples]:
        return cycle(self._frames)

    def play(self, pcm: Samples) -> None:
        pass


def _stages(walls: Sequence[float], timings: Sequence[Timings]) -> dict[str, dict[str, float]]:
    stages = {
        "encode": [each.encode for each in timings],
        "lm": [each.lm - each.depformer for each in timings],
        "depformer": [each.depformer for each in timings],
        "decode": [each.decode for each in timings],
        "rest": [wall - each.total for wall, each in zip(walls, timings, strict=True)],
        "whole": walls,
    }
    return {
        stage: {name: round(float(np.percentile(values, share)), 3) for name, share in SHARES.items()}
        for stage, values in stages.items()
    }


def _longest_streak(walls: Sequence[float]) -> int:
    streaks = (len(list(group)) for missed, group in groupby(wall > FRAME_MS for wall in walls) if missed)
    return max(streaks, default=0)
