"""CPU offload: the transformer's layers wait in main memory and visit the device one at a time.

Exact and slow: every frame moves every layer. It is for files on GPUs too small for the model, not for talking.
"""

import torch
from moshi.models import LMModel
from torch import nn

LAYERS = "transformer.layers."  # names in the checkpoint that begin so wait in main memory


def offload_layers(lm: LMModel, device: torch.device) -> None:
    """Make each transformer layer of `lm`, whose weights lie in main memory, fetch them to `device` while it runs."""
    for layer in lm.transformer.layers:
        _visit(layer, device)


def _visit(layer: nn.Module, device: torch.device) -> None:
    waiting = [(parameter, parameter.data) for parameter in layer.parameters()]
    # In between, every weight is one element seen many times: it has the shape, dtype and device that moshi looks at
    # when it sets up a layer's memory, and takes no room.
    absent = [torch.empty(1, dtype=data.dtype, device=device).expand(data.shape) for _, data in waiting]

    def fetch(*_: object) -> None:
        for parameter, data in waiting:
            parameter.data = data.to(device)

    def leave(*_: object) -> None:
        for (parameter, _data), stand_in in zip(waiting, absent, strict=True):
            parameter.data = stand_in

    leave()
    layer.register_forward_pre_hook(fetch)
    layer.register_forward_hook(leave)
