"""What memory that has run out looks like in torch, in words."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from personaplex_cli.errors import DeviceError


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Turn the errors by which torch says that memory ran out into a DeviceError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceError("The memory of this device is too small for the model.", _SMALLER) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise DeviceError("This machine's memory is too small for the model.", _SMALLER) from error


_SMALLER = "Close other programs that use it, try --precision int8, or --cpu-offload for recorded files."
