"""Engines with random weights that are the same in every precision and wherever they lie, and talks with them."""

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from gpu_steps.context import Context
from personaplex_cli.character import Character, Sampling
from personaplex_cli.conversation import Reply
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.engine.graphs import CapturedGraph, CudaRecorder, GraphRecorder, Part
from personaplex_cli.engine.quantised import Int4Linear, QuantisedLinear, pack
from personaplex_cli.events import Began, Event, Listener, Note, ignore
from personaplex_cli.library.spec import ModelSpec, spec_with
from personaplex_cli.loader import load as loader
from personaplex_cli.loader.checkpoint import M
from personaplex_cli.loader.memory_plan import MemoryPlan
from personaplex_cli.loader.precision import precision_for
from personaplex_cli.loader.quantised_cache import Place
from personaplex_cli.loader.random_weights import ONES
from personaplex_cli.options import ModelOptions
from personaplex_cli.programs.bench import SHARES
from personaplex_cli.samples import FRAME, Samples

ROOT = Path(__file__).parents[2]
VOICE_FRAMES = 13  # of the usual voice, a second of noise
KIND = Character("kind", "You are kind.", "noise", loader.NOISE_VOICE, Sampling(seed=3))


def device_of(context: Context) -> torch.device:
    return torch.device("cpu") if context.dry else torch.device("cuda", 0)


def spec_of(context: Context, **sizes: Any) -> ModelSpec:
    """The real model, or a tiny one; with some sizes of its language model replaced."""
    return spec_with({**_tiny(), "lm": {**_tiny()["lm"], **sizes}} if context.dry else {"lm": sizes})


def _tiny() -> dict[str, Any]:
    sys.path.append(str(ROOT / "tests"))
    from random_model import SIZES

    return SIZES


def engine_of(
    context: Context,
    precision: str = "bf16",
    *,
    slots: int = 1,
    streamed: int = 0,
    where: str | None = None,
    spec: ModelSpec | None = None,
    listen: Listener = ignore,
) -> LocalEngine:
    """An engine with random weights, not warmed up. `streamed` layers wait in main memory. Raises DeviceError."""
    device, spec = device_of(context), spec or spec_of(context)
    options = ModelOptions(device=where or str(device), precision=precision)
    with ExitStack() as patches:
        patches.enter_context(patch.object(loader, "fill_randomly", partial(fill_alike, maker=device)))
        if streamed:
            plan = MemoryPlan(precision_for(precision, device), spec.lm["context"], streamed)
            patches.enter_context(patch.object(loader, "choose_plan", lambda *_: plan))
        return loader.load_random(options, listen, spec, slots)


def fill_alike(module: M, place: Place, dtype: torch.dtype, maker: torch.device) -> M:
    """Like `fill_randomly`, but a tensor of one name has one value; `maker` draws it, in a checkpoint's bf16."""
    linears = {name: each for name, each in module.named_modules() if isinstance(each, QuantisedLinear)}
    values: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        linear, _, own = name.rpartition(".")
        if linear not in linears:
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            values[name] = _drawn(name, tensor.shape, maker).to(place(name), kind)
        elif own == "weight":
            rows, columns = tensor.shape
            kind_of_linear = type(linears[linear])
            plain = _drawn(name, (rows, columns * (2 if kind_of_linear is Int4Linear else 1)), maker).to(dtype)
            packed = pack(kind_of_linear, plain)  # type: ignore[arg-type]
            values |= {f"{linear}.{part}": each.to(place(name)) for part, each in packed.items()}
    module.load_state_dict(values, assign=True)
    return module.requires_grad_(False).eval()


def _drawn(name: str, shape: Sequence[int], maker: torch.device) -> Tensor:
    """So sized that numbers stay about as large from layer to layer."""
    if name.endswith(ONES):
        return torch.ones(shape, device=maker)
    if name.endswith("bias"):
        return torch.zeros(shape, device=maker)
    if name.endswith("scale"):
        return torch.full(shape, 0.1, device=maker)
    size = 1.0 if "codebook" in name else 0.5 if "emb" in name else max(1, prod(shape[1:])) ** -0.5
    random = torch.Generator(maker).manual_seed(crc32(name.encode()))
    return torch.empty(*shape, dtype=torch.bfloat16, device=maker).normal_(0.0, size, generator=random)


