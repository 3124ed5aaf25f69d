"""Triton kernels for few vectors times quantised weights: these are read as they are, and only the result is written.
Only importable where Triton is; `quantised.py` has the same in plain torch, for everywhere else.

One vector: a program makes four rows of the result, and adds up in float32. Its threads walk along the rows together:
each takes a *unit* of 16 bytes, one load, of all four rows, so that what it does to x serves four times. Tensors in a
program are [units, 16]; all of them, x too, have that shape, or Triton would carry one from thread to thread through
shared memory, in every round.

Whole numbers become floats without the conversion instruction, which has a quarter of the usual rate or less: shifted
by 15 bits and added to the bits of 1.5, a signed byte w is the float 1.5 + w / 256, exactly. What is too much in the
sum is 1.5 times the sum of x, the same for all rows.

Several vectors: a program makes a tile of the result, 32 rows for 16 vectors, on the tensor cores, which also add up in
float32. The weights are loaded once for all 16; so many vectors cost nearly what one costs.

Columns are a multiple of 64. `tests/engine/test_kernels_compile.py` holds what compilers make of all this.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"

import triton
import triton.language as tl
from torch import Tensor

ROWS = 4  # of the result per program: few, so that even narrow matrices fill the device
WIDE = 4096  # columns that keep four warps busy; narrower matrices have two
VECTORS, TILE_ROWS, TILE_COLUMNS = 16, 32, 256  # of a tile


@triton.jit
def _int8_row(weight, row, rows, columns, column, here, x):
    """The sum of (1.5 + weight / 256) * x over the columns of each unit: [units]. Past the last row, that row's."""
    start = tl.minimum(row, rows - 1).to(tl.int64) * columns
    value = tl.load(weight + start + column, mask=here, other=0).to(tl.int32)
    return tl.sum(((value << 15) + 0x3FC00000).to(tl.float32, bitcast=True) * x, axis=1)


@triton.jit
def _int4_row(weight, scale, least, row, rows, groups, unit, byte, here, low_x, high_x, low_sum, x_sum):
    """The sum of weight * x over the 32 columns of each unit: [units]. Past the last row, that row's.

    A byte is low + 16 * high - 128. The trick above makes it the float `both`, 1 + (low + 16 * high) / 256; with four
    of its bits cleared that is 1 + low / 256. `high_x` is x at the high columns and `low_x` 16 times x at the low ones,
    less `high_x`: then the products add up to 1/16 of the wanted sum, and `low_sum`, 16 times x at the low columns.
    """
    row = tl.minimum(row, rows - 1).to(tl.int64)
    both = (tl.load(weight + row * groups * 32 + byte, mask=here, other=0).to(tl.int32) << 15) + 0x3FC00000
    low = (both & 0x3F87FFFF).to(tl.float32, bitcast=True)
    total = tl.sum(low * low_x, axis=1) + tl.sum(both.to(tl.float32, bitcast=True) * high_x, axis=1)
    group = row * groups + unit // 2
    step = tl.load(scale + group, mask=unit < groups * 2, other=0.0).to(tl.float32)
    floor = tl.load(least + group, mask=unit < groups * 2, other=0.0).to(tl.float32)
    return step * 16 * (total - low_sum) + floor * x_sum


@triton.jit
def _sums(first, second, third, fourth):
    """Four tensors [units] -> their sums [2, 2], in one exchange between threads. `_rows` has that order."""
    return tl.sum(tl.join(tl.join(first, second), tl.join(third, fourth)), axis=0)


@triton.jit
def _rows(first):
    return first + tl.arange(0, 2)[:, None] + 2 * tl.arange(0, 2)[None, :]


