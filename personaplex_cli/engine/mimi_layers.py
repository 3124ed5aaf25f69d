"""Mimi's layers, a frame at a time: the mathematics of moshi's modules on fixed tensors with a row for each slot.

What a layer remembers it takes from a `SlotMemory` and writes in place, for live slots alone: a slot that is not in a
frame goes on later as if that frame had not been. A frame may be of the first slots only, as many as go in. Nothing
here asks the device for a value, so that it can be recorded (`graphs.py`). The weights are the modules' own, and so is
the order of operations. What moshi can configure and Mimi does not use is a ModelError.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from moshi.modules.conv import StreamingConv1d, StreamingConvTranspose1d
from moshi.modules.seanet import SEANetResnetBlock
from moshi.modules.transformer import LayerScale
from torch import Tensor, nn
from torch.nn import functional as F

from personaplex_cli.engine.steps import MASK_STRIDE
from personaplex_cli.errors import ModelError


class SlotMemory:
    """What layers remember of `slots` streams of sound. `live` [b] bool says whose frame this one is."""

    def __init__(self, live: Tensor) -> None:
        self.live = live
        self.slots = len(live)
        self._tensors: list[Tensor] = []

    def zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor [b, *shape] at an address that stays."""
        self._tensors.append(torch.zeros(self.slots, *shape, dtype=dtype, device=self.live.device))
        return self._tensors[-1]

    def keep(self, old: Tensor, new: Tensor) -> None:
        """Write `new` [b, channels, t] over `old`, where slots are live."""
        torch.where(self.live[: len(new), None, None], new, old, out=old)

    def forget(self, slot: int | None = None) -> None:
        """Let one slot begin anew; None: all."""
        for each in self._tensors:
            (each if slot is None else each[slot]).zero_()


