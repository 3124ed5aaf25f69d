"""What loading the model would meet on this machine, found out without loading anything."""

import warnings
from dataclasses import dataclass

import torch

from personaplex_cli.events import Listener
from personaplex_cli.library.spec import sizes_with
from personaplex_cli.loader.device import choose_device
from personaplex_cli.loader.load import Demand, choose
from personaplex_cli.samples import FRAME_SECONDS


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees: its name, its compute capability, and bytes of memory."""

    name: str
    capability: str
    total: int
    free: int


@dataclass(frozen=True)
class Preflight:
    """How the 7B would run: on which kind of device, in which precision, and how many seconds it would remember."""

    device: str
    precision: str
    remembers: float

    @property
    def is_quantised(self) -> bool:
        return self.precision in ("int8", "int4")


def built_for() -> str:
    """What this torch can compute on, such as "CUDA 12.8"."""
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"


def gpus() -> tuple[list[Gpu], list[str]]:
    """The GPUs that torch reaches by CUDA or ROCm, and what it says meanwhile, such as that the driver is too old."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [_gpu(index) for index in range(count)], [str(each.message).splitlines()[0] for each in said]


def _gpu(index: int) -> Gpu:
    about = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return Gpu(about.name, f"{about.major}.{about.minor}", total, free)


def outlook(device: str, precision: str, listen: Listener) -> Preflight:
    """What `load_engine` would choose for the 7B. Raises DeviceError or UsageError like it, and tells the same."""
    where, _ = choose_device(device)
    fit = choose(Demand(device, precision), where, sizes_with({}), listen)
    return Preflight(where.type, fit.precision.name, fit.context * FRAME_SECONDS)
