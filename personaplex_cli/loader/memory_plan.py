"""What fits into a GPU: precision and context by the memory that is free, worked out before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from moshi.models import LMModel, MimiModel

from personaplex_cli.engine.quantised import why_no_kernels
from personaplex_cli.errors import DeviceError
from personaplex_cli.events import Listener, Note
from personaplex_cli.library.spec import ModelSpec
from personaplex_cli.loader.measure import bus_bandwidth
from personaplex_cli.loader.offload import PLACES
from personaplex_cli.loader.precision import EMBEDDINGS, LAYERS, Precision, precision_for
from personaplex_cli.loader.random_weights import unfilled
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS

CONTEXT_STEP = 250  # positions: 20 s
SHORTEST_CONTEXT = 1500  # positions: 2 minutes; a model that forgets sooner is no company
# For what is computed in between, the graphs and the libraries: an estimate, on the safe side.
WORKING_BYTES = 700 * 10**6
GIGABYTE = 10**9


@dataclass(frozen=True)
class Needs:
    """Bytes on the device: of everything but the layers and the context, of one layer, of one position of context."""

    base: int
    layer: int
    layers: int
    position: int

    def total(self, context: int, streamed: int = 0) -> int:
        """Bytes with a context of so many positions, and so many layers streamed."""
        places = min(PLACES, streamed)
        return self.base + (self.layers - streamed + places) * self.layer + context * self.position


@dataclass(frozen=True)
class MemoryPlan:
    """How the model is to be loaded: `streamed` of its layers wait in main memory."""

    precision: Precision
    context: int
    streamed: int = 0

    def lm_sizes(self, spec: ModelSpec) -> dict[str, Any]:
        """The language model's sizes, with the context that fits."""
        return {**spec.lm, "context": self.context}


def choose_plan(options: ModelOptions, device: torch.device, spec: ModelSpec, listen: Listener) -> MemoryPlan:
    """Precision, context and how many layers stay behind; on CUDA by the memory that is free. Loads nothing.

    Raises DeviceError if it cannot fit or is bound to be too slow, UsageError for a precision that does not exist.
    """
    first = precision_for(options.precision, device)
    context: int = spec.lm["context"]
    if device.type != "cuda":
        if options.cpu_offload:
            listen(Note(f"CPU offload changes nothing here: it is for CUDA GPUs, and this is {device.type}."))
        if first.is_quantised:
            listen(Note(f"{first.name} saves memory here but takes much more time: its kernels are for CUDA GPUs."))
        return MemoryPlan(first, context)
    free, _ = torch.cuda.mem_get_info(device)
    names = [first.name, "int8", "int4"] if options.precision == "auto" and not options.cpu_offload else [first.name]
    wanted = [precision_for(name, device) for name in names]
    modules = unfilled(spec, first.dtype)
    plan = plan_memory(free, [(each, needs(*modules, each)) for each in wanted], context, options.cpu_offload)
    listen(Note(_sentence(plan, free, context)))
    if plan.precision.is_quantised and (why := why_no_kernels()):
        listen(Note(f"Without Triton ({why}) {plan.precision.name} saves memory but takes more time than bf16."))
    if plan.streamed:
        _check_bus(needs(*modules, plan.precision).layer * plan.streamed, device, options.live, listen)
    return plan


def needs(lm: LMModel, mimi: MimiModel, precision: Precision) -> Needs:
    """What an LM (without quantised linears, perhaps on `meta`) and a Mimi need in this precision."""
    size = precision.dtype.itemsize
    layers = len(lm.transformer.layers)
    base = layer = 0
    for name, parameter in lm.named_parameters():
        module = name.removesuffix(".weight")
        kind = precision.kind(module)
        held = kind.bytes_for(*parameter.shape) if kind else parameter.numel() * size
        if LAYERS.fullmatch(module):
            layer += held
        elif not name.startswith(EMBEDDINGS):
            base += held
    base += sum(parameter.nbytes for parameter in mimi.state_dict().values()) + WORKING_BYTES
    return Needs(base, layer // layers, layers, 2 * lm.dim * layers * size)


def plan_memory(
    free: int, wanted: Sequence[tuple[Precision, Needs]], context: int, offload: bool = False
) -> MemoryPlan:
    """The first of the wanted precisions that fits into `free` bytes, with the longest context that does.

    Where there is a choice, the first one has all of the context or is not taken: memory of the talk is worth more than
    the last bits. With `offload` the first precision is taken, and as many layers streamed as must be.
    Raises DeviceError if nothing fits.
    """
    precision, need = wanted[0]
    if offload:
        for streamed in range(need.layers + 1):
            if need.total(context, streamed) <= free:
                return MemoryPlan(precision, context, streamed)
        raise _too_small(need.total(context, need.layers), free, f"{precision.name} with CPU offload", "")
    for rank, (precision, need) in enumerate(wanted):
        all_or_nothing = rank == 0 and len(wanted) > 1
        for length in [context] if all_or_nothing else _lengths(context):
            if need.total(length) <= free:
                return MemoryPlan(precision, length)
    needed = need.total(_lengths(context)[-1])
    raise _too_small(needed, free, precision.name, "Close other programs that use the GPU, or add --cpu-offload.")


def _lengths(context: int) -> list[int]:
    """The contexts that may be tried, longest first."""
    return [context, *range((context - 1) // CONTEXT_STEP * CONTEXT_STEP, SHORTEST_CONTEXT - 1, -CONTEXT_STEP)]


def _too_small(needed: int, free: int, how: str, hint: str) -> DeviceError:
    gigabytes = f"{needed / GIGABYTE:.1f} GB of the GPU's memory, and {free / GIGABYTE:.1f} GB are free"
    return DeviceError(f"The model in {how} needs {gigabytes}.", hint or "Try --precision int8 or int4.")


def _sentence(plan: MemoryPlan, free: int, context: int) -> str:
    """What was chosen."""
    what = f"Using {plan.precision.name}: {free / GIGABYTE:.1f} GB of the GPU's memory are free"
    if plan.precision.name == "int4":
        what += "; int4 is experimental, and can be heard"
    if plan.context < context:
        what += f"; the model remembers {plan.context * FRAME_SECONDS:.0f} s instead of {context * FRAME_SECONDS:.0f}"
    return f"{what}."


def _check_bus(streamed: int, device: torch.device, live: bool, listen: Listener) -> None:
    """Say what streaming these bytes in every frame costs. Raises DeviceError if that is too slow for a live talk."""
    expected = 1000 * streamed / bus_bandwidth(device)
    gigabytes = f"{streamed / GIGABYTE:.1f} GB come over the bus in every frame"
    if live and expected > FRAME_MS:
        raise DeviceError(
            f"CPU offload is too slow for talking here: {gigabytes}, about {expected:.0f} ms of the 80 there are.",
            "Use --precision int8 or int4 without --cpu-offload, `personaplex run` for files, or --force.",
        )
    listen(Note(f"CPU offload: {gigabytes}, about {expected:.0f} ms."))
