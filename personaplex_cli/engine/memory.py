"""What memory that has run out and a device that has failed look like in torch, in words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from personaplex_cli.errors import DeviceError

# Where torch has no error of its own, but a RuntimeError: of the system, the driver, the libraries of products.
NO_MEMORY = re.compile(r"can't allocate memory|error: out of memory|_STATUS_ALLOC_FAILED|MPS backend out of memory")
FAILED = re.compile(r"\b(CUDA|HIP|cuDNN|MPS)\b[\w ]* error\b|\b(CUBLAS|CUDNN|HIPBLAS)_STATUS_", re.I)


@contextmanager
def device_errors_explained() -> Iterator[None]:
    """Turn the errors by which torch says that memory ran out, or that the device has failed, into a DeviceError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceError("The memory of this device is too small for the model.", _SMALLER) from error
    except RuntimeError as error:
        if NO_MEMORY.search(str(error)):
            raise DeviceError("This machine's memory is too small for the model.", _SMALLER) from error
        if FAILED.search(str(error)):
            why, *_ = str(error).splitlines()
            raise DeviceError(f"The GPU has failed ({why.rstrip('.')}).", _LOST) from error
        raise


_SMALLER = (
    "Close other programs that use it, try --precision int8 or int4, or --cpu-offload for recorded files. "
    "`personaplex doctor` says what fits."
)
_LOST = "Start again. If it fails again, `nvidia-smi` and the system's log may say why."
