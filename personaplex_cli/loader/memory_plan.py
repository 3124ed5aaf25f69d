"""What fits into a GPU: precision and context by the memory that is free, worked out before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from personaplex_cli.engine.quantised import why_no_kernels
from personaplex_cli.engine.steps import why_plain
from personaplex_cli.errors import DeviceError
from personaplex_cli.events import Listener, Note
from personaplex_cli.files import GIGABYTE, main_memory
from personaplex_cli.library.spec import ModelSpec
from personaplex_cli.loader.checkpoint import unfilled_lm, unfilled_mimi
from personaplex_cli.loader.device import free_memory
from personaplex_cli.loader.measure import bandwidth, bus_bandwidth, bytes_of
from personaplex_cli.loader.offload import PLACES
from personaplex_cli.loader.precision import EMBEDDINGS, LAYERS, Precision, precision_for, quantise, remedy_for
from personaplex_cli.options import MAX_SLOTS, LiveModelOptions, ModelOptions
from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS

CONTEXT_STEP = 250  # positions: 20 s
SHORTEST_CONTEXT = 1500  # positions: 2 minutes; a model that forgets sooner is no company
# Beside what the model holds. What is computed in between is counted in the tests; the rest are estimates.
TEMPORARY_BYTES = 200 * 10**6  # packing a weight, reading a prompt: the larger of the two
LIBRARY_BYTES = 250 * 10**6  # code of kernels, which CUDA loads as they are first used
WORKSPACE_BYTES = 2 * 32 * 2**20  # cuBLAS keeps one for each stream: frames are run on one, recorded on another
RECORDING_BYTES = 100 * 10**6  # what frames compute in between, which recordings keep
SLOT_BYTES = 40 * 10**6  # of each conversation: what Mimi remembers, and what is computed for it in between
SCATTERED_BYTES = 83 * 10**6  # free, but in pieces that are too small
WORKING_BYTES = TEMPORARY_BYTES + LIBRARY_BYTES + WORKSPACE_BYTES + RECORDING_BYTES + SCATTERED_BYTES
# A frame of 80 ms in which no more than this is computed leaves room for a system that does something else, too.
UNHURRIED_MS = 50
MAX_STEP_MS = 40  # with many conversations: each waits for the step that runs, so an answer takes up to two
OTHER_MS = 8  # of a frame, beside reading the weights: small kernels and Mimi, an estimate
SMALL_BYTES = 2 * GIGABYTE  # any memory is fast enough for that
SHARE = 0.75  # of all memory, where the system does not say what is free: what macOS lets a GPU use
INSTEAD = "a GPU elsewhere (`personaplex chat --server HOST`), or try the program with --model demo"


@dataclass(frozen=True)
class Needs:
    """Bytes on the device: of everything but the layers and the conversations, of one layer, and of each conversation:
    of one position of its context, and beside that."""

    base: int
    layer: int
    layers: int
    position: int
    slot: int = 0

    def total(self, context: int, streamed: int = 0, slots: int = 1) -> int:
        """Bytes with so many layers streamed and so many conversations, each with a context of so many positions."""
        places = min(PLACES, streamed)
        return (
            self.base + (self.layers - streamed + places) * self.layer + slots * (context * self.position + self.slot)
        )

    def slots(self, free: int, context: int) -> int:
        """How many conversations have room in so many bytes; 0 if not even one."""
        return max(0, (free - self.total(0, slots=0)) // (context * self.position + self.slot))


@dataclass(frozen=True)
class MemoryPlan:
    """How the model is to be loaded: `streamed` of its layers wait in main memory, `slots` talk at once."""

    precision: Precision
    context: int
    streamed: int = 0
    slots: int = 1


def choose_plan(
    options: ModelOptions, device: torch.device, spec: ModelSpec, listen: Listener, slots: int | None = 1
) -> MemoryPlan:
    """Precision, context, how many layers stay behind; on CUDA by the memory that is free. Loads nothing.

    `slots` is how many conversations there will be at once; None: as many as there is room for and time.
    Raises DeviceError if it cannot fit or will be too slow, UsageError for a precision that does not exist.
    """
    first = precision_for(options.precision, device)
    context: int = spec.lm["context"]
    if device.type != "cuda":
        if options.cpu_offload:
            listen(Note(f"CPU offload changes nothing here: it is for CUDA GPUs, and this is {device.type}."))
        if first.is_quantised:
            listen(Note(f"{first.name} saves memory here but takes much more time: its kernels are for CUDA GPUs."))
        need = needs(spec, first)
        slots = slots or _slots_in_time(need, context, _free_main_memory(), device)
        _check_main_memory(need.total(context, slots=slots), first, options)
        _check_main_memory_is_fast(need.total(context) - WORKING_BYTES, device, options, listen)
        return MemoryPlan(first, context, slots=slots)
    free = free_memory(device)
    names = [first.name, "int8", "int4"] if options.precision == "auto" and not options.cpu_offload else [first.name]
    wanted = [(each, needs(spec, each)) for each in (precision_for(name, device) for name in names)]
    try:
        plan = plan_memory(free, wanted, context, options.cpu_offload, slots or 1)
    except DeviceError as error:
        if fitting := _fitting(spec, first, free, slots or 1, device):
            hint = f"Use --precision {fitting}, which fits, or close other programs that use the GPU."
            raise DeviceError(str(error), hint) from error
        raise
    listen(Note(_sentence(plan, free, context)))
    if (
        len(wanted) > 1
        and not plan.precision.is_quantised
        and (slow := _too_slow(wanted[0][1], context, first, device))
    ):
        plan = plan_memory(free, wanted[1:2], context, slots=slots or 1)
        listen(Note(f"Using {plan.precision.name} after all: {slow}."))
    if plan.precision.is_quantised and (why := why_no_kernels(device, plan.precision.dtype)):
        _without_kernels(plan.precision, why, options.force, listen)
    elif why := why_plain(device, plan.precision.dtype):
        listen(Note(f"Without Triton ({why}) a frame takes longer than it could."))
    if plan.streamed:
        _check_bus(needs(spec, plan.precision).layer * plan.streamed, device, not options.force, listen)
    if slots is None:
        plan = replace(plan, slots=_slots_in_time(dict(wanted)[plan.precision], plan.context, free, device))
    return plan


def _fitting(spec: ModelSpec, but: Precision, free: int, slots: int, device: torch.device) -> str:
    """The name of another precision in which the model has room, at least with a short context; or nothing."""
    for name in ("int8", "int4"):
        need = needs(spec, precision_for(name, device)).total(min(SHORTEST_CONTEXT, spec.lm["context"]), slots=slots)
        if name != but.name and need <= free:
            return name
    return ""


def _slots_in_time(need: Needs, context: int, free: int | None, device: torch.device) -> int:
    """How many conversations there is room for, and time: a step with full contexts takes no longer than it should."""
    room = MAX_SLOTS if free is None else min(MAX_SLOTS, need.slots(free, context))
    speed = bandwidth(device)
    in_time = (each for each in range(room, 1, -1) if _step_ms(need.total(context, slots=each), speed) <= MAX_STEP_MS)
    return next(in_time, 1)


def _step_ms(held: int, speed: float) -> float:
    """What a frame will take that reads nearly all that is held, at so many bytes a second."""
    return 1000 * (held - WORKING_BYTES) / speed + OTHER_MS


def _without_kernels(precision: Precision, why: str, force: bool, listen: Listener) -> None:
    """Every frame unpacks all weights: say so. Raises DeviceError where that is several times too slow to talk."""
    remedy = remedy_for(why)
    if precision.name == "int4" and not force:
        hint = f"{remedy} Or use --precision int8 where it fits, {INSTEAD}, or --force."
        raise DeviceError(f"int4 is far too slow to talk without Triton ({why}).", hint)
    listen(Note(f"Without Triton ({why}) {precision.name} saves memory but takes more time than bf16. {remedy}"))


def _too_slow(need: Needs, context: int, precision: Precision, device: torch.device) -> str:
    """Whether a frame would take most of its time only to read memory, and int8 would be quicker; says so."""
    expected = _step_ms(need.total(context), bandwidth(device))
    if expected <= UNHURRIED_MS or why_no_kernels(device, precision.dtype):
        return ""
    return f"with {precision.name} a frame would take about {expected:.0f} of the {FRAME_MS:.0f} ms there are"


def needs(spec: ModelSpec, precision: Precision) -> Needs:
    """What a model needs in this precision."""
    lm = quantise(unfilled_lm(spec.lm, precision.dtype), precision)
    layers, held = len(lm.transformer.layers), lm.state_dict()
    layer = sum(tensor.nbytes for name, tensor in held.items() if LAYERS.fullmatch(name.rpartition(".")[0]))
    embeddings = sum(tensor.nbytes for name, tensor in held.items() if name.startswith(EMBEDDINGS))
    base = bytes_of(lm) - layer - embeddings + bytes_of(unfilled_mimi(spec)) + WORKING_BYTES
    return Needs(base, layer // layers, layers, 2 * lm.dim * layers * precision.dtype.itemsize, SLOT_BYTES)


def plan_memory(
    free: int, wanted: Sequence[tuple[Precision, Needs]], context: int, offload: bool = False, slots: int = 1
) -> MemoryPlan:
    """The first of the wanted precisions that fits into `free` bytes, with the longest context that does.

    Where there is a choice, the first one has all of the context or is not taken: remembering the conversation is worth
    more than the last bits. With `offload` the context is whole, and as many layers are streamed as must be.
    Raises DeviceError if nothing fits.
    """
    shorter = range((context - 1) // CONTEXT_STEP * CONTEXT_STEP, SHORTEST_CONTEXT - 1, -CONTEXT_STEP)
    for rank, (precision, need) in enumerate(wanted):
        plans = [MemoryPlan(precision, context, 0, slots)]
        if offload:
            plans += [MemoryPlan(precision, context, streamed, slots) for streamed in range(1, need.layers + 1)]
        elif rank > 0 or len(wanted) == 1:
            plans += [MemoryPlan(precision, length, 0, slots) for length in shorter]
        for plan in plans:
            needed = need.total(plan.context, plan.streamed, slots)
            if needed <= free:
                return plan
    how, hint = precision.name, "Close other programs that use the GPU, or add --cpu-offload."
    if offload:
        how, hint = f"{precision.name} with CPU offload", "Try --precision int8 or int4."
    if slots > 1:
        how, hint = f"{how} for {slots} conversations at once", "Give a smaller --batch-size, or auto for what fits."
    gigabytes = f"{needed / GIGABYTE:.1f} GB of the GPU's memory, and {free / GIGABYTE:.1f} GB are free"
    raise DeviceError(f"The model in {how} needs {gigabytes}.", hint)


def _free_main_memory() -> int | None:
    """Bytes of main memory that a model may take; None if the system does not say."""
    free, total = main_memory()
    return int(SHARE * total) if free is None and total is not None else free


def _check_main_memory(needed: int, precision: Precision, options: ModelOptions) -> None:
    """Whether a CPU or a Mac has the memory for so many bytes. Raises DeviceError if not."""
    if needed < SMALL_BYTES:
        return
    live = isinstance(options, LiveModelOptions)
    free = _free_main_memory()
    if free is not None and needed > free and not (live and options.force):
        size = f"{needed / GIGABYTE:.1f} GB of main memory, and {free / GIGABYTE:.1f} GB are free"
        hint = f"Use {INSTEAD}, or insist with --force."
        if not live:
            hint = f"Use {INSTEAD}" + ("; or --precision bf16, which takes half." if precision.name == "fp32" else ".")
        raise DeviceError(f"The model in {precision.name} needs {size}.", hint)


def _check_main_memory_is_fast(read: int, device: torch.device, options: ModelOptions, listen: Listener) -> None:
    """Whether a CPU or a Mac can read so many bytes in every frame.

    Raises DeviceError if not; where that does not matter, for recordings and with --force, it is noted.
    """
    if read < SMALL_BYTES:
        return
    expected = 1000 * read / bandwidth(device)
    if expected > FRAME_MS:
        which = "This Mac is" if device.type == "mps" else "A CPU such as this is"
        why = f"{read / GIGABYTE:.0f} GB are read for each frame of 80 ms, in {expected:.0f} ms at best"
        if not options.force:
            raise DeviceError(f"{which} too slow to talk: {why}.", f"Use {INSTEAD}, or insist with --force.")
        longer = f"an answer takes {expected / FRAME_MS:.0f} times as long as its recording, or more"
        listen(Note(f"{which} slow: {why}; {longer}."))


def _sentence(plan: MemoryPlan, free: int, context: int) -> str:
    """What was chosen."""
    what = f"Using {plan.precision.name}: {free / GIGABYTE:.1f} GB of the GPU's memory are free"
    if plan.precision.name == "int4":
        what += "; int4 is experimental, with an audible loss"
    if plan.context < context:
        what += f"; the model remembers {plan.context * FRAME_SECONDS:.0f} s instead of {context * FRAME_SECONDS:.0f}"
    return f"{what}."


def _check_bus(streamed: int, device: torch.device, live: bool, listen: Listener) -> None:
    """Say what streaming these bytes in every frame costs. Raises DeviceError if that is too slow to talk live."""
    expected = 1000 * streamed / bus_bandwidth(device)
    gigabytes = f"{streamed / GIGABYTE:.1f} GB come over the bus in every frame"
    if live and expected > FRAME_MS:
        raise DeviceError(
            f"CPU offload is too slow for talking here: {gigabytes}, about {expected:.0f} ms of 80.",
            "Use --precision int8 or int4 without --cpu-offload, `personaplex run` for files, or --force.",
        )
    listen(Note(f"CPU offload: {gigabytes}, about {expected:.0f} ms."))
