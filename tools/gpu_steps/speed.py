"""How long frames take: by stage and kernel, of many conversations at once, over a long one, in real time."""

import resource
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch

from gpu_steps.context import Context
from gpu_steps.engines import (
    KIND,
    begin,
    device_of,
    engine_of,
    let_go,
    noise,
    noting,
    percentiles,
    recorded,
    recorder_of,
    reserved,
    spec_of,
    talk,
)
from personaplex_cli.conversation import converse
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.errors import DeviceError
from personaplex_cli.events import ignore
from personaplex_cli.loader.measure import gpu_bytes, memory
from personaplex_cli.options import BenchOptions
from personaplex_cli.programs import bench as program
from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS, SILENT_FRAME, Samples

LATE = 2900  # a position where nearly all of the ring is read
EARLY = 100
MILLISECONDS = 8000  # for the frames of one table row, at most
LISTED = 40  # kernels


def bench(context: Context, precision: str) -> dict[str, Any]:
    """`personaplex bench` and more, first as frames are simply run, then with recordings."""
    notes: list[str] = []
    model = engine_of(context, precision, listen=noting(notes)).model
    rows: list[dict[str, Any]] = []
    for way, recorder in (("plain", None), ("recorded", recorder_of(context))):
        engine = LocalEngine(model, recorder, noting(notes))
        context.attempt(way, partial(_benched, context, engine, way, rows))
        context.tell(notes=notes, milliseconds=rows)
    context.attempt("profile", lambda: context.tell(profile=_profile(context, engine)))
    return {}


def _benched(context: Context, engine: LocalEngine, way: str, rows: list[dict[str, Any]]) -> None:
    begin(engine)
    slow = talk(engine, 3).walls[-1]  # without recordings: the frames are fewer than there would be time for
    frames = context.either(max(5, min(90, round(MILLISECONDS / slow))), 5)
    options = BenchOptions(frames=frames, context_fill=context.either(EARLY, 60))
    report = program.measure(lambda slots: engine, KIND, SILENT_FRAME, options, ignore)
    whole = report.pop("milliseconds")
    context.tell(**{f"bench, {way}": report})
    rows.append(
        {
            "way": way,
            "position": report["context"][0],
            **{stage: each["p50"] for stage, each in whole.items()},
            **whole["whole"],
        }
    )
    begin(engine, position=LATE)
    late = talk(engine, frames)
    rows.append(
        {"way": way, "position": LATE, **late.stages, "whole": np.median(late.walls), **percentiles(late.walls)}
    )
    context.tell(milliseconds=rows)


def _profile(context: Context, engine: LocalEngine) -> dict[str, Any]:
    """The kernels of a frame, those that take longest first; on a CPU its operators."""
    kinds, frames = torch.profiler.ProfilerActivity, context.either(3, 1)
    with torch.profiler.profile(activities=[context.either(kinds.CUDA, kinds.CPU)]) as profile:
        talk(engine, frames)
    averages = list(profile.key_averages())
    events = [each for each in averages if "CUDA" in str(each.device_type)] or averages
    times = {each.key: context.either(each.self_device_time_total, each.self_cpu_time_total) for each in events}
    events.sort(key=lambda each: -times[each.key])
    rows = [
        {
            "kernel": each.key[:100],
            "a frame": round(each.count / frames, 1),
            "us": round(times[each.key] / frames, 1),
        }
        for each in events
    ]
    total = {"kernels a frame": sum(row["a frame"] for row in rows), "us": sum(row["us"] for row in rows)}
    return {**total, "kernels": rows[: context.either(LISTED, 5)]}


def batches(context: Context, precision: str) -> dict[str, Any]:
    """The same frames with more and more conversations at once, until memory or time runs out."""
    rows: list[dict[str, Any]] = []
    for slots in context.either((1, 2, 4, 8, 16, 32), (1, 2, 4)):
        if context.seconds_left < context.either(15, 1):
            context.tell(**{"not reached": f"{slots} conversations"})
            break
        try:
            rows.append(_batch(context, precision, slots))
        except DeviceError as error:
            context.tell(**{f"{slots} conversations": str(error)})
            break
        context.tell(batches=rows)
        let_go()
    return {}


