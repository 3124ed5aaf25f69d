"""One position through the model, with nothing done twice: the mathematics of moshi's modules in few kernels.

The modules ask themselves in every layer where they are: masks, rotations and places in the ring are the same in all of
them and are worked out once here. All state lies at fixed addresses and nothing here asks the device for a value, so
that a call can be recorded and replayed (`graphs.py`). The weights are the modules' own. The order of operations is
theirs too, so tokens are equal (`tests/engine/test_transformer.py` holds the two against each other). What lies between
the products of a layer is done by `steps.py`.

`Transformer` is the big one over time, `Depformer` the small one over the codebooks of one position. Tensors have a
leading batch axis: a row for each slot.
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

from personaplex_cli.engine.steps import PLAIN, Attend, Steps, steps_for

Linear = Callable[[Tensor], Tensor]

# Attention reads the ring only as far as it is filled, in few different lengths: at first it is a twelfth.
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


class KVCache:
    """Keys and values of the last `context` positions in every slot: a ring, position p lies at p % context.

    `kv` [layers, 2, slots, heads, context, width], of the transformer's dtype and on its device.
    """

    def __init__(self, lm: LMModel, slots: int) -> None:
        layers: Any = lm.transformer.layers
        heads = layers[0].self_attn.num_heads
        like: Tensor = lm.text_linear.weight
        self.context: int = lm.context
        self.kv = torch.zeros(
            (len(layers), 2, slots, heads, self.context, lm.dim // heads), dtype=like.dtype, device=like.device
        )

    def upto(self, span: int, rows: int | None = None) -> Tensor:
        """The first `span` places of the ring, of the first slots: all that is filled as long as it has not wrapped."""
        return self.kv[:, :, :rows, :, :span]

    def of(self, slot: int, positions: int) -> Tensor:
        """The first positions of one slot: [layers, 2, 1, heads, positions, width]."""
        return self.kv[:, :, slot : slot + 1, :, :positions]

    def behind(self, slot: int, place: int) -> Tensor:
        """The ring of one slot from this place on."""
        return self.kv[:, :, slot : slot + 1, :, place:]

    def clear(self, slot: int) -> None:
        """Zeros for a slot: numbers that are none would get into sums although they are not looked at."""
        self.kv[:, :, slot].zero_()

    def span_for(self, filled: int) -> int:
        """How much of the ring to read when `filled` positions have been written."""
        return next((span for span in SPANS if filled <= span < self.context), self.context)

    @property
    def spans(self) -> list[int]:
        """All that `span_for` can say."""
        return sorted({self.span_for(filled) for filled in (*SPANS, self.context)})


class Transformer:
    """The transformer over time: positions [b, t, dim] in, outputs [b, t, dim] out."""

    def __init__(self, lm: LMModel, layers: Iterable[Layer]) -> None:
        """`layers` is gone through once a call; it may bring each layer just in time (`loader/offload.py`)."""
        module: Any = lm.transformer
        self._layers = layers
        self._context: int = lm.context
        width = lm.dim // module.layers[0].self_attn.num_heads
        device = lm.text_linear.weight.device
        self._steps = steps_for(device, lm.text_linear.weight.dtype)
        # As moshi computes them: exp of float32 logarithms.
        exponents = torch.arange(width // 2, dtype=torch.float32, device=device)
        self._frequencies = torch.exp(exponents * (-math.log(module.max_period) * 2 / width))

    def __call__(self, x: Tensor, first: Tensor, kv: Tensor) -> Tensor:
        """Read the next t positions of each row, which begin at `first` [b], and write their keys and values.

        `kv` [layers, 2, b, heads, span, width] is as much of the ring as is to be looked at. The positions must not
        reach round the ring: t = 1, or all within the context.
        """
        count = x.shape[1]
        positions = first[:, None] + torch.arange(count, device=first.device)
        phase = positions[:, :, None].float() * self._frequencies
        rotation = torch.polar(torch.ones_like(phase), phase)
        ring = self._steps.ring if count == 1 else PLAIN.ring
        attend = ring(positions, rotation, self._context, kv[0])
        return _through(self._layers, x, torch.zeros_like(x), kv, attend, self._steps)


class Depformer:
    """The transformer over codebooks: weights of their own for each step, nothing remembered from earlier positions."""

    def __init__(self, lm: LMModel, slots: int) -> None:
        module: Any = lm.depformer
        heads = module.layers[0].self_attn.num_heads
        self._layers = [[layer_of(each, step) for each in module.layers] for step in range(lm.dep_q)]
        self._inputs = [linear_of(each) for each in lm.depformer_in]
        self._embeddings = [each.weight for each in (lm.depformer_text_emb, *lm.depformer_emb)]
        self._heads_out = [linear_of(each) for each in lm.linears]
        embedding = self._embeddings[0]
        shape = (len(module.layers), 2, slots, heads, lm.dep_q, embedding.shape[1] // heads)
        self._kv = torch.zeros(shape, dtype=embedding.dtype, device=embedding.device)
        self._steps = steps_for(embedding.device, embedding.dtype)
        self._attend = self._steps.codebooks(self._kv[0])

    def __call__(self, step: int, previous: Tensor, hidden: Tensor) -> Tensor:
        """The logits [b, card] of codebook `step`, after the tokens `previous` [b], for outputs `hidden` [b, 1, dim].

        Steps of one position are taken in order, beginning with 0.
        """
        x, y = self._inputs[step](hidden), F.embedding(previous[:, None], self._embeddings[step])
        kv = self._kv[:, :, : len(previous)]
        x = _through(self._layers[step], x, y, kv, self._attend[step], self._steps)
        return self._heads_out[step](x)[:, 0]


def _through(layers: Iterable[Layer], x: Tensor, y: Tensor, kv: Tensor, attend: Attend, steps: Steps) -> Tensor:
    """x + y [b, t, dim] after these layers. What a layer adds is added where the next norm is taken, in one step."""
    for layer, cache in zip(layers, kv, strict=True):
        x, h = steps.add_norm(x, y, layer.norm1, layer.epsilon)
        y = layer.out_proj(attend(layer.in_proj(h), cache))
        x, h = steps.add_norm(x, y, layer.norm2, layer.epsilon)
        y = layer.linear_out(steps.gated(layer.linear_in(h)))
    return x + y


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
