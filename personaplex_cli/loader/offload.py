"""CPU offload: some of the transformer's layers wait in main memory and are copied to the GPU just in time.

There are two places for them on the device. While one is computed with, the next is being copied into the other, round
and round, also from one frame to the next. Exact, and as slow as the bus: every frame moves all of these layers.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

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
        self._streamed = [is_streamed(index, len(modules), streamed) for index in range(len(modules))]
        waiting = [module for module, waits in zip(modules, self._streamed, strict=True) if waits]
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._places = [_Place(waiting[0], device, stream) for _ in range(PLACES)]
        self._waiting = []
        for module in waiting:
            self._waiting.append(_linears(module, pinned=bool(stream)))
            module.self_attn.to("meta")
            module.gating.to("meta")
        self._layers = [layer_of(module) for module in modules]
        self._used = 0  # streamed layers, since the beginning
        for number, place in enumerate(self._places):
            place.take(self._waiting[number % len(waiting)])

    def __iter__(self) -> Iterator[Layer]:
        while self._used % len(self._waiting):  # an error broke off the last round
            self._move_on()
        for layer, streamed in zip(self._layers, self._streamed, strict=True):
            if streamed:
                place = self._places[self._used % PLACES]
                place.await_copy()
                yield replace(place.layer, norm1=layer.norm1, norm2=layer.norm2)
                self._move_on()
            else:
                yield layer

    def _move_on(self) -> None:
        """Begin to copy the layer that comes next but one to the place of the one that was just used."""
        place = self._places[self._used % PLACES]
        place.leave()
        place.take(self._waiting[(self._used + PLACES) % len(self._waiting)])
        self._used += 1


class _Place:
    """Room on the device for the linears of one layer, which are copied there on a `stream` if it has any."""

    def __init__(self, like: nn.Module, device: torch.device, stream: "torch.cuda.Stream | None") -> None:
        module = copy.deepcopy(like).to(device)
        self.layer = layer_of(module)
        self._linears = _linears(module)
        self._stream = stream
        self._device = device
        self._copied: Any = torch.cuda.Event() if stream else None  # type: ignore[no-untyped-call]
        self._left: Any = torch.cuda.Event() if stream else None  # type: ignore[no-untyped-call]

    def take(self, linears: Sequence[Tensor]) -> None:
        """Copy a layer here as soon as the one that is here has been used."""
        with torch.cuda.stream(self._stream):
            if self._left:
                self._left.wait(self._stream)
            for own, waiting in zip(self._linears, linears, strict=True):
                own.copy_(waiting, non_blocking=True)
            if self._copied:
                self._copied.record(self._stream)

    def await_copy(self) -> None:
        """Make what is computed from now on wait until the layer is here."""
        if self._copied:
            self._copied.wait(torch.cuda.current_stream(self._device))

    def leave(self) -> None:
        """What was computed until now is all that needed this layer."""
        if self._left:
            self._left.record(torch.cuda.current_stream(self._device))


def _linears(module: nn.Module, pinned: bool = False) -> list[Tensor]:
    """The tensors of a layer's linears."""
    tensors = [tensor for name, tensor in module.state_dict().items() if not name.startswith("norm")]
    return [tensor.pin_memory() for tensor in tensors] if pinned else tensors
