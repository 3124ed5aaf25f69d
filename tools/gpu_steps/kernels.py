"""Every matrix of the model, alone: how exact its product is, and what share of the memory's bandwidth it reaches."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpu_steps.context import Context
from gpu_steps.engines import device_of, let_go, seconds_each, spec_of
from personaplex_cli.engine.quantised import GROUP, Int4Linear, Int8Linear, Quantised, filled, why_no_kernels
from personaplex_cli.loader.checkpoint import unfilled_lm
from personaplex_cli.loader.load import keep_exact
from personaplex_cli.loader.measure import bandwidth
from personaplex_cli.loader.precision import DEPFORMER, LAYERS

VECTORS = (1, 2, 4, 8, 16)
COLD_BYTES = 256 * 2**20  # of weights in turn: more than any cache holds
SECONDS_EACH = 3.0  # that a shape may need

Product = Callable[[Tensor], Tensor]


def kernels(context: Context) -> dict[str, Any]:
    """Microseconds, gigabytes of weights a second, and the error as a share of the largest number that is right."""
    device = device_of(context)
    keep_exact()
    speed = bandwidth(device) / 1e9
    if context.dry:
        os.environ["TRITON_INTERPRET"] = "1"  # before it is imported: its interpreter runs kernels on the CPU
    no_kernels = "" if context.dry else why_no_kernels(device, torch.bfloat16)
    context.tell(**{"GB/s of the memory": speed, "why no kernels": no_kernels})
    rows: list[dict[str, Any]] = []
    for (count, columns), kinds in _shapes(context).items():
        if context.seconds_left < SECONDS_EACH:
            context.tell(**{"not reached": f"{count} x {columns} and what follows"})
            break
        for kind in kinds:
            name = f"{count} x {columns} {kind.__name__ if kind else 'bf16'}"
            found = context.attempt(name, partial(_measured, context, count, columns, kind, not no_kernels, speed))
            rows += found or []
            context.tell(products=rows)
            let_go()
    return {}


def _shapes(context: Context) -> dict[tuple[int, int], list[Quantised | None]]:
    """The shapes of all linears of the language model, the largest first, each with how it may be held.

    In a dry run the two smallest that may be held in every way: Triton's interpreter takes its time.
    """
    lm = unfilled_lm(spec_of(context).lm, torch.bfloat16)
    found: dict[tuple[int, int], list[Quantised | None]] = {}
    for name, module in lm.named_modules():
        if isinstance(module, nn.Linear):
            kinds = found.setdefault((module.out_features, module.in_features), [None])
            is_layer = bool(LAYERS.fullmatch(name))
            kinds += [Int8Linear] if (is_layer or DEPFORMER.fullmatch(name)) and Int8Linear not in kinds else []
            kinds += [Int4Linear] if is_layer and Int4Linear not in kinds else []
    shapes = sorted(found, key=lambda shape: -shape[0] * shape[1])
    varied = sorted(shapes, key=lambda shape: (-len(found[shape]), shape[0] * shape[1]))
    return {shape: found[shape] for shape in context.either(shapes, varied[:2])}


def _measured(
    context: Context, rows: int, columns: int, kind: Quantised | None, has_kernel: bool, speed: float
) -> list[dict[str, Any]]:
    """A row for each number of vectors and each way to the product."""
    device = device_of(context)
    weight = (torch.randn(rows, columns, device=device) * columns**-0.5).bfloat16()
    module = filled(kind, weight) if kind else None
    held = sum(each.nbytes for each in module.buffers()) if module else weight.nbytes
    copies = context.either(max(2, -(-COLD_BYTES // held)), 1)
    ways: dict[str, list[Product]] = {}
    if module and kind:
        modules = [module, *(filled(kind, weight) for _ in range(copies - 1))]
        ways["plain"] = [each.plain for each in modules]
        if has_kernel and columns % GROUP == 0:
            ways["kernel"] = [each.with_kernel for each in modules]
        exact = module.unpacked(torch.float32).double()
    else:
        ways["F.linear"] = [partial(F.linear, weight=weight.clone()) for _ in range(copies)]
        exact = weight.double()
    found, counts = [], context.either(VECTORS, (2,))
    for way, products in ways.items():
        # Unpacking takes as long for one vector as for many.
        for vectors in counts if way != "plain" else (1, counts[-1]):
            x = torch.randn(vectors, columns, device=device).bfloat16()
            right = x.double() @ exact.T
            off = (products[0](x).double() - right).abs().max() / right.abs().max()
            seconds = seconds_each(context, [partial(each, x) for each in products])
            gigabytes = held / seconds / 1e9
            found.append(
                {
                    "rows": rows,
                    "columns": columns,
                    "held as": kind.__name__ if kind else "bf16",
                    "way": way,
                    "vectors": vectors,
                    "us": round(1e6 * seconds, 2),
                    "GB/s": round(gigabytes, 1),
                    "of bandwidth": round(gigabytes / speed, 3),
                    "error": f"{float(off):.1e}",
                }
            )
    return found
