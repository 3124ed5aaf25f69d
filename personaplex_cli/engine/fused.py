"""Triton kernels for what lies between the products of a layer: a position's small steps, one kernel for each.

Only importable where Triton is; `steps.py` has the same in plain torch, for everywhere else, and the choice.
`tests/engine/test_kernels_compile.py` holds what compilers make of them.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

PARTS = 16  # in which a ring is read: with 32 heads, several for each multiprocessor of the largest GPUs
KEYS = 32  # that a program looks at in a round
TILE = 1024  # of their numbers for each warp
BITS = {torch.float32: 32, torch.float16: 19, torch.bfloat16: 16}  # that tell two numbers apart once they are float32
LOWEST = tl.constexpr(-1e30)  # a score below all others whose difference to itself is a number, unlike infinity's


@triton.jit
def _add_norm(x, y, alpha, total, normed, width, epsilon, WIDTH: tl.constexpr):
    column = tl.arange(0, WIDTH)
    here = column < width
    at = tl.program_id(0).to(tl.int64) * width + column
    value = tl.load(x + at, mask=here, other=0.0).to(tl.float32) + tl.load(y + at, mask=here, other=0.0).to(tl.float32)
    value = value.to(x.dtype.element_ty)
    tl.store(total + at, value, mask=here)
    value = value.to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value) / width + epsilon)
    value *= tl.load(alpha + column, mask=here, other=0.0).to(tl.float32)
    tl.store(normed + at, value.to(x.dtype.element_ty), mask=here)


@triton.jit
def _gated(both, out, width, WIDTH: tl.constexpr):
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    here = column < width
    row = tl.program_id(0).to(tl.int64)
    both += row * 2 * width + column
    gate = tl.load(both, mask=here, other=0.0).to(tl.float32)
    value = tl.load(both + width, mask=here, other=0.0).to(tl.float32)
    gate = (gate / (1 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)  # rounded where torch rounds
    tl.store(out + row * width + column, (gate * value).to(out.dtype.element_ty), mask=here)


@triton.jit
def _turned(x, column, cos, sin):
    """A head's vector at `x` after rotary embedding of its interleaved pairs, rounded as it is kept: [width] float32.

    `sin` is negative at even columns.
    """
    value, partner = tl.load(x + column).to(tl.float32), tl.load(x + (column ^ 1)).to(tl.float32)
    return (value * cos + partner * sin).to(x.dtype.element_ty).to(tl.float32)


@triton.jit
def _attend(
    h, keys, values, rotation, position, out, weights, context, slot_stride, head_stride, scale,
    WIDTH: tl.constexpr, KEYS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """A part of one head of one slot. Each of a tile's rows keeps its own greatest score, sum and mean until the end,
    so that no thread waits for those of another warp in the loop.
    """
    part, head, slot = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    here = tl.load(position + slot)
    place = (here % context).to(tl.int32)
    length = tl.minimum(here + 1, context).to(tl.int32)
    column, row = tl.arange(0, WIDTH), tl.arange(0, KEYS)
    stride = tl.num_programs(1) * WIDTH
    h += slot * 3 * stride + head * WIDTH
    turn = rotation + slot * WIDTH + (column & -2)
    cos, sin = tl.load(turn), tl.load(turn + 1) * ((column & 1) * 2 - 1)
    query = _turned(h, column, cos, sin) * scale
    key = _turned(h + stride, column, cos, sin)
    value = tl.load(h + 2 * stride + column).to(tl.float32)
    start = slot.to(tl.int64) * slot_stride + head * head_stride
    keys += start
    values += start
    # The first part has the newest position in hand, and brings it to the ring; none waits until it is there.
    own = (row == 0) & (part == 0)
    if part == 0:
        tl.store(keys + place * WIDTH + column, key.to(keys.dtype.element_ty))
        tl.store(values + place * WIDTH + column, value.to(values.dtype.element_ty))
    highest = tl.where(own, tl.sum(query * key), LOWEST)
    total = own.to(tl.float32)
    mean = tl.where(own[:, None], value[None, :], 0.0)
    size = tl.cdiv(tl.cdiv(length, KEYS), PARTS) * KEYS
    for first in range(part * size, tl.minimum(part * size + size, length), KEYS):
        each = first + row
        seen = (each < length) & (each != place)
        at = each[:, None] * WIDTH + column[None, :]
        their_keys = tl.load(keys + at, mask=seen[:, None], other=0.0).to(tl.float32)
        their_values = tl.load(values + at, mask=seen[:, None], other=0.0).to(tl.float32)
        score = tl.where(seen, tl.sum(their_keys * query[None, :], axis=1), -float("inf"))
        new = tl.maximum(highest, score)
        kept, weight = tl.exp2(highest - new), tl.exp2(score - new)
        total = total * kept + weight
        mean = mean * kept[:, None] + their_values * weight[:, None]
        highest = new
    top = tl.max(highest)
    share = tl.exp2(highest - top)
    total = tl.sum(total * share)
    mean = tl.sum(mean * share[:, None], axis=0)
    at = (slot * tl.num_programs(1) + head) * PARTS + part
    if PARTS == 1:
        mean /= total
    else:
        tl.store(weights + 2 * at, top)
        tl.store(weights + 2 * at + 1, total)
    tl.store(out + at.to(tl.int64) * WIDTH + column, mean.to(out.dtype.element_ty))


@triton.jit
def _joined(parts, weights, out, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """What the parts of a head found, brought together."""
    head = tl.program_id(0)
    column, part = tl.arange(0, WIDTH), head * PARTS + tl.arange(0, PARTS)
    highest, total = tl.load(weights + 2 * part), tl.load(weights + 2 * part + 1)
    share = tl.exp2(highest - tl.max(highest))
    mean = tl.load(parts + part[:, None] * WIDTH + column[None, :])
    mean = tl.sum(mean * share[:, None], axis=0) / tl.sum(total * share)
    tl.store(out + head * WIDTH + column, mean.to(out.dtype.element_ty))


@triton.jit
def _numbered(value):
    """Floats as unsigned whole numbers of the same order."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, ~bits, bits ^ -2147483648).to(tl.uint32, bitcast=True)


