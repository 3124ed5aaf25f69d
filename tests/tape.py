"""CUDA graphs without CUDA: the same operators on the same tensors, again.

What a CUDA graph does to a part of a frame, this does on the CPU: Python runs once, and from then on only the recorded
operators run, on the memory they had. So a part that depends on anything that Python would decide anew, or that asks
the device for a value, fails here as it would there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ASKING = {"item", "_local_scalar_dense", "is_nonzero", "equal", "nonzero"}
BRINGING = {"lift_fresh"}  # a constant from the host, such as torch.tensor(2.0): copying it cannot be recorded


def storages(values: Any) -> set[int]:
    return {each.untyped_storage()._cdata for each in tree_leaves(values) if isinstance(each, Tensor)}


class Tape(TorchDispatchMode):
    """Records operators; `replay` runs them again."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Callable[..., Any], Any, Any, list[tuple[int, Tensor]]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function.overloadpacket.__name__ not in ASKING, f"{function} asks the device for a value"
        assert function.overloadpacket.__name__ not in BRINGING, f"{function} brings the device a value"
        kwargs = kwargs or {}
        before = storages((args, kwargs))
        result = function(*args, **kwargs)
        made = [
            (index, each)
            for index, each in enumerate(tree_leaves(result))
            if isinstance(each, Tensor) and each.untyped_storage()._cdata not in before
        ]
        if made or not isinstance(result, Tensor) or function._schema.is_mutable:
            self._calls.append((function, args, kwargs, made))
        return result

    def replay(self) -> None:
        with torch.inference_mode():
            for function, args, kwargs, made in self._calls:
                again = tree_leaves(function(*args, **kwargs))
                for index, tensor in made:
                    tensor.copy_(again[index])


def record(part: Callable[[], None]) -> Tape:
    """A `Recorder` for the CPU."""
    part()
    with Tape() as tape:
        part()
    return tape
