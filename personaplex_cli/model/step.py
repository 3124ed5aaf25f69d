"""One position through the model, with nothing done twice: the mathematics of moshi's modules in few kernels.

The modules ask themselves in every layer where they are: masks, rotations and ring slots are the same in all of them
and are worked out once here. All state lies at fixed addresses. The weights are the modules' own. The order of
operations is theirs too, so tokens are equal (`tests/model/test_step.py` holds the two against each other).

`Transformer` is the big one over time, `Depformer` the small one over the codebooks of one position. The modules' own
ways are here too, in the same shape (`ModuleTransformer`, `ModuleDepformer`): offloaded layers need their hooks, and
the tests a measure.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from moshi.models import LMModel
from torch import Tensor, nn
from torch.nn import functional as F

# Attention reads the ring only as far as it is filled, in few different lengths: a short talk reads a twelfth of it.
SPANS = (256, 512, 1024, 2048)


@dataclass(frozen=True)
class Layer:
    """The weights of one layer, as moshi names them."""

    norm1: Tensor
    in_proj: Tensor
    out_proj: Tensor
    norm2: Tensor
    linear_in: Tensor
    linear_out: Tensor
    epsilon: float


class Transformer:
    """The transformer over time: positions [1, t, dim] in, outputs [1, t, dim] out, with a ring of keys and values."""

    def __init__(self, lm: LMModel) -> None:
        module = lm.transformer
        attention = module.layers[0].self_attn
        self._heads: int = attention.num_heads
        self._layers = [_layer(each) for each in module.layers]
        self._capacity: int = attention.context
        width = lm.dim // self._heads
        like = self._layers[0].in_proj
        self._kv = torch.zeros(
            (len(self._layers), 2, 1, self._heads, self._capacity, width), dtype=like.dtype, device=like.device
        )
        # As moshi computes them: exp of float32 logarithms.
        exponents = torch.arange(width // 2, dtype=torch.float32, device=like.device)
        self._frequencies = torch.exp(exponents * (-math.log(module.max_period) * 2 / width))
        self._slots = torch.arange(self._capacity, device=like.device)
        self._position = torch.zeros((), dtype=torch.long, device=like.device)
        self._read = 0  # the same number, for the host

    def reset(self) -> None:
        self._position.zero_()
        self._read = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Read the next t positions. They must not reach round the ring: t = 1, or all within the capacity."""
        count = x.shape[1]
        positions = self._position + self._slots[:count]
        phase = positions[:, None, None, None].float() * self._frequencies
        rotation = torch.polar(torch.ones_like(phase), phase)
        slots = positions % self._capacity
        self._read += count
        span = next((span for span in SPANS if self._read <= span < self._capacity), self._capacity)
        seen = self._seen(positions, span).to(x.dtype)
        for layer, (keys, values) in zip(self._layers, self._kv[:, :, :, :, :span], strict=True):
            h = F.linear(_norm(x, layer.norm1, layer.epsilon), layer.in_proj).view(1, count, 3, self._heads, -1)
            query, key = _rotated(h[:, :, :2], rotation).unbind(2)
            keys.index_copy_(2, slots, key.transpose(1, 2))
            values.index_copy_(2, slots, h[:, :, 2].transpose(1, 2))
            attended = F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, seen)
            x = x + F.linear(attended.transpose(1, 2).reshape(1, count, -1), layer.out_proj)
            x = _feed_forward(x, layer)
        self._position += count
        return x

    def _seen(self, positions: Tensor, span: int) -> Tensor:
        """What attention adds for each of these positions [t] and each slot: 0 where it may look, -inf elsewhere.

        It may look at what has been filled up to itself, [t, span].
        """
        last = positions[-1]
        # The newest position that a slot can hold by now.
        held = last - (last - self._slots[:span]) % self._capacity
        hidden = (held < 0) | (held > positions[:, None])
        return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -math.inf)


class ModuleTransformer:
    """moshi's own transformer over time, in the shape of `Transformer`."""

    def __init__(self, lm: LMModel) -> None:
        self._module = lm.transformer
        self._module.streaming_forever(1)

    def reset(self) -> None:
        self._module.reset_streaming()

    def __call__(self, x: Tensor) -> Tensor:
        output: Tensor = self._module(x)
        return output


class Depformer:
    """The transformer over codebooks: weights of their own for each step, nothing remembered from earlier positions."""

    def __init__(self, lm: LMModel) -> None:
        self._lm = lm
        module = lm.depformer
        self._heads: int = module.layers[0].self_attn.num_heads
        self._steps = [[_layer(each, step) for each in module.layers] for step in range(lm.dep_q)]
        like = self._steps[0][0].in_proj
        width = like.shape[1] // self._heads
        self._kv = torch.zeros(
            (len(module.layers), 2, 1, self._heads, lm.dep_q, width), dtype=like.dtype, device=like.device
        )

    def __call__(self, step: int, previous: Tensor, hidden: Tensor) -> Tensor:
        """The logits [card] of codebook `step`, after the token `previous` [], for the output `hidden` [1, 1, dim].

        Steps of one position are taken in order, beginning with 0.
        """
        lm = self._lm
        embedding = lm.depformer_text_emb if step == 0 else lm.depformer_emb[step - 1]
        x = F.linear(hidden, lm.depformer_in[step].weight) + F.embedding(previous.view(1, 1), embedding.weight)
        for layer, cache in zip(self._steps[step], self._kv, strict=True):
            h = F.linear(_norm(x, layer.norm1, layer.epsilon), layer.in_proj)
            h = h.view(3, 1, self._heads, 1, -1)  # query, key, value
            cache[:, :, :, step : step + 1] = h[1:]
            keys, values = cache[:, :, :, : step + 1]
            attended = F.scaled_dot_product_attention(h[0], keys, values)
            x = x + F.linear(attended.view(1, 1, -1), layer.out_proj)
            x = _feed_forward(x, layer)
        return F.linear(x, lm.linears[step].weight).flatten()


class ModuleDepformer:
    """moshi's own transformer over codebooks, in the shape of `Depformer`."""

    def __init__(self, lm: LMModel) -> None:
        self._lm = lm
        lm.depformer.streaming_forever(1)

    def __call__(self, step: int, previous: Tensor, hidden: Tensor) -> Tensor:
        if step == 0:
            self._lm.depformer.reset_streaming()
        logits: Tensor = self._lm.forward_depformer(step, previous.view(1, 1, 1), hidden)
        return logits.flatten()


def _layer(module: Any, step: int = 0) -> Layer:
    attention = module.self_attn
    gating: Any = module.gating[step] if isinstance(module.gating, nn.ModuleList) else module.gating
    return Layer(
        norm1=module.norm1.alpha.flatten().float(),
        in_proj=attention.in_projs[step].weight,
        out_proj=attention.out_projs[step].weight,
        norm2=module.norm2.alpha.flatten().float(),
        linear_in=gating.linear_in.weight,
        linear_out=gating.linear_out.weight,
        epsilon=module.norm1.eps,
    )


def _norm(x: Tensor, alpha: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm in float32, whatever the precision of `x`."""
    return F.rms_norm(x.float(), alpha.shape, alpha, epsilon).to(x.dtype)


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position embedding of interleaved pairs, in float32."""
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def _feed_forward(x: Tensor, layer: Layer) -> Tensor:
    gate, value = F.linear(_norm(x, layer.norm2, layer.epsilon), layer.linear_in).chunk(2, dim=-1)
    return x + F.linear(F.silu(gate) * value, layer.linear_out)
