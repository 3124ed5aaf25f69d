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
COPY_BYTES = 256 * 2**20  # several times any cache


def memory(engine: LocalEngine) -> dict[str, int]:
    """Bytes of each part. `embeddings` are those tables that lie in main memory, whatever the device."""
    parts = {"layers": 0, "depformer": 0, "heads": 0, "embeddings": 0}
    for name, tensor in engine.model.generator.lm.state_dict().items():
        parts[next((part for part, start in STARTS.items() if name.startswith(start)), "heads")] += tensor.nbytes
    return {**parts, "mimi": bytes_of(engine.model.codec.mimi), "context": engine.model.generator.cache.kv.nbytes}


def bytes_per_frame(engine: LocalEngine) -> int:
    """What one frame must read at least: all weights but the embeddings, of which it reads single rows, and the
    whole context."""
    lm: Any = engine.model.generator.lm
    small = [lm.depformer_text_emb, *lm.depformer_emb]
    parts = memory(engine)
    return sum(parts.values()) - parts["embeddings"] - sum(map(bytes_of, small))


def bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def bandwidth(device: torch.device) -> float:
    """Bytes that this device reads or writes in a second, by copying."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    return 2 * COPY_BYTES / _seconds_to_copy(source, torch.empty_like(source))


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


def peak_bytes(device: torch.device) -> int | None:
    """The most memory that was in use on a CUDA device at once; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _seconds_to_copy(source: Tensor, target: Tensor) -> float:
    """The best of some copies."""
    best = float("inf")
    for _ in range(COPIES):
        wait_for(target.device)
        began = time.perf_counter()
        target.copy_(source)
        wait_for(target.device)
        best = min(best, time.perf_counter() - began)
    return best