class Convolution:
    """A causal convolution: [b, channels, t] -> [b, channels', t / stride], maybe with an ELU before it.

    It reads a window in which the end of what it has read lies before what is new. The ELU writes into the window, so
    that nothing is joined for it. `length` is t at first, and what comes out at last.
    """

    def __init__(self, module: StreamingConv1d, length: int, memory: SlotMemory, alpha: float | None = None) -> None:
        self._conv: Any = module.conv.conv
        require(type(self._conv) is nn.Conv1d and module.conv.norm_type == "none", "convolutions that are normalised")
        self._alpha, self._memory = alpha, memory
        (width,), (stride,), (dilation,) = self._conv.kernel_size, self._conv.stride, self._conv.dilation
        self._past = (width - 1) * dilation + 1 - stride
        self._window = memory.zeros(self._conv.in_channels, self._past + length)
        # The first frame of a stream may stand for what was before it, by its first sample.
        self._has_begun = memory.zeros(dtype=torch.bool) if module.pad_mode == "replicate" else None
        self.length = length // stride

    def __call__(self, x: Tensor) -> Tensor:
        conv, rows = self._conv, len(x)
        window = self._window[:rows]
        past, new, end = window[..., : self._past], window[..., self._past :], window[..., x.shape[-1] :]
        if self._alpha is None:
            new.copy_(x)
        else:
            torch.ops.aten.elu.out(x, self._alpha, out=new)
        if self._has_begun is not None:
            has_begun = self._has_begun[:rows]
            torch.where(has_begun[:, None, None], past, new[..., :1], out=past)
            has_begun.logical_or_(self._memory.live[:rows])
        y = F.conv1d(window, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
        if self._past:
            self._memory.keep(past, end.clone() if self._past > x.shape[-1] else end)  # they may overlap
        return y


class TransposedConvolution:
    """A causal transposed convolution: [b, channels, t] -> [b, channels', t * stride], maybe with an ELU before it.

    Of each frame it remembers what reaches into the next one, without the bias, which that has itself.
    """

    def __init__(
        self, module: StreamingConvTranspose1d, length: int, memory: SlotMemory, alpha: float | None = None
    ) -> None:
        self._conv: Any = module.convtr.convtr
        plain = type(self._conv) is nn.ConvTranspose1d and module.convtr.norm_type == "none"
        require(plain, "transposed convolutions that are normalised")
        self._alpha, self._memory = alpha, memory
        (width,), (stride,) = self._conv.kernel_size, self._conv.stride
        require(stride < width <= 2 * stride, "transposed convolutions that reach further than a step")
        self._left = memory.zeros(self._conv.out_channels, width - stride)
        self.length = length * stride

    def __call__(self, x: Tensor) -> Tensor:
        conv, left = self._conv, self._left[: len(x)]
        if self._alpha is not None:
            x = F.elu(x, self._alpha)
        y = F.conv_transpose1d(x, conv.weight, conv.bias, conv.stride, 0, 0, conv.groups)
        y[..., : left.shape[-1]].add_(left)
        beyond = y[..., self.length :]
        self._memory.keep(left, beyond if conv.bias is None else beyond - conv.bias[:, None])
        return y[..., : self.length]


class Residual:
    """Layers, and around them what goes in."""

    def __init__(self, module: SEANetResnetBlock, length: int, memory: SlotMemory) -> None:
        require(isinstance(module.shortcut, nn.Identity), "blocks with a convolution as their shortcut")
        self._block = Chain(module.block, length, memory)
        self.length = self._block.length

    def __call__(self, x: Tensor) -> Tensor:
        return self._block(x).add_(x)


class Chain:
    """Mimi's convolutions from sound to embeddings, or back: layers one after the other."""

    def __init__(self, modules: Iterable[nn.Module], length: int, memory: SlotMemory) -> None:
        self._layers: list[Convolution | TransposedConvolution | Residual] = []
        self.length = length
        alpha = None  # of an ELU that the next layer brings about
        for module in modules:
            if isinstance(module, nn.ELU):
                alpha = module.alpha
                continue
            self._layers.append(_layer(module, self.length, memory, alpha))
            self.length, alpha = self._layers[-1].length, None
        require(alpha is None, "an activation at the end")

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self._layers:
            x = layer(x)
        return x


def _layer(
    module: nn.Module, length: int, memory: SlotMemory, alpha: float | None
) -> Convolution | TransposedConvolution | Residual:
    if isinstance(module, StreamingConv1d):
        return Convolution(module, length, memory, alpha)
    if isinstance(module, StreamingConvTranspose1d):
        return TransposedConvolution(module, length, memory, alpha)
    if isinstance(module, SEANetResnetBlock) and alpha is None:
        return Residual(module, length, memory)
    raise unable(f"a {type(module).__name__} where there should be a convolution")


@dataclass(frozen=True)
class TransformerLayer:
    """The weights of one layer, as moshi names them."""

    norm1: Callable[[Tensor], Tensor]
    in_proj: Tensor
    out_proj: Tensor
    scale1: Tensor
    norm2: Callable[[Tensor], Tensor]
    linear1: Tensor
    linear2: Tensor
    scale2: Tensor


class MimiTransformer:
    """One of Mimi's two transformers over time: [b, channels, t] -> [b, channels, t].

    Keys and values lie in a ring as long as the context, like those of the language model (`transformer.py`): what a
    slot that is not live writes lies where its next frame writes. Where all layers look is worked out once.
    """

    def __init__(self, module: Any, length: int, memory: SlotMemory) -> None:
        transformer = module.transformer
        require(module.conv_layout and len(module.output_projs) == 1, "transformers of another layout")
        require(transformer.positional_embedding == "rope", "transformers without rotary positions")
        self._in, self._out = module.input_proj or nn.Identity(), module.output_projs[0]
        self._layers = [_transformer_layer(each) for each in transformer.layers]
        attention = transformer.layers[0].self_attn
        self._context, self._memory = attention.context, memory
        require(bool(self._context) and self._context >= length, "no context as long as a frame")
        heads, width = attention.num_heads, attention.embed_dim // attention.num_heads
        self._heads, self._pairs = heads, width // 2
        self._kv = [memory.zeros(2, heads, self._context, width) for _ in self._layers]
        self._position = memory.zeros(dtype=torch.long)  # of the first that is read next
        count = torch.arange(max(self._context, memory.slots), device=memory.live.device)
        self._rows, self._steps, self._places = count[: memory.slots, None], count[:length], count[: self._context]
        exponents = torch.arange(width // 2, dtype=torch.float32, device=memory.live.device)
        self._frequencies = torch.exp(exponents * (-math.log(transformer.max_period) * 2 / width))
        self._ones = torch.ones(memory.slots, length, 1, 1, width // 2, device=memory.live.device)

    def __call__(self, x: Tensor) -> Tensor:
        batch, count = len(x), len(self._steps)
        position, rows = self._position[:batch], self._rows[:batch]
        positions = position[:, None] + self._steps
        rotation = torch.polar(self._ones[:batch], positions[:, :, None, None, None].float() * self._frequencies)
        places, seen = positions % self._context, self._seen(positions)
        position.add_(self._memory.live[:batch], alpha=count)
        x = self._in(x.transpose(1, 2).contiguous())
        for layer, ring in zip(self._layers, self._kv, strict=True):
            h = F.linear(layer.norm1(x), layer.in_proj).view(batch, count, 3, self._heads, -1)  # query, key, value
            torch.view_as_complex(h[:, :, :2].view(batch, count, 2, self._heads, self._pairs, 2)).mul_(rotation)
            ring[rows, :, :, places] = h[:, :, 1:]
            keys, values = ring[:batch].unbind(1)
            attended = F.scaled_dot_product_attention(h[:, :, 0].transpose(1, 2), keys, values, seen)
            attended = attended.transpose(1, 2).flatten(2)
            x = torch.addcmul(x, layer.scale1, F.linear(attended, layer.out_proj))
            h = F.gelu(F.linear(layer.norm2(x), layer.linear1))
            x = torch.addcmul(x, layer.scale2, F.linear(h, layer.linear2))
        projected: Tensor = self._out(x)
        return projected.transpose(1, 2)

    def _seen(self, positions: Tensor) -> Tensor:
        """What attention adds for each of the positions [b, t] and each place: 0 where it may look, -inf elsewhere.

        A place holds what was written there last, of the past or of this frame. [b, 1, t, context].
        """
        age = (positions[:, :, None] - self._places) % self._context
        oldest = torch.minimum(positions, self._steps + (self._context - len(self._steps)))
        padded = -(-self._context // MASK_STRIDE) * MASK_STRIDE
        aligned = torch.zeros(*positions.shape, padded, device=positions.device)
        return aligned[:, :, : self._context].masked_fill_(age > oldest[:, :, None], -math.inf)[:, None]


def _transformer_layer(module: Any) -> TransformerLayer:
    attention = module.self_attn
    plain = attention.causal and attention.rope.interleave and attention.kv_repeat == 1
    require(plain and len(attention.in_projs) == 1 and module.cross_attention is None, "attention of another kind")
    require(module.gating is None and module.activation is F.gelu, "layers that are gated")
    require(all(type(each) is nn.LayerNorm for each in (module.norm1, module.norm2)), "layers of another norm")
    scaled = (module.layer_scale_1, module.layer_scale_2)
    require(all(isinstance(each, LayerScale) and each.channel_last for each in scaled), "layers without scales")
    return TransformerLayer(
        norm1=module.norm1,
        in_proj=attention.in_projs[0].weight,
        out_proj=attention.out_projs[0].weight,
        scale1=module.layer_scale_1.scale,
        norm2=module.norm2,
        linear1=module.linear1.weight,
        linear2=module.linear2.weight,
        scale2=module.layer_scale_2.scale,
    )


class Quantiser:
    """Embeddings [b, channels, 1] as codes [b, 8], and back: of what is left each codebook names the nearest vector.

    The first, semantic code and the acoustic ones are found apart from each other, each kind in its own projection.
    """

    def __init__(self, module: Any) -> None:
        self._kinds = (module.rvq_first, module.rvq_rest)
        books = [each for kind in self._kinds for each in kind.vq.layers[: kind.n_q]]
        require(all(isinstance(each.project_out, nn.Identity) for each in books), "codebooks with projections")
        self._tables = torch.stack([_table(each) for each in books])
        codes, card, self._dim = len(books), self._tables.shape[1], self._tables.shape[2] - 2
        device = self._tables.device
        self._semantic: int = module.rvq_first.n_q
        self._offsets = torch.arange(codes, device=device) * card

    def encode(self, x: Tensor) -> Tensor:
        first, rest = self._kinds
        codes = self._nearest(first.input_proj(x), self._tables[: self._semantic])
        codes += self._nearest(rest.input_proj(x), self._tables[self._semantic :])
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        first, rest = self._kinds
        vectors = F.embedding(codes + self._offsets, self._tables.flatten(0, 1)[:, : self._dim])
        semantic, acoustic = vectors[:, : self._semantic].sum(1), vectors[:, self._semantic :].sum(1)
        decoded: Tensor = first.output_proj(semantic[..., None])
        return decoded.add_(rest.output_proj(acoustic[..., None]))

    def _nearest(self, x: Tensor, tables: Tensor) -> list[Tensor]:
        """The codes [b] by codebook of x [b, dim, 1]. Distances are those of `torch.cdist`, to the last bit."""
        left, codes = x[:, :, 0], list[Tensor]()
        query = torch.ones(len(x), self._dim + 2, device=x.device)  # (-2x, x², 1)
        for index, table in enumerate(tables):
            if index:
                left = left - F.embedding(codes[-1], tables[index - 1, :, : self._dim])
            torch.mul(left, -2, out=query[:, : self._dim])
            torch.sum(left.square(), 1, keepdim=True, out=query[:, self._dim : -1])
            distances = torch.bmm(query[None], table.T[None])[0].clamp_min_(0).sqrt_()
            codes.append(distances.argmin(1))
        return codes


def _table(module: Any) -> Tensor:
    """A codebook's vectors, and beside each what its square adds to a distance: [card, dim + 2], c -> (c, 1, c²)."""
    codebook = module._codebook  # noqa: SLF001  its `embedding` would keep another copy
    vectors = codebook.embedding_sum / codebook.cluster_usage.clamp(min=codebook.epsilon)[:, None]
    squared = vectors.square().sum(1, keepdim=True)
    return torch.cat([vectors, torch.ones_like(squared), squared], dim=1)


def require(is_so: bool, otherwise: str) -> None:
    """Raise ModelError if a Mimi has something that this program does not compute."""
    if not is_so:
        raise unable(otherwise)


def unable(what: str) -> ModelError:
    return ModelError(f"This model's codec has {what}.", "Use a model with the Mimi that Moshi and PersonaPlex have.")
