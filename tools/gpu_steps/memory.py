"""What fits: smaller cards than there are, and layers that wait in main memory."""

import resource
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from gpu_steps.context import Context, Skipped
from gpu_steps.engines import (
    KIND,
    Talk,
    begin,
    device_of,
    engine_of,
    let_go,
    noting,
    percentiles,
    someone,
    spec_of,
    talk,
)
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.errors import DeviceError
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.loader.memory_plan import WORKING_BYTES, needs, plan_memory
from personaplex_cli.loader.precision import Precision, precision_for


def card(context: Context, gigabytes: int) -> dict[str, Any]:
    """A GPU of so many GiB: what the program chooses for it, and whether that is enough.

    torch is allowed no more, and the program sees no more free. What remains real: CUDA's own memory, pieces too small.
    """
    if context.dry:
        context.tell(planned=_planned(gigabytes * 2**30))
        return _talks(context, engine_of(context, "int8"))
    device = device_of(context)
    torch.zeros(1, device=device)  # CUDA takes its own
    free, total = torch.cuda.mem_get_info(device)
    size = gigabytes * 2**30
    if total < size:
        raise Skipped(f"this GPU has {total / 2**30:.0f} GiB")
    taken = total - free
    torch.cuda.set_per_process_memory_fraction((size - taken) / total, device)
    real = torch.cuda.mem_get_info
    notes: list[str] = []

    def smaller(where: Any = None) -> tuple[int, int]:
        free_now, _ = real(device)
        return max(0, size - (total - free_now)), size

    context.tell(**{"taken by CUDA, MB": taken // 10**6})
    try:
        with patch.object(torch.cuda, "mem_get_info", smaller):
            engine = engine_of(context, "auto", listen=noting(notes))
            context.tell(precision=engine.model.precision, context=engine.context)
            try:
                return _talks(context, engine)
            finally:
                context.tell(**_peaks(engine, total - real(device)[0] - taken))
    finally:
        context.tell(notes=notes)


def _planned(free: int) -> str:
    """What the program would choose for the real model."""
    precisions = [Precision(name, torch.bfloat16) for name in ("bf16", "int8", "int4")]
    wanted = [(each, needs(PERSONAPLEX, each)) for each in precisions]
    try:
        plan = plan_memory(free, wanted, PERSONAPLEX.lm["context"])
    except DeviceError as error:
        return str(error)
    return f"{plan.precision.name}, {plan.context} positions"


def _talks(context: Context, engine: LocalEngine) -> dict[str, Any]:
    engine.warm_up(KIND)
    rows = []
    for positions in context.either((90, 500), (90, 120)):
        read = begin(engine, someone(positions))
        held = talk(engine, context.either(50, 3))
        rows.append({"prompt": read, "frames": len(held.walls), **percentiles(held.walls)})
        context.tell(talks=rows)
    return {"recordings": len(engine.pipeline.recordings)}


def _peaks(engine: LocalEngine, used: int) -> dict[str, Any]:
    """Megabytes, of the bytes that are `used` since CUDA took its own.

    `working` is what was needed beside the model, which the program takes for `working, planned`.
    """
    need = needs(engine.model.spec, precision_for(engine.model.precision, engine.device))
    model = need.total(engine.context) - WORKING_BYTES
    peak = torch.cuda.max_memory_reserved(engine.device)
    rest = used - torch.cuda.memory_reserved(engine.device)  # the code of kernels, recordings
    found = {"reserved": peak, "beside torch": rest, "working": peak + rest - model, "working, planned": WORKING_BYTES}
    return {f"{name}, MB": each // 10**6 for name, each in found.items()}


def offload(context: Context) -> dict[str, Any]:
    """The same talk with no layer, a few and many in main memory: the same tokens, and how much later."""
    resident: Talk | None = None
    rows: list[dict[str, Any]] = []
    for streamed in context.either((0, 4, 16), (0, 1, 2)):
        if context.seconds_left < context.either(15, 1):
            context.tell(**{"not reached": f"{streamed} layers"})
            break
        held = context.attempt(f"{streamed} layers", partial(_with_streamed, context, streamed))
        let_go()
        if held is None:
            continue
        resident = resident or held
        rows.append(
            {
                "layers in main memory": streamed,
                "equal tokens": held.tokens == resident.tokens,
                **percentiles(held.walls),
                "peak of main memory, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            }
        )
        context.tell(offload=rows)
    return {"equal": all(row["equal tokens"] for row in rows), "of layers": spec_of(context).lm["num_layers"]}


def _with_streamed(context: Context, streamed: int) -> Talk:
    engine = engine_of(context, "int8", streamed=streamed)
    engine.warm_up(KIND)
    begin(engine)
    return talk(engine, context.either(30, 4))
