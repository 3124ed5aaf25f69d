"""One position through the model, with nothing done twice: the mathematics of moshi's modules in few kernels.

The modules ask themselves in every layer where they are: masks, rotations and ring slots are the same in all of them
and are worked out once here. All state lies at fixed addresses and nothing here asks the device for a value, so that a
call can be recorded and replayed (`graphs.py`). The weights are the modules' own. The order of operations is theirs
too, so tokens are equal (`tests/model/test_step.py` holds the two against each other).

`Transformer` is the big one over time, `Depformer` the small one over the codebooks of one position.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from moshi.models import LMModel
from torch import Tensor, nn
from torch.nn import functional as F

Linear = Callable[[Tensor], Tensor]

# Attention reads the ring only as far as it is filled, in few different lengths: a short talk reads a twelfth of it.
SPANS = (256, 512, 1024, 2048)


@dataclass(frozen=True)
class Layer:
    """The weights of one layer, as moshi names them."""

    norm1: Tensor
    in_proj: Linear
    out_proj: Linear
    norm2: Tensor
    linear_in: Linear
    linear_out: Linear
    epsilon: float


class Transformer:
    """The transformer over time: positions [1, t, dim] in, outputs [1, t, dim] out, with a ring of keys and values.

    `kv` [layers, 2, 1, heads, context, width] holds position p in slot p % context.
    """

    def __init__(self, lm: LMModel, layers: Iterable[Layer]) -> None:
        """`layers` is gone through once a call; it may bring each layer just in time (`offload.py`)."""
        module: Any = lm.transformer
        self._heads: int = module.layers[0].self_attn.num_heads
        self._layers = layers
        self._context: int = lm.context
        self._dim: int = lm.dim
        width = lm.dim // self._heads
        like: Tensor = lm.text_linear.weight
        device = like.device
        self.kv = torch.zeros(
            (len(module.layers), 2, 1, self._heads, lm.context, width), dtype=like.dtype, device=device
        )
        # As moshi computes them: exp of float32 logarithms.
        exponents = torch.arange(width // 2, dtype=torch.float32, device=device)
        self._frequencies = torch.exp(exponents * (-math.log(module.max_period) * 2 / width))
        self._slots = torch.arange(lm.context, device=device)

    def __call__(self, x: Tensor, first: Tensor, span: int) -> Tensor:
        """Read the next t positions, which begin at `first` []. `span` says how much of the ring to look at.

        They must not reach round the ring: t = 1, or all within the context.
        """
        count = x.shape[1]
        positions = first + self._slots[:count]
        phase = positions[:, None, None, None].float() * self._frequencies
        rotation = torch.polar(torch.ones_like(phase), phase)
        slots = positions % self._context
        seen = self._seen(positions, span).to(x.dtype)
        for layer, (keys, values) in zip(self._layers, self.kv[:, :, :, :, :span], strict=True):
            h = layer.in_proj(norm(x, layer.norm1, layer.epsilon)).view(1, count, 3, self._heads, -1)
            query, key = _rotated(h[:, :, :2], rotation).unbind(2)
            keys.index_copy_(2, slots, key.transpose(1, 2))
            values.index_copy_(2, slots, h[:, :, 2].transpose(1, 2))
            attended = F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, seen)
            x = x + layer.out_proj(attended.transpose(1, 2).reshape(1, count, self._dim))
            x = _feed_forward(x, layer)
        return x

    def _seen(self, positions: Tensor, span: int) -> Tensor:
        """What attention adds for each of these positions [t] and each slot: 0 where it may look, -inf elsewhere.

        It may look at what has been filled up to itself, [t, span].
        """
        last = positions[-1]
        # The newest position that a slot can hold by now.
        held = last - (last - self._slots[:span]) % self._context
        hidden = (held < 0) | (held > positions[:, None])
        return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -math.inf)


class Depformer:
    """The transformer over codebooks: weights of their own for each step, nothing remembered from earlier positions."""

    def __init__(self, lm: LMModel) -> None:
        module: Any = lm.depformer
        self._heads: int = module.layers[0].self_attn.num_heads
        self._steps = [[layer_of(each, step) for each in module.layers] for step in range(lm.dep_q)]
        self._inputs = [linear_of(each) for each in lm.depformer_in]
        self._embeddings = [each.weight for each in (lm.depformer_text_emb, *lm.depformer_emb)]
        self._heads_out = [linear_of(each) for each in lm.linears]
        embedding = self._embeddings[0]
        width = embedding.shape[1] // self._heads
        shape = (len(module.layers), 2, 1, self._heads, lm.dep_q, width)
        self._kv = torch.zeros(shape, dtype=embedding.dtype, device=embedding.device)

    def __call__(self, step: int, previous: Tensor, hidden: Tensor) -> Tensor:
        """The logits [card] of codebook `step`, after the token `previous` [], for the output `hidden` [1, 1, dim].

        Steps of one position are taken in order, beginning with 0.
        """
        x = self._inputs[step](hidden) + F.embedding(previous.view(1, 1), self._embeddings[step])
        for layer, cache in zip(self._steps[step], self._kv, strict=True):
            h = layer.in_proj(norm(x, layer.norm1, layer.epsilon))
            h = h.view(3, 1, self._heads, 1, -1)  # query, key, value
            cache[:, :, :, step : step + 1] = h[1:]
            keys, values = cache[:, :, :, : step + 1]
            attended = F.scaled_dot_product_attention(h[0], keys, values)
            x = x + layer.out_proj(attended.view(1, 1, -1))
            x = _feed_forward(x, layer)
        return self._heads_out[step](x).flatten()


def span_for(filled: int, context: int) -> int:
    """How much of a ring of `context` slots to read when `filled` positions have been written."""
    return next((span for span in SPANS if filled <= span < context), context)


def layer_of(module: Any, step: int = 0) -> Layer:
    """The weights of one of moshi's layers; of those of one depformer step where each has its own."""
    attention = module.self_attn
    gating: Any = module.gating[step] if isinstance(module.gating, nn.ModuleList) else module.gating
    return Layer(
        norm1=module.norm1.alpha.flatten(),
        in_proj=linear_of(attention.in_projs[step]),
        out_proj=linear_of(attention.out_projs[step]),
        norm2=module.norm2.alpha.flatten(),
        linear_in=linear_of(gating.linear_in),
        linear_out=linear_of(gating.linear_out),
        epsilon=module.norm1.eps,
    )


def linear_of(module: nn.Module) -> Linear:
    """What a linear module does, without the ceremony around it where it is a plain one."""
    return partial(F.linear, weight=module.weight) if type(module) is nn.Linear else module


def norm(x: Tensor, alpha: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm, computed in float32 whatever the precision of `x` and `alpha`; one kernel on CUDA."""
    return F.rms_norm(x, alpha.shape, alpha, epsilon)


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position embedding of interleaved pairs, in float32."""
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def _feed_forward(x: Tensor, layer: Layer) -> Tensor:
    gate, value = layer.linear_in(norm(x, layer.norm2, layer.epsilon)).chunk(2, dim=-1)
    return x + layer.linear_out(F.silu(gate) * value)
