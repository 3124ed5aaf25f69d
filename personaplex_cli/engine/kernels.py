"""Triton kernels for one vector times quantised weights: the weights are read once, as they are, and nothing is written
back but the result. Only importable where Triton is; `quantised.py` has the same in plain torch, for everywhere else.

Each program makes a few rows of the result and walks along them, adding up in float32.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 4  # of the result per program: small, so that even narrow matrices fill the device
COLUMNS = 1024  # that a program reads at once


@triton.jit
def _int8_rows(x, weight, scale, out, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row[:, None] < rows
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)[None, :]
        here = column < columns
        values = tl.load(weight + row[:, None].to(tl.int64) * columns + column, mask=inside & here, other=0)
        total += values.to(tl.float32) * tl.load(x + column, mask=here, other=0.0).to(tl.float32)
    result = tl.sum(total, axis=1) * tl.load(scale + row, mask=row < rows, other=0.0)
    tl.store(out + row, result.to(out.dtype.element_ty), mask=row < rows)


@triton.jit
def _int4_rows(
    x, weight, scale, least, out, rows, columns, GROUP: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr
):
    # A byte holds columns 2j (low) and 2j + 1 (high); a group of columns shares its scale and its least value.
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row[:, None] < rows
    start_of_row = row[:, None].to(tl.int64)
    pairs = columns // 2
    total = tl.zeros((ROWS, PAIRS), dtype=tl.float32)
    for start in range(0, pairs, PAIRS):
        pair = start + tl.arange(0, PAIRS)[None, :]
        here = pair < pairs
        both = tl.load(weight + start_of_row * pairs + pair, mask=inside & here, other=0)
        group = start_of_row * (columns // GROUP) + pair // (GROUP // 2)
        step = tl.load(scale + group, mask=inside & here, other=0.0).to(tl.float32)
        floor = tl.load(least + group, mask=inside & here, other=0.0).to(tl.float32)
        even = tl.load(x + 2 * pair, mask=here, other=0.0).to(tl.float32)
        odd = tl.load(x + 2 * pair + 1, mask=here, other=0.0).to(tl.float32)
        low, high = (both & 15).to(tl.float32), (both >> 4).to(tl.float32)
        total += (low * step + floor) * even + (high * step + floor) * odd
    tl.store(out + row, tl.sum(total, axis=1).to(out.dtype.element_ty), mask=row < rows)


def int8_times(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x [columns], int8 weight [rows, columns], float32 scale [rows] -> (weight * scale) @ x, [rows] like x."""
    rows, columns = weight.shape
    out = torch.empty(rows, dtype=x.dtype, device=x.device)
    _int8_rows[(triton.cdiv(rows, ROWS),)](x, weight, scale, out, rows, columns, ROWS, COLUMNS)
    return out


def int4_times(x: Tensor, weight: Tensor, scale: Tensor, least: Tensor) -> Tensor:
    """x [columns], weight [rows, columns / 2], scale and least [rows, groups] -> their product, [rows] like x."""
    rows, groups = scale.shape
    columns = 2 * weight.shape[1]
    out = torch.empty(rows, dtype=x.dtype, device=x.device)
    _int4_rows[(triton.cdiv(rows, ROWS),)](
        x, weight, scale, least, out, rows, columns, columns // groups, ROWS, COLUMNS // 2
    )
    return out
