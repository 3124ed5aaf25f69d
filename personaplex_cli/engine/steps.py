"""The small steps between a layer's products: in plain torch, which is the law, or in one kernel each (`fused.py`).

On CUDA a frame is bound by how many kernels it takes, not only by what they read: there the steps are fused, after they
were tried on the device in the dtype that is used. A model chooses once, when it is made.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from personaplex_cli.engine.sampling import counted, noise, sample
from personaplex_cli.engine.trial import why_not

MASK_STRIDE = 16  # CUDA's attention copies a mask whose rows lie otherwise, in every layer

# Query, key and value [b, t, 3 * dim] of new positions are turned and written to a layer's memory
# [2, b, heads, span, width]; what these positions see there is the result, [b, t, dim].
Attend = Callable[[Tensor, Tensor], Tensor]


# A token each [b] of the logits [b, tokens] of a row.
Draw = Callable[[int, Tensor], Tensor]


class Ring(Protocol):
    def __call__(self, positions: Tensor, rotation: Tensor, context: int, cache: Tensor) -> Attend:
        """How positions [b, t] attend, in each layer of one pass, to a ring in which position p lies at p % `context`.

        `rotation` [b, t, width / 2] complex turns queries and keys, `cache` is the memory of any layer.
        """


@dataclass(frozen=True)
class Steps:
    """One way to take them."""

    add_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    gated: Callable[[Tensor], Tensor]
    ring: Ring  # for t = 1
    codebooks: Callable[[Tensor], list[Attend]]
    draws: Callable[[Mapping[str, Tensor], Tensor, int], Draw]
    fits_all: bool = False  # one shape does: the ring is read as far as it is filled, tokens are drawn of any width


def steps_for(device: torch.device, dtype: torch.dtype) -> Steps:
    """Those that a model of this dtype takes on this device."""
    return PLAIN if device.type != "cuda" or why_plain(device, dtype) else fused_steps()


@functools.cache
def why_plain(device: torch.device, dtype: torch.dtype) -> str:
    """Why the steps cannot be fused on this CUDA device; empty if they can."""
    return why_not(device, lambda: all(agreeing(fused_steps(), device, dtype).values()))


def norm(x: Tensor, alpha: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm, computed in float32 whatever the precision of `x` and `alpha`; one kernel on CUDA."""
    return F.rms_norm(x, alpha.shape, alpha, epsilon)


