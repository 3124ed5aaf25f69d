"""What there is to measure about an engine: its memory by part, the bytes a frame must read, the device's bandwidth."""

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from personaplex_cli.model.engine import Engine

COPIES = 5
COPY_BYTES = 256 * 2**20  # for the bandwidth: several times any cache


def memory(engine: "Engine") -> dict[str, int]:
    """Bytes of each part: the language model's weights, Mimi's, and the keys and values of the context."""
    return {
        "lm": _bytes(engine.talk.lm),
        "mimi": _bytes(engine.mimi),
        "context": engine.talk.context_bytes,
    }


def bytes_per_frame(engine: "Engine") -> int:
    """What one frame must read at least: all weights but the embeddings, of which it reads single rows, and the
    whole context."""
    lm: Any = engine.talk.lm
    embeddings = [*lm.emb, lm.text_emb, *lm.depformer_emb, lm.depformer_text_emb]
    parts = memory(engine)
    return sum(parts.values()) - sum(_bytes(each) for each in embeddings)


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


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