def recorder_of(context: Context) -> GraphRecorder:
    """In a dry run what is recorded is simply run again."""
    return _run_again if context.dry else CudaRecorder(device_of(context))


def _run_again(part: Part) -> CapturedGraph:
    part()
    return SimpleNamespace(replay=part)


def recorded(context: Context, engine: LocalEngine, listen: Listener = ignore) -> LocalEngine:
    """Another engine with the same model, warmed up with recordings if they can be made."""
    another = LocalEngine(engine.model, recorder_of(context), listen)
    another.warm_up(KIND)
    return another


def someone(positions: int) -> Character:
    """A character whose prompt takes about so many positions: most of them are the voice's."""
    frames = max(1, positions - 39)
    sound = np.resize(loader.NOISE_VOICE, frames * FRAME).astype(np.float32)
    return Character("kind", KIND.prompt, "noise", sound, KIND.sampling)


def begin(engine: LocalEngine, who: Character = KIND, slots: Sequence[int] = (0,), position: int | None = None) -> int:
    """Begin a conversation in each slot, at another position if one is given -> the prompt's positions."""
    for slot in slots:
        engine.begin(slot, who)
    positions = 0
    while (happening := engine.prefill()) is not None:
        for _, event in happening:
            if isinstance(event, Exception):
                raise event
            positions = event.prompt_frames if isinstance(event, Began) else positions
    for slot in slots if position is not None else ():
        engine.pipeline.skip_to(slot, position or 0)
    return positions


@dataclass(frozen=True)
class Talk:
    """The replies of the first slot, and the milliseconds of each frame."""

    replies: list[Reply]
    walls: list[float]

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        return [each.tokens for each in self.replies]

    @property
    def stages(self) -> dict[str, float]:
        """Milliseconds, the middle one of all frames."""
        timings = [each.timings for each in self.replies if each.timings]
        stages = {
            "encode": [each.encode for each in timings],
            "lm": [each.lm - each.depformer for each in timings],
            "depformer": [each.depformer for each in timings],
            "decode": [each.decode for each in timings],
        }
        return {name: round(float(np.median(values)), 3) for name, values in stages.items()}


def talk(engine: LocalEngine, frames: int, slots: Sequence[int] = (0,)) -> Talk:
    """Go on with the conversations in these slots, which all hear the same noise. Raises the error that a reply is."""
    replies, walls = [], []
    for frame in noise(frames):
        began = time.perf_counter()
        answers = engine.step(dict.fromkeys(slots, frame))
        walls.append(1000 * (time.perf_counter() - began))
        for reply in answers.values():
            if isinstance(reply, Exception):
                raise reply
        first = answers[slots[0]]
        replies += [first] if isinstance(first, Reply) else []
    return Talk(replies, walls)


def noting(notes: list[str]) -> Listener:
    """A listener that keeps what the program notes."""

    def listen(event: Event) -> None:
        if isinstance(event, Note) and event.text not in notes:
            notes.append(event.text)

    return listen


def noise(frames: int) -> list[Samples]:
    return list(np.random.default_rng(1).normal(0.0, 0.1, (frames, FRAME)).astype(np.float32))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    return {name: round(float(np.percentile(values, share)), 3) for name, share in SHARES.items()}


def seconds_each(context: Context, calls: Sequence[Callable[[], object]], repeats: int = 20) -> float:
    """Seconds of one call, the mean of all, repeated. On a GPU they are recorded, so that no launch is counted."""
    began = time.perf_counter()
    for call in calls:
        call()
    if context.dry:
        return (time.perf_counter() - began) / len(calls)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return by_events(graph.replay, repeats) / len(calls)


def by_events(call: Callable[[], object], repeats: int) -> float:
    """Seconds of one call, as the GPU counts."""
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    call()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000 / repeats


def let_go() -> None:
    """Give back the memory of what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reserved(context: Context) -> Mapping[str, float]:
    """Gigabytes: the most that torch has taken of the GPU. Nothing where there is none."""
    return {} if context.dry else {"reserved GB": torch.cuda.max_memory_reserved() / 1e9}