def add_norm(x: Tensor, y: Tensor, alpha: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x + y [..., width], and its norm."""
    total = x + y
    return total, norm(total, alpha, epsilon)


def gated(both: Tensor) -> Tensor:
    """SiLU of the first half times the second: [..., 2 * width] -> [..., width]."""
    gate, value = both.chunk(2, dim=-1)
    return F.silu(gate) * value


class PlainRing:
    """`Ring` for any t. The positions must not reach round it: t = 1, or all within the context."""

    def __init__(self, positions: Tensor, rotation: Tensor, context: int, cache: Tensor) -> None:
        self._rotation = rotation[:, :, None, None]
        self._rows, self._places = torch.arange(len(positions), device=positions.device)[:, None], positions % context
        self.seen = _seen(positions, context, cache.shape[-2], cache.dtype)

    def __call__(self, h: Tensor, cache: Tensor) -> Tensor:
        keys, values = cache
        h = h.view(*h.shape[:2], 3, keys.shape[1], -1)
        query, key = _rotated(h[:, :, :2], self._rotation).unbind(2)
        keys[self._rows, :, self._places] = key
        values[self._rows, :, self._places] = h[:, :, 2]
        return F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, self.seen).transpose(1, 2).flatten(2)


def _seen(positions: Tensor, context: int, span: int, dtype: torch.dtype) -> Tensor:
    """What attention adds for each of these positions [b, t] and each place: 0 where it may look, -inf elsewhere.

    It may look at what has been filled up to itself, [b, 1, t, span].
    """
    last = positions[:, -1:]
    # The newest position that a place can hold by now.
    held = (last - (last - torch.arange(span, device=last.device)) % context)[:, None]
    hidden = (held < 0) | (held > positions[:, :, None])
    batch, count = positions.shape
    aligned = torch.zeros(batch, count, -(-span // MASK_STRIDE) * MASK_STRIDE, dtype=dtype, device=last.device)
    return aligned[:, :, :span].masked_fill_(hidden, -math.inf)[:, None]


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position embedding of interleaved pairs, in float32."""
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def plain_codebooks(cache: Tensor) -> list[Attend]:
    """How each codebook attends to those before it and to itself, by its number; `cache` is the memory of any layer."""
    return [partial(_codebook, step) for step in range(cache.shape[-2])]


def _codebook(step: int, h: Tensor, cache: Tensor) -> Tensor:
    batch, heads = cache.shape[1:3]
    h = h.view(batch, 3, heads, 1, -1).transpose(0, 1)  # query, key, value
    cache[..., step : step + 1, :] = h[1:]
    keys, values = cache[..., : step + 1, :]
    return F.scaled_dot_product_attention(h[0], keys, values).reshape(batch, 1, -1)


def plain_draws(how: Mapping[str, Tensor], counts: Tensor, width: int) -> Draw:
    """How tokens are drawn in rows of which `how` tells `keys`, `temperature` and `last_rank`, each [b, rows].

    `counts` are those of as many tokens as there are (`sampling.counted`), ranks are below `width`.
    """
    loud = noise(how["keys"], how["temperature"], counts)
    return lambda row, logits: sample(logits, loud[:, row], how["last_rank"][:, row], width)


PLAIN = Steps(add_norm, gated, PlainRing, plain_codebooks, plain_draws)


def fused_steps() -> Steps:
    """Raises ImportError where there is no Triton."""
    from personaplex_cli.engine import fused

    def ring(positions: Tensor, rotation: Tensor, context: int, cache: Tensor) -> Attend:
        turns = torch.view_as_real(rotation).flatten(1)
        return partial(fused.attend, rotation=turns, position=positions, context=context)

    def codebooks(cache: Tensor) -> list[Attend]:
        _, slots, _, count, width = cache.shape
        steps = torch.arange(count, device=cache.device)[:, None].repeat(1, slots)
        unturned = torch.tensor([1.0, 0.0], device=cache.device).repeat(slots, width // 2)  # they have an order already
        return [partial(fused.attend, rotation=unturned, position=step, context=count) for step in steps]

    def draws(how: Mapping[str, Tensor], counts: Tensor, width: int) -> Draw:
        rows = [how[name] for name in ("keys", "temperature", "last_rank")]
        return lambda row, logits: fused.drawn(logits, *(each[:, row] for each in rows))

    return Steps(fused.add_norm, fused.gated, ring, codebooks, draws, fits_all=True)


def agreeing(steps: Steps, device: torch.device, dtype: torch.dtype) -> dict[str, bool]:
    """By the step's name, whether these do what the plain ones do, within rounding, at the real model's sizes."""

    def random(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, device=device).to(of)

    def near(ours: Tensor, plain: Tensor) -> bool:
        """Compared with the largest number in its row: those of long rings are small."""
        error = (ours.float() - plain.float()).abs().amax(-1)
        return bool((error <= tolerance * plain.float().abs().amax(-1)).all())

    def all_near(attending: Iterable[tuple[Attend, Attend]], cache: Tensor) -> bool:
        """Also what they remember."""
        another = cache.clone()
        for ours, plain in attending:
            h = random(cache.shape[1], 1, 3 * cache.shape[2] * cache.shape[4])
            if not near(ours(h, cache), plain(h, another)):
                return False
        return near(cache, another)

    tolerance = max(2 * torch.finfo(dtype).eps, 1e-4)
    x, y, alpha, both = random(2, 1, 4096), random(2, 1, 4096), random(4096), random(2, 1, 2 * 11264)
    ring, codebooks = random(2, 3, 2, 3000, 128), random(2, 3, 2, 8, 64)
    # Not yet filled, just being filled, gone round: in one part, in some, in all.
    positions = torch.tensor([[5], [300], [100_000]], device=device)
    turns = torch.polar(torch.ones(3, 1, 64, device=device), random(3, 1, 64, of=torch.float32))
    rings = [each.ring(positions, turns, 3000, ring) for each in (steps, PLAIN)]
    agree = {
        "add_norm": all(map(near, steps.add_norm(x, y, alpha, 1e-8), PLAIN.add_norm(x, y, alpha, 1e-8))),
        "gated": near(steps.gated(both), PLAIN.gated(both)),
        "ring": all_near([(rings[0], rings[1])], ring),
        "codebooks": all_near(zip(steps.codebooks(codebooks), PLAIN.codebooks(codebooks), strict=True), codebooks),
    }
    how = {
        "keys": torch.arange(6, dtype=torch.int32, device=device).view(3, 2) * 10**8,
        "temperature": torch.tensor([[0.0, 0.0], [0.8, 0.7], [2.0, 0.0]], device=device),
        "last_rank": torch.tensor([[0, 0], [24, 249], [1999, 3]], device=device),
    }
    agree["draws"] = True
    for tokens in (2048, 32000):
        ours, plain = (each.draws(how, counted(tokens, device), 2048) for each in (steps, PLAIN))
        for row in range(2):
            logits = random(3, tokens)
            agree["draws"] &= torch.equal(ours(row, logits), plain(row, logits))
    return agree
