"""What a piece of work costs, counted without doing it where it must be: memory at once, copies, kernels."""

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """`peak` is the most that what was made inside took at once."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device
        self._alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        old = {each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.device.type == self._device:
                self._count(each.untyped_storage(), old)
        return result

    def _count(self, storage: torch.UntypedStorage, old: set[int]) -> None:
        key = storage._cdata
        if key not in old and key not in self._alive:
            self._alive[key] = storage.nbytes()
            weakref.finalize(storage, self._alive.pop, key, None)
            self.peak = max(self.peak, sum(self._alive.values()))


class LargestCopy(TorchDispatchMode):
    """`nbytes` is what the largest copy moved."""

    nbytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ in ("copy_", "_to_copy", "clone"):
            self.nbytes = max(self.nbytes, args[0].nbytes)
        return function(*args, **(kwargs or {}))


class Kernels(TorchDispatchMode):
    """Counts what is really computed: operators that only look at memory differently do not count."""

    VIEWS = (
        "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze",
        "detach", "alias", "as_strided", "unbind", "split", "split_with_sizes", "chunk", "_reshape_alias",
        "lift_fresh", "empty", "view_as_complex", "view_as_real", "unfold", "narrow",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name not in self.VIEWS:
            self.counted[name] += 1
        return function(*args, **(kwargs or {}))