@triton.jit
def _float_of(number):
    """What `_numbered` made of it, back."""
    bits = number.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ -2147483648, ~bits).to(tl.float32, bitcast=True)


@triton.jit
def _noise(key, token):
    """`sampling.noise` of one row, without its temperature."""
    x = (key + token * -1640531527).to(tl.uint32, bitcast=True)  # sampling.ODD, as int32
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    x = x ^ (x >> 16)
    between_0_and_1 = ((x >> 9).to(tl.float32) + 0.5) * 2.0**-23
    return -tl.log(-tl.log(between_0_and_1))


@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["keys", "temperature", "last_rank"])
def _drawn(
    logits, keys, temperature, last_rank, out, tokens, stride,
    TOKENS: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The token of one slot. The least logit that may be drawn is found bit by bit, of the `BITS` that logits have.

    Of equal ones the first token wins, as in torch.
    """
    slot = tl.program_id(0)
    logits += slot * tokens
    every = tl.arange(0, TOKENS)
    number = _numbered(tl.load(logits + every, mask=every < tokens, other=0.0).to(tl.float32))
    number = tl.where(every < tokens, number, 0)
    rank = tl.load(last_rank + slot * stride)
    least = tl.zeros((), dtype=tl.uint32)
    bit = tl.full((), 2147483648, dtype=tl.uint32)
    for _ in range(BITS):
        higher = least | bit
        least = tl.where(tl.sum((number >= higher).to(tl.int32)) > rank, higher, least)
        bit = bit >> 1
    limit = _float_of(least)
    key, warmth = tl.load(keys + slot * stride), tl.load(temperature + slot * stride)
    best = tl.full((BLOCK,), -float("inf"), dtype=tl.float32)
    winner = tl.zeros((BLOCK,), dtype=tl.int32)
    for first in range(0, TOKENS, BLOCK):  # few at a time, from memory again: all of them would take many registers
        token = first + tl.arange(0, BLOCK)
        logit = tl.load(logits + token, mask=token < tokens, other=-float("inf")).to(tl.float32)
        loud = tl.where(logit >= limit, logit + _noise(key, token) * warmth, -float("inf"))
        winner = tl.where(loud > best, token, winner)
        best = tl.maximum(best, loud)
    first = tl.min(tl.where(best == tl.max(best), winner, tokens - 1))
    tl.store(out + slot, first.to(tl.int64))


def add_norm(x: Tensor, y: Tensor, alpha: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x + y [..., width], and its root-mean-square norm times `alpha` [width]."""
    total, normed = x.new_empty(x.shape), x.new_empty(x.shape)
    width = len(alpha)
    block = triton.next_power_of_2(width)
    _add_norm[(x.numel() // width,)](
        x.contiguous(), y.contiguous(), alpha, total, normed, width, epsilon, WIDTH=block, num_warps=_warps(block, 512)
    )
    return total, normed


def gated(both: Tensor) -> Tensor:
    """SiLU of the first half times the second: [..., 2 * width] -> [..., width]."""
    width = both.shape[-1] // 2
    out = both.new_empty(*both.shape[:-1], width)
    _gated[(out.numel() // width, triton.cdiv(width, TILE))](both.contiguous(), out, width, WIDTH=TILE, num_warps=4)
    return out


def attend(h: Tensor, cache: Tensor, rotation: Tensor, position: Tensor, context: int) -> Tensor:
    """The newest position of each slot, turned and written to its ring, and what it sees there: [b, 1, dim].

    `h` [b, 1, 3 * dim] are query, key and value, `cache` [2, b, heads, span, width] the rings, of which no more is read
    than is filled. `rotation` [b, width] float32 are cosines and sines in turns, `position` [b] int64.
    """
    keys, values = cache
    batch, heads, span, width = keys.shape
    parts = PARTS if span > KEYS else 1
    block = min(KEYS, triton.next_power_of_2(span))
    out = h.new_empty(batch, 1, heads * width)
    found = out if parts == 1 else position.new_empty(batch, heads, parts, width, dtype=rotation.dtype)
    weights = found if parts == 1 else position.new_empty(batch, heads, parts, 2, dtype=rotation.dtype)
    _attend[(parts, heads, batch)](
        h.contiguous(), keys, values, rotation, position, found, weights, context, keys.stride(0), keys.stride(1),
        math.log2(math.e) / math.sqrt(width),
        WIDTH=width, KEYS=block, PARTS=parts, num_warps=_warps(block * width, TILE),
    )  # fmt: skip
    if parts > 1:
        _joined[(batch * heads,)](found, weights, out, WIDTH=width, PARTS=parts, num_warps=_warps(parts * width, 512))
    return out


def drawn(logits: Tensor, keys: Tensor, temperature: Tensor, last_rank: Tensor) -> Tensor:
    """One token each [b] of logits [b, tokens]: `sampling.sample` with the noise of these keys and temperatures [b].

    These and `last_rank` are columns of tensors of one shape.
    """
    batch, tokens = logits.shape
    out = last_rank.new_empty(batch)
    block = triton.next_power_of_2(tokens)
    _drawn[(batch,)](
        logits.contiguous(), keys, temperature, last_rank, out, tokens, keys.stride(0),
        TOKENS=block, BITS=BITS[logits.dtype], BLOCK=min(block, 8192), num_warps=32 if block > 4096 else 4,
    )  # fmt: skip
    return out


def _warps(numbers: int, each: int) -> int:
    """For a program that holds so many numbers, a power of two."""
    return min(8, max(1, numbers // each))
