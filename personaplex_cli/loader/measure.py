"""What there is to measure: an engine's memory by part, the bytes that a frame must read, how fast memory is."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.loader.precision import EMBEDDINGS

# The parts of the language model by how the names of their tensors begin; all others are heads.
STARTS = {"layers": "transformer.", "depformer": ("depformer", "linears."), "embeddings": EMBEDDINGS}
COPIES = 5
COPIES_ON_GPU = 20
COPY_BYTES = 256 * 2**20  # several times any cache


def memory(engine: LocalEngine) -> dict[str, int]:
    """Bytes of each part. `embeddings` are those tables that lie in main memory, whatever the device."""
    parts = {"layers": 0, "depformer": 0, "heads": 0, "embeddings": 0}
    for name, tensor in engine.model.generator.lm.state_dict().items():
        parts[next((part for part, start in STARTS.items() if name.startswith(start)), "heads")] += tensor.nbytes
    return {**parts, "mimi": bytes_of(engine.model.codec.mimi), "context": engine.model.generator.cache.kv.nbytes}


def bytes_per_frame(engine: LocalEngine, filled: int) -> int:
    """What one frame of one conversation must read at least: all weights but the embeddings, of which it reads single
    rows, and of the context what `filled` positions take."""
    lm: Any = engine.model.generator.lm
    small = [lm.depformer_text_emb, *lm.depformer_emb]
    parts = memory(engine)
    cache = engine.model.generator.cache
    unread = parts["context"] - cache.upto(min(filled, cache.context), 1).nbytes
    return sum(parts.values()) - parts["embeddings"] - sum(map(bytes_of, small)) - unread


def bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def bandwidth(device: torch.device) -> float:
    """Bytes that this device reads or writes in a second, by copying."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    seconds = _seconds_to_copy(source, torch.empty_like(source))
    del source
    if device.type == "cuda":
        torch.cuda.empty_cache()  # for the model
    return 2 * COPY_BYTES / seconds


def bus_bandwidth(device: torch.device) -> float:
    """Bytes a second from main memory to a CUDA device, by copying."""
    source = torch.ones(COPY_BYTES // 4, pin_memory=True)
    return COPY_BYTES / _seconds_to_copy(source, torch.empty_like(source, device=device))


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def gpu_bytes(device: torch.device) -> dict[str, int] | None:
    """Of a CUDA device; None elsewhere. `tensors` is the most that they took at once, `reserved` what torch took for
    them, `used` is all that is taken of the device now, by libraries, recordings and other programs, too."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    tensors, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return {"tensors": tensors, "reserved": reserved, "used": total - free}


def _seconds_to_copy(source: Tensor, target: Tensor) -> float:
    if target.is_cuda:
        return _seconds_by_events(source, target)
    return _seconds_by_clock(source, target)


def _seconds_by_events(source: Tensor, target: Tensor) -> float:
    """The mean of many copies, as the device itself counts: the host's clock would count its way there."""
    stream = torch.cuda.current_stream(target.device)
    target.copy_(source, non_blocking=True)
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record(stream)
    for _ in range(COPIES_ON_GPU):
        target.copy_(source, non_blocking=True)
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000 / COPIES_ON_GPU


def _seconds_by_clock(source: Tensor, target: Tensor) -> float:
    """The best of some copies."""
    best = float("inf")
    for _ in range(COPIES):
        wait_for(target.device)
        began = time.perf_counter()
        target.copy_(source)
        wait_for(target.device)
        best = min(best, time.perf_counter() - began)
    return best
