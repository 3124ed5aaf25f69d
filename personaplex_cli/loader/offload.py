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

from personaplex_cli.engine.staging import Packing
from personaplex_cli.engine.transformer import Layer, layer_of
from personaplex_cli.loader.pinned import pinned

PLACES = 2
PIECE = 16 * 2**20  # bytes that are copied at once
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
        packing = Packing({name: (tuple(each.shape), each.dtype) for name, each in _linears(waiting[0]).items()})
        self._waiting = [self._moved(module, packing, device) for module in waiting]
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._places = [_Place(waiting[0], packing, device, stream) for _ in range(PLACES)]
        self._layers = [layer_of(module) for module in modules]
        self._turn = 0  # whose place it is
        for number, place in enumerate(self._places):
            self._bring(number % len(waiting), place)

    def __iter__(self) -> Iterator[Layer]:
        number = 0
        for layer, streamed in zip(self._layers, self._streamed, strict=True):
            if streamed:
                place = self._places[self._turn % PLACES]
                self._bring(number, place)  # it is there, unless an error broke off the last round
                place.await_copy()
                yield replace(place.layer, norm1=layer.norm1, norm2=layer.norm2)
                self._turn += 1
                self._bring((number + PLACES) % len(self._waiting), place)
                number += 1
            else:
                yield layer

    def _bring(self, number: int, place: "_Place") -> None:
        """Begin to copy a streamed layer to a place, unless it is there."""
        if place.holds != number:
            place.holds = None  # half of this and half of that, if it fails
            place.take(self._waiting[number])
            place.holds = number

    def _moved(self, module: nn.Module, packing: Packing, device: torch.device) -> Tensor:
        """The linears of a layer in one piece of memory; the module lets go of them, so that none is held twice."""
        fast = device.type == "cuda"
        memory = pinned(packing.nbytes, device, self) if fast else torch.empty(packing.nbytes, dtype=torch.uint8)
        linears = _linears(module)
        for name, tensor in packing.within(memory).items():
            tensor.copy_(linears[name])
        module.self_attn.to("meta")
        module.gating.to("meta")
        return memory


class _Place:
    """Room on the device for the linears of one layer, which are copied there on a `stream` if it has any.

    `holds` is the number of the one that is here, or on its way.
    """

    def __init__(
        self, like: nn.Module, packing: Packing, device: torch.device, stream: "torch.cuda.Stream | None"
    ) -> None:
        self.holds: int | None = None
        self._memory = torch.empty(packing.nbytes, dtype=torch.uint8, device=device)
        module = copy.deepcopy(like)
        module.load_state_dict(packing.within(self._memory), strict=False, assign=True)
        self.layer = layer_of(module)
        self._device = device
        self._stream = stream
        self._copied: Any = torch.cuda.Event() if stream else None  # type: ignore[no-untyped-call]
        self._left: Any = torch.cuda.Event() if stream else None  # type: ignore[no-untyped-call]

    def take(self, waiting: Tensor) -> None:
        """Copy a layer here as soon as all that was computed until now, maybe with the one that is here, is done.

        In pieces: what a frame brings must not wait until a whole layer has passed.
        """
        if self._stream:
            self._left.record(torch.cuda.current_stream(self._device))
            self._left.wait(self._stream)
        with torch.cuda.stream(self._stream):
            for start in range(0, len(waiting), PIECE):
                piece = slice(start, start + PIECE)
                self._memory[piece].copy_(waiting[piece], non_blocking=True)
        if self._stream:
            self._copied.record(self._stream)

    def await_copy(self) -> None:
        """Make what is computed from now on wait until the layer is here."""
        if self._stream:
            self._copied.wait(torch.cuda.current_stream(self._device))


def _linears(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a layer's linears, by name."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("norm")}
