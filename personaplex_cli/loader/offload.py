"""CPU offload: some of the transformer's layers wait in main memory and are copied to the GPU just in time.

There are two places for them on the device. While one is computed with, the next is being copied into the other, round
and round, also from one frame to the next. Exact, and as slow as the bus: every frame moves all of these layers.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from personaplex_cli.engine.staging import ALIGNMENT
from personaplex_cli.engine.transformer import Layer, layer_of

PLACES = 2
_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(?!norm)")


def is_streamed(layer: int, layers: int, streamed: int) -> bool:
    """Whether this one of `layers` is among those that are streamed: they are spread evenly."""
    return (layer + 1) * streamed // layers > layer * streamed // layers


def waits_in_main_memory(name: str, layers: int, streamed: int) -> bool:
    """Whether the tensor of this name in the checkpoint belongs to a streamed layer. Norms are small, and stay."""
    match = _LAYER.match(name)
    return match is not None and is_streamed(int(match[1]), layers, streamed)


class StreamedLayers:
    """All layers of a transformer, in order, over and over; the streamed ones by way of two places on the device."""

    def __init__(self, modules: nn.ModuleList, streamed: int, device: torch.device) -> None:
        """`modules` hold the streamed layers' linears on the CPU; they move to memory that is fast to copy from."""
        self._cuda = device.type == "cuda"
        waiting = [module for index, module in enumerate(modules) if is_streamed(index, len(modules), streamed)]
        self._places = [_Place(waiting[0], device) for _ in range(PLACES)]
        self._waiting = [_packed(module, pinned=self._cuda) for module in waiting]
        self._resident = {index: layer_of(module) for index, module in enumerate(modules) if module not in waiting}
        self._visiting = [
            [replace(place.layer, norm1=own.norm1, norm2=own.norm2) for place in self._places]
            for own in map(layer_of, waiting)
        ]
        for module in waiting:
            _strip(module)
        self._count = len(modules)
        self._stream = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._fetched = self._used = 0  # layers, since the beginning
        for _ in range(PLACES):
            self._fetch()

    @property
    def bytes_per_frame(self) -> int:
        """Bytes that come over the bus in every frame."""
        return sum(layer.nbytes for layer in self._waiting)

    def __iter__(self) -> Iterator[Layer]:
        visitors = iter(self._visiting)
        for index in range(self._count):
            if index in self._resident:
                yield self._resident[index]
                continue
            number = self._used % PLACES
            self._places[number].await_copy()
            yield next(visitors)[number]
            self._places[number].leave()
            self._used += 1
            self._fetch()

    def _fetch(self) -> None:
        """Begin to copy the next layer to the place that was used longest ago."""
        place = self._places[self._fetched % PLACES]
        place.take(self._waiting[self._fetched % len(self._waiting)], self._stream)
        self._fetched += 1


class _Place:
    """Room on the device for the linears of one layer."""

    def __init__(self, like: nn.Module, device: torch.device) -> None:
        module = copy.deepcopy(like)
        self._memory = torch.empty(sum(map(_room, _tensors(like).values())), dtype=torch.uint8, device=device)
        _lay_into(module, self._memory)
        self.layer = layer_of(module)
        self._copied: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._left: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def take(self, layer: Tensor, stream: "torch.cuda.Stream | None") -> None:
        """Copy a layer here as soon as the one that is here has been used."""
        if stream is None:
            self._memory.copy_(layer)
            return
        with torch.cuda.stream(stream):
            self._left.wait(stream)
            self._memory.copy_(layer, non_blocking=True)
            self._copied.record(stream)

    def await_copy(self) -> None:
        """Make what is computed from now on wait until the layer is here."""
        if self._copied:
            self._copied.wait()

    def leave(self) -> None:
        """What was computed until now is all that needed this layer."""
        if self._left:
            self._left.record()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a layer's linears."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("norm")}


def _room(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _packed(module: nn.Module, pinned: bool) -> Tensor:
    """All tensors of a layer's linears in one piece of memory."""
    tensors = _tensors(module).values()
    memory = torch.zeros(sum(map(_room, tensors)), dtype=torch.uint8, pin_memory=pinned)
    start = 0
    for tensor in tensors:
        memory[start : start + tensor.nbytes] = tensor.contiguous().flatten().view(torch.uint8)
        start += _room(tensor)
    return memory


def _lay_into(module: nn.Module, memory: Tensor) -> None:
    """Let the tensors of a layer's linears be parts of `memory`, in the order of `_packed`."""
    views, start = {}, 0
    for name, tensor in _tensors(module).items():
        views[name] = memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        start += _room(tensor)
    module.load_state_dict(views, strict=False, assign=True)


def _strip(module: nn.Module) -> None:
    """Let go of the memory of a layer's linears."""
    absent = {name: tensor.to("meta") for name, tensor in _tensors(module).items()}
    module.load_state_dict(absent, strict=False, assign=True)
