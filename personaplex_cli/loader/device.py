"""Where the model runs: chosen once, with the reason."""

import re
import subprocess
from contextlib import suppress

import torch

from personaplex_cli.errors import DeviceError, UsageError
from personaplex_cli.files import main_memory

SHARED_BYTES = 10**9  # of a memory that GPU and CPU share: this program, and its tables of embeddings


def choose_device(name: str) -> tuple[torch.device, str]:
    """The device for `auto`, `cuda`, `cuda:N`, `mps` or `cpu`, and a sentence that says which and why.

    Raises UsageError for other names, DeviceError if the device is not there or this torch cannot use it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return _cuda(*_least_busy())
        if torch.backends.mps.is_available():
            return torch.device("mps"), "Running on mps: this Mac's GPU (no CUDA here)."
        return torch.device("cpu"), "Running on cpu: no GPU that PyTorch can use was found."
    if match := re.fullmatch(r"cuda(?::(\d+))?", name):
        return _cuda(int(match[1] or 0), "as asked")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("This machine has no GPU that PyTorch reaches through MPS.", "Use --device auto.")
        return torch.device("mps"), "Running on mps, as asked."
    if name == "cpu":
        return torch.device("cpu"), "Running on cpu, as asked."
    raise UsageError(f"There is no device {name!r}.", "Use auto, cuda, cuda:N, mps or cpu.")


def free_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that can be had. A GPU without memory of its own gets what the system can make free.

    There CUDA counts files that the system keeps in memory as used, such as 17 GB that were just downloaded.
    """
    free, _ = torch.cuda.mem_get_info(device)
    if getattr(torch.cuda.get_device_properties(device), "is_integrated", False):
        available, _ = main_memory()
        free = max(free, available or 0) - SHARED_BYTES
    return free


def _least_busy() -> tuple[int, str]:
    """The GPU with the most free memory, as far as its driver tells, and why it is taken.

    torch could tell, too, but would take half a gigabyte of each GPU to ask it.
    """
    count = torch.cuda.device_count()
    if count == 1:
        return 0, "the first CUDA GPU"
    free = _free_by_name()
    names = [str(getattr(torch.cuda.get_device_properties(each), "uuid", "")) for each in range(count)]
    if not all(name in free for name in names):
        return 0, f"the first of {count} CUDA GPUs"
    best = max(range(count), key=lambda each: free[names[each]])
    return best, f"of {count} CUDA GPUs the one with the most free memory"


def _free_by_name() -> dict[str, int]:
    """MiB that are free on each GPU, by its UUID; nothing where the driver does not tell."""
    query = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        lines = (line.split(",") for line in told.splitlines())
        return {name.strip().removeprefix("GPU-"): int(free) for name, free in lines}
    return {}


def _cuda(index: int, reason: str) -> tuple[torch.device, str]:
    if not torch.cuda.is_available():
        why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch sees no CUDA GPU"
        raise DeviceError(
            f"There is no CUDA device: {why}.",
            "Check `nvidia-smi` and install a CUDA build of PyTorch, or use --device cpu.",
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceError(f"There is no cuda:{index}.", f"This machine has cuda:0 to cuda:{count - 1}.")
    _check_architecture(index)
    return torch.device("cuda", index), f"Running on cuda:{index} ({torch.cuda.get_device_name(index)}): {reason}."


def _check_architecture(index: int) -> None:
    """A GPU newer or older than the installed PyTorch fails later with 'no kernel image': say so now."""
    built_for = torch.cuda.get_arch_list()
    if torch.version.hip or not built_for:  # ROCm also calls its devices cuda, with architectures of other names
        return
    major, minor = torch.cuda.get_device_capability(index)
    same_family = [arch for arch in built_for if re.fullmatch(rf"sm_{major}\d[af]?", arch)]
    compiles = any(
        arch.startswith("compute_") and int(arch[8:].rstrip("af")) <= major * 10 + minor for arch in built_for
    )
    if not same_family and not compiles:
        raise DeviceError(
            f"{torch.cuda.get_device_name(index)} (sm_{major}{minor}) is not one of the GPUs that this PyTorch "
            f"{torch.__version__} was built for ({', '.join(built_for)}).",
            "Install a PyTorch build that lists it: see https://pytorch.org/get-started/locally/.",
        )
