"""Tensors that lie twice, at fixed addresses: where the host writes them and where the device reads them."""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes: every tensor begins at a multiple of this


class Packing:
    """How named tensors lie in one piece of memory, so that one copy takes them all. `nbytes` is what they take."""

    def __init__(self, tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
        self._tensors = tensors
        self.nbytes = 0
        self._places: dict[str, slice] = {}
        for name, (shape, dtype) in tensors.items():
            size = prod(shape) * dtype.itemsize
            self._places[name] = slice(self.nbytes, self.nbytes + size)
            self.nbytes += -(-size // ALIGNMENT) * ALIGNMENT

    def within(self, memory: Tensor) -> dict[str, Tensor]:
        """The tensors, by name, in this memory [nbytes] uint8."""
        kinds = self._tensors.items()
        return {name: memory[self._places[name]].view(dtype).view(shape) for name, (shape, dtype) in kinds}


class StagingBuffer:
    """Named tensors in one piece of memory on the host, and in one on the device.

    `host[name]` is written, `send` copies without waiting, `device[name]` is read. On the CPU both are the same memory.
    What was sent must have been used before it is written again: wait for the device in between.
    """

    def __init__(self, device: torch.device, **tensors: tuple[tuple[int, ...], torch.dtype]) -> None:
        packing = Packing(tensors)
        self._here = torch.zeros(packing.nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._there = self._here if device.type == "cpu" else self._here.to(device)
        self.host, self.device = packing.within(self._here), packing.within(self._there)

    def send(self) -> None:
        """Take all to the device."""
        if self._there is not self._here:
            self._there.copy_(self._here, non_blocking=True)