@triton.jit
def _int8_rows(x, weight, scale, out, rows, columns, UNITS: tl.constexpr):
    first = tl.program_id(1) * 4
    x += tl.program_id(0) * columns
    inside = tl.arange(0, UNITS)[:, None] * 16 + tl.arange(0, 16)[None, :]
    excess = tl.zeros((UNITS,), dtype=tl.float32)
    total0, total1, total2, total3 = excess, excess, excess, excess
    for start in range(0, columns, UNITS * 16):
        column = start + inside
        here = column < columns
        value = tl.load(x + column, mask=here, other=0.0).to(tl.float32)
        excess += tl.sum(value, axis=1)
        total0 += _int8_row(weight, first, rows, columns, column, here, value)
        total1 += _int8_row(weight, first + 1, rows, columns, column, here, value)
        total2 += _int8_row(weight, first + 2, rows, columns, column, here, value)
        total3 += _int8_row(weight, first + 3, rows, columns, column, here, value)
    excess *= 1.5
    row = _rows(first)
    total = _sums(total0 - excess, total1 - excess, total2 - excess, total3 - excess)
    result = total * 256 * tl.load(scale + row, mask=row < rows, other=0.0)
    tl.store(out + tl.program_id(0) * rows + row, result.to(out.dtype.element_ty), mask=row < rows)


@triton.jit
def _int4_rows(x, weight, scale, least, out, rows, groups, UNITS: tl.constexpr):
    first = tl.program_id(1) * 4
    x += tl.program_id(0) * groups * 64
    total0 = tl.zeros((UNITS,), dtype=tl.float32)
    total1, total2, total3 = total0, total0, total0
    for start in range(0, groups * 2, UNITS):
        unit = start + tl.arange(0, UNITS)
        byte = unit[:, None] * 16 + tl.arange(0, 16)[None, :]
        here = byte < groups * 32
        # A unit's first 16 columns are in the low halves of its bytes, the next 16 in the high ones.
        column = byte + unit[:, None] * 16
        low = tl.load(x + column, mask=here, other=0.0).to(tl.float32)
        high = tl.load(x + column + 16, mask=here, other=0.0).to(tl.float32)
        sum_, low_sum = tl.sum(low, axis=1) + tl.sum(high, axis=1), tl.sum(low, axis=1) * 16
        low = low * 16 - high
        total0 += _int4_row(weight, scale, least, first, rows, groups, unit, byte, here, low, high, low_sum, sum_)
        total1 += _int4_row(weight, scale, least, first + 1, rows, groups, unit, byte, here, low, high, low_sum, sum_)
        total2 += _int4_row(weight, scale, least, first + 2, rows, groups, unit, byte, here, low, high, low_sum, sum_)
        total3 += _int4_row(weight, scale, least, first + 3, rows, groups, unit, byte, here, low, high, low_sum, sum_)
    row = _rows(first)
    result = _sums(total0, total1, total2, total3)
    tl.store(out + tl.program_id(0) * rows + row, result.to(out.dtype.element_ty), mask=row < rows)