def _batch(context: Context, precision: str, slots: int) -> dict[str, Any]:
    if not context.dry:
        torch.cuda.reset_peak_memory_stats()
    engine = engine_of(context, precision, slots=slots)
    engine.warm_up(KIND)
    everyone = range(engine.slots)
    began = time.perf_counter()
    begin(engine, slots=everyone)
    begun = time.perf_counter() - began
    held = talk(engine, context.either(60, 3), everyone)
    times = percentiles(held.walls)
    return {
        "conversations": engine.slots,
        **held.stages,
        **times,
        "ms for each": times["p50"] / engine.slots,
        "prompts, ms for each": 1000 * begun / engine.slots,
        "context": engine.context,
        "recordings": len(engine.pipeline.recordings),
        **reserved(context),
    }


def long(context: Context) -> dict[str, Any]:
    """A talk that goes round the ring, as fast as it can: does what it takes stay the same?"""
    engine = recorded(context, engine_of(context))
    begin(engine, position=context.either(None, spec_of(context).lm["context"] - 50))
    rows: list[dict[str, Any]] = []
    for _ in range(context.either(18, 3)):
        if context.seconds_left < 10:
            break
        held = talk(engine, context.either(200, 30))
        used = gpu_bytes(device_of(context)) or {}
        frames = sum(row["frames"] for row in rows)
        main = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        finite = all(np.isfinite(each.pcm).all() for each in held.replies)
        row = {
            "until": frames + len(held.walls),
            "frames": len(held.walls),
            **percentiles(held.walls),
            "finite": finite,
        }
        rows.append({**row, **{f"{name} MB": each // 10**6 for name, each in used.items()}, "main memory GB": main})
        context.tell(talk=rows)
    grown = {name: rows[-1][name] - rows[0][name] for name in rows[0] if name.endswith(" MB")}
    return {"memory of one conversation": memory(engine)["context"], "grown, MB": grown}


class _Ticking:
    """Audio that brings a frame every 80 ms, from a thread, as a sound card does; notes how late each answer is."""

    def __init__(self, frames: int) -> None:
        self.latencies: list[float] = []  # milliseconds from a frame to its answer
        self.lateness: list[float] = []  # milliseconds that a tick came too late
        self._frames = noise(frames)
        self._heard: SimpleQueue[Samples | None] = SimpleQueue()
        self._times: SimpleQueue[float] = SimpleQueue()

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
        threading.Thread(target=self._tick, args=(wake,), daemon=True).start()
        while True:
            try:
                frame = self._heard.get_nowait()
            except Empty:
                yield None
                continue
            if frame is None:
                return
            yield frame

    def play(self, pcm: Samples) -> None:
        self.latencies.append(1000 * (time.perf_counter() - self._times.get()))

    def _tick(self, wake: Callable[[], None]) -> None:
        due = time.perf_counter()
        for frame in self._frames:
            due += FRAME_SECONDS
            time.sleep(max(0.0, due - time.perf_counter()))
            now = time.perf_counter()
            self.lateness.append(1000 * (now - due))
            self._times.put(now)
            self._heard.put(frame)
            wake()
        self._heard.put(None)
        wake()


def real_time(context: Context) -> dict[str, Any]:
    """A minute in real time, through the program's own loop."""
    engine = recorded(context, engine_of(context))
    audio = _Ticking(context.either(750, 8))
    for _ in converse(engine, audio, KIND):
        pass
    return {
        "frames": len(audio.latencies),
        "frame to answer, ms": percentiles(audio.latencies),
        "misses": sum(each > FRAME_MS for each in audio.latencies),
        "lateness of the clock, ms": percentiles(audio.lateness),
        "jitter, ms": float(np.std(audio.latencies)),
    }
