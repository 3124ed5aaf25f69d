"""Whether Triton kernels can be used on a device: they are tried there, against plain torch, before they are needed."""

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import torch

from personaplex_cli.engine.gpu import on_device


def why_not(device: torch.device, agree: Callable[[], bool]) -> str:
    """Why some kernels cannot be used on this device, in a few words; empty if `agree`, which tries them, says so."""
    try:
        with on_device(device), redirect_stdout(StringIO()):  # Triton prints all of what it cannot compile
            return "" if agree() else "its kernels answer wrongly"
    except ImportError:
        return "it is not installed"
    except Exception as error:  # a compiler that is missing, a driver that does not fit: Triton raises many kinds
        if "'gpu-name'" in str(error):
            return "its ptxas is older than this GPU; TRITON_PTXAS_PATH can name a newer one"
        return str(error).splitlines()[0] if str(error) else type(error).__name__