@triton.jit
def _int8_tiles(
    x, weight, scale, out, vectors, rows, columns, VECTORS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """A tile of the result. The columns of a round are `COLUMNS`, so many that enough of them are on their way."""
    vector, row = tl.program_id(0) * VECTORS + tl.arange(0, VECTORS), tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_vector = (vector < vectors)[None, :]
    weight += tl.minimum(row, rows - 1)[:, None].to(tl.int64) * columns
    x += vector[None, :] * columns
    total = tl.zeros((ROWS, VECTORS), dtype=tl.float32)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        value = tl.load(weight + column[None, :], mask=column[None, :] < columns, other=0).to(x.dtype.element_ty)
        factor = tl.load(x + column[:, None], mask=is_vector & (column[:, None] < columns), other=0.0)
        total = tl.dot(value, factor, total)
    total *= tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
    at = out + vector[None, :] * rows + row[:, None]
    tl.store(at, total.to(out.dtype.element_ty), mask=is_vector & (row < rows)[:, None])


@triton.jit
def _int4_tiles(
    x, weight, scale, least, out, vectors, rows, groups,
    VECTORS: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """The same for int4, whose weights are rounded to x's dtype, as they are when they are unpacked."""
    vector, row = tl.program_id(0) * VECTORS + tl.arange(0, VECTORS), tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_vector = (vector < vectors)[None, :]
    first_group = tl.minimum(row, rows - 1)[:, None].to(tl.int64) * groups
    x += vector[None, :] * groups * 64
    total = tl.zeros((ROWS, VECTORS), dtype=tl.float32)
    for start in range(0, groups * 2, UNITS):
        unit = start + tl.arange(0, UNITS)[None, :]
        here = unit < groups * 2
        step = tl.load(scale + first_group + unit // 2, mask=here, other=0.0).to(tl.float32)[:, :, None]
        floor = tl.load(least + first_group + unit // 2, mask=here, other=0.0).to(tl.float32)[:, :, None]
        byte = (first_group * 32 + unit * 16)[:, :, None] + tl.arange(0, 16)[None, None, :]
        both = (tl.load(weight + byte, mask=here[:, :, None], other=0).to(tl.int32) << 15) + 0x3FC00000
        # 1 + low / 256 and 1 + high / 16, by the trick of `_int4_row`.
        low = (both & 0x3F87FFFF).to(tl.float32, bitcast=True) * (256 * step) + (floor - 256 * step)
        high = (both & 0x3FF87FFF).to(tl.float32, bitcast=True) * (16 * step) + (floor - 16 * step)
        inside = tl.arange(0, UNITS * 16)[:, None]
        column = start * 32 + inside + inside // 16 * 16
        here = is_vector & (column < groups * 64)
        factor = tl.load(x + column, mask=here, other=0.0)
        total = tl.dot(tl.reshape(low.to(x.dtype.element_ty), (ROWS, UNITS * 16)), factor, total)
        factor = tl.load(x + column + 16, mask=here, other=0.0)
        total = tl.dot(tl.reshape(high.to(x.dtype.element_ty), (ROWS, UNITS * 16)), factor, total)
    at = out + vector[None, :] * rows + row[:, None]
    tl.store(at, total.to(out.dtype.element_ty), mask=is_vector & (row < rows)[:, None])


def int8_times(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x [vectors, columns], int8 weight [rows, columns], float32 scale [rows] -> [vectors, rows] like x."""
    rows, columns = weight.shape
    out = x.new_empty(len(x), rows)
    warps = _warps(columns)
    _int8_rows[_grid(out, 1, ROWS)](x, weight, scale, out, rows, columns, UNITS=32 * warps, num_warps=warps)
    return out


def int4_times(x: Tensor, weight: Tensor, scale: Tensor, least: Tensor) -> Tensor:
    """x [vectors, columns], weight [rows, columns / 2], scale and least [rows, groups of 64] -> [vectors, rows]."""
    rows, groups = scale.shape
    out = x.new_empty(len(x), rows)
    warps = _warps(64 * groups)
    _int4_rows[_grid(out, 1, ROWS)](x, weight, scale, least, out, rows, groups, UNITS=32 * warps, num_warps=warps)
    return out


def int8_times_many(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The same by the tensor cores, of 16-bit floats."""
    rows, columns = weight.shape
    out = x.new_empty(len(x), rows)
    _int8_tiles[_grid(out, VECTORS, TILE_ROWS)](
        x, weight, scale, out, len(x), rows, columns,
        VECTORS=VECTORS, ROWS=TILE_ROWS, COLUMNS=TILE_COLUMNS, num_warps=2, num_stages=4,
    )  # fmt: skip
    return out


def int4_times_many(x: Tensor, weight: Tensor, scale: Tensor, least: Tensor) -> Tensor:
    """The same by the tensor cores, of 16-bit floats."""
    rows, groups = scale.shape
    out = x.new_empty(len(x), rows)
    _int4_tiles[_grid(out, VECTORS, TILE_ROWS)](
        x, weight, scale, least, out, len(x), rows, groups,
        VECTORS=VECTORS, ROWS=TILE_ROWS, UNITS=TILE_COLUMNS // 32, num_warps=2, num_stages=4,
    )  # fmt: skip
    return out


def _grid(out: Tensor, vectors: int, rows: int) -> tuple[int, int]:
    """A program for each so many vectors and rows. Those that read the same weights run next to each other."""
    return triton.cdiv(out.shape[0], vectors), triton.cdiv(out.shape[1], rows)


def _warps(columns: int) -> int:
    return 4 if columns >= WIDE else 2
