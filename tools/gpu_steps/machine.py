"""The machine: what it is, how fast its memory and its bus are, what a small kernel costs."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch.nn import functional as F

from gpu_steps.context import Context
from gpu_steps.engines import by_events, device_of, seconds_each
from personaplex_cli.engine.quantised import why_no_kernels
from personaplex_cli.files import main_memory
from personaplex_cli.loader.measure import bandwidth

PACKAGES = ("torch", "triton", "moshi", "numpy")
BYTES = 512 * 2**20  # several times any cache
CHAIN = 1000
MATRICES, WIDTH = 129, 1024  # as many as a frame's layers multiply with


def machine(context: Context) -> dict[str, Any]:
    context.tell(
        python=platform.python_version(),
        system=platform.platform(),
        cores=os.cpu_count(),
        **{"main memory GB, free and whole": [round((each or 0) / 1e9, 1) for each in main_memory()]},
        versions={name: _version(name) for name in PACKAGES},
    )
    context.attempt("nvidia-smi", lambda: context.tell(**{"nvidia-smi": _told_by_driver()}))
    context.attempt("doctor", lambda: context.tell(doctor=_doctor()))
    context.attempt("gpu", lambda: context.tell(gpu=_gpu(context)))
    context.attempt("bandwidth", lambda: context.tell(**{"GB/s": _speeds(context)}))
    return {}


def small_kernels(context: Context) -> dict[str, Any]:
    """Microseconds of kernels that do next to nothing, recorded one after the other, and launched one by one."""
    device = device_of(context)
    x = torch.zeros(WIDTH, device=device)
    chain: list[Callable[[], object]] = [lambda: x.add_(1)] * context.either(CHAIN, 50)
    context.tell(**{"x+1, us": 1e6 * seconds_each(context, chain)})
    vector = torch.ones(1, WIDTH, dtype=torch.bfloat16, device=device)
    matrices = vector.new_zeros(context.either(MATRICES, 3), WIDTH, WIDTH)
    products = [partial(F.linear, vector, each) for each in matrices]
    context.tell(**{f"matrix {WIDTH} x {WIDTH} in bf16, us": 1e6 * seconds_each(context, products)})
    began = time.perf_counter()
    for each in chain:
        each()
    launched = time.perf_counter() - began
    return {"a launch, us": 1e6 * launched / len(chain)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _told_by_driver() -> str:
    """Name, driver, clocks, power and bus of the GPUs; empty where there is no driver."""
    if not shutil.which("nvidia-smi"):
        return "not installed"
    asked = (
        "name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,"
        "temperature.gpu,pcie.link.gen.current,pcie.link.gen.max,pcie.link.width.current,persistence_mode"
    )
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv"]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout


def _doctor() -> dict[str, Any]:
    """What `personaplex doctor` finds."""
    command = [sys.executable, "-m", "personaplex_cli", "doctor", "--model", "demo", "--json"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=30).stdout)
    findings = [{name: each[name] for name in ("kind", "name", "found")} for each in report["findings"]]
    return {"verdict": report["verdict"], "findings": findings}


def _gpu(context: Context) -> dict[str, Any]:
    """What torch knows of it, and whether the quantised kernels can be used."""
    built_for = {"built for": torch.cuda.get_arch_list(), "CUDA": torch.version.cuda}
    if context.dry:
        return built_for
    device = device_of(context)
    cudnn: Any = torch.backends.cudnn
    about = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        **built_for,
        "name": about.name,
        "capability": list(torch.cuda.get_device_capability(device)),
        "processors": about.multi_processor_count,
        "L2 MB": about.L2_cache_size / 1e6,
        "GB, free and whole": [free / 1e9, total / 1e9],
        "cuDNN": cudnn.version(),
        "why no kernels": why_no_kernels(device, torch.bfloat16),
    }


def _speeds(context: Context) -> dict[str, float]:
    """Gigabytes a second: read (added up), copied, and over the bus in both directions."""
    device = device_of(context)
    count = context.either(BYTES, 2**20) // 4
    there = torch.ones(count, device=device)
    here = torch.ones(count, pin_memory=not context.dry)
    calls = {
        "read": lambda: there.sum(),
        "to the device": lambda: there.copy_(here, non_blocking=True),
        "from the device": lambda: here.copy_(there, non_blocking=True),
    }
    speeds = {}
    for name, call in calls.items():
        seconds = seconds_each(context, [call]) if context.dry else by_events(call, 10)
        speeds[name] = there.nbytes / seconds / 1e9
    return {**speeds, "read and written, by the program's own measure": bandwidth(device) / 1e9}
