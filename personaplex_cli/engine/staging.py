"""Tensors that lie twice, at fixed addresses: where the host writes them and where the device reads them."""

from math import prod

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes: every tensor begins at a multiple of this


class StagingBuffer:
    """Named tensors in one piece of memory, so that one copy takes them all to the device.

    `host[name]` is written, `send` copies without waiting, `device[name]` is read. On the CPU both are the same memory.
    What was sent must have been used before it is written again: wait for the device in between.
    """

    def __init__(self, device: torch.device, **tensors: tuple[tuple[int, ...], torch.dtype]) -> None:
        sizes = [prod(shape) * dtype.itemsize for shape, dtype in tensors.values()]
        starts = [0]
        for size in sizes:
            starts.append(-(-(starts[-1] + size) // ALIGNMENT) * ALIGNMENT)
        self._here = torch.zeros(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._there = self._here if device.type == "cpu" else self._here.to(device)

        def named(memory: Tensor) -> dict[str, Tensor]:
            return {
                name: memory[start : start + size].view(dtype).view(shape)
                for (name, (shape, dtype)), start, size in zip(tensors.items(), starts, sizes, strict=False)
            }

        self.host, self.device = named(self._here), named(self._there)

    def send(self) -> None:
        """Take all to the device."""
        if self._there is not self._here:
            self._there.copy_(self._here, non_blocking=True)
