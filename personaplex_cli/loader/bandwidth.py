"""How fast memory is, by copying: what bounds every frame."""

import time

import torch
from torch import Tensor

COPIES = 5
COPY_BYTES = 256 * 2**20  # several times any cache


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
