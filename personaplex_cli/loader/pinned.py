"""Main memory that a GPU copies from without stopping, exactly as much as is needed.

torch's own comes in powers of two, which is a third more for the layers of a large model.
"""

import mmap
import weakref
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor


def pinned(count: int, device: torch.device, owner: object) -> Tensor:
    """So many bytes [count], pinned for as long as the owner lives. Where that is refused they are torch's own."""
    memory = torch.frombuffer(mmap.mmap(-1, count), dtype=torch.uint8)  # whole pages, and no others
    try:
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        torch.cuda.check_error(runtime.cudaHostRegister(memory.data_ptr(), count, 0))
    except RuntimeError:
        with suppress(RuntimeError):  # CUDA would blame whatever is launched next for it
            torch.zeros(1, device=device)
        return torch.empty(count, dtype=torch.uint8, pin_memory=True)
    weakref.finalize(owner, _release, memory, device).atexit = False
    return memory


def _release(memory: Tensor, device: torch.device) -> None:
    """Nothing is copied any more, and the system may have its pages back."""
    torch.cuda.synchronize(device)
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    runtime.cudaHostUnregister(memory.data_ptr())
