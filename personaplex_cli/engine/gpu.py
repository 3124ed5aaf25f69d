"""Which GPU is meant. torch and Triton launch on the thread's current device, which is the first one unless told."""

from contextlib import AbstractContextManager, nullcontext

import torch


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Everything that is launched inside goes to this device, whichever thread it is.

    torch finds the device by its tensors; Triton's kernels and events do not.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def settle_on(device: torch.device) -> None:
    """Make it the device of this thread from now on, before a first call wakes up another one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
