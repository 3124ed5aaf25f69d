"""Linear layers whose weights take 8 or 4 bits each: less to hold, and less to read in every frame.

int8: a scale per row, near-neutral. int4: scale and least value per 64 columns of a row, experimental: it can be heard.
What is multiplied with them, and the result, stay in the model's dtype.

One frame is one vector: on CUDA the kernels of `kernels.py` read the weights as they are. A prompt is many vectors, and
other devices have no such kernels: there the weights are unpacked first, one layer at a time.
"""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP = 64  # columns that share a scale in int4


class QuantisedLinear(nn.Module):
    """A linear module [rows, columns] without bias, on `meta` at first, and what all such modules do."""

    weight: Tensor
    scale: Tensor
    kernel: str  # its name in `kernels.py`

    def __init__(self, **tensors: tuple[tuple[int, ...], torch.dtype]) -> None:
        super().__init__()
        for name, (shape, dtype) in tensors.items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda or x.numel() > x.shape[-1] or why_no_kernels():
            return self.plain(x)
        from personaplex_cli.engine import kernels

        product: Tensor = getattr(kernels, self.kernel)(x.flatten(), **self._buffers)
        return product.view(*x.shape[:-1], -1)

    def plain(self, x: Tensor) -> Tensor:
        """The product without a kernel."""
        return F.linear(x, self.unpacked(x.dtype))

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The plain weight that this stands for."""
        raise NotImplementedError


class Int8Linear(QuantisedLinear):
    """`weight` [rows, columns] int8 times `scale` [rows] float32."""

    kernel = "int8_times"

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(weight=((rows, columns), torch.int8), scale=((rows,), torch.float32))

    @staticmethod
    def pack(weight: Tensor) -> dict[str, Tensor]:
        """A plain weight [rows, columns] -> the tensors of this module, by name."""
        scale = (weight.abs().amax(dim=1).float() / 127).clamp_min_(1e-12)
        return {"weight": (weight / scale[:, None]).round_().to(torch.int8), "scale": scale}

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        return (self.weight * self.scale[:, None]).to(dtype)

    def plain(self, x: Tensor) -> Tensor:
        # Whole numbers up to 127 are exact in every dtype; the scale comes last, in float32.
        return (F.linear(x, self.weight.to(x.dtype)) * self.scale).to(x.dtype)


class Int4Linear(QuantisedLinear):
    """`weight` [rows, columns / 2] uint8, two values a byte, times `scale` plus `least` [rows, groups] float16."""

    kernel = "int4_times"
    least: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        groups = (rows, columns // _group(columns)), torch.float16
        super().__init__(weight=((rows, columns // 2), torch.uint8), scale=groups, least=groups)

    @staticmethod
    def pack(weight: Tensor) -> dict[str, Tensor]:
        """A plain weight [rows, columns] -> the tensors of this module, by name."""
        rows, columns = weight.shape
        grouped = weight.float().view(rows, -1, _group(columns))
        least = grouped.amin(dim=2).half()
        scale = ((grouped.amax(dim=2) - least) / 15).clamp_min_(1e-7).half()
        steps = (grouped - least[..., None].float()) / scale[..., None].float()
        values = steps.round_().clamp_(0, 15).to(torch.uint8).view(rows, columns)
        return {"weight": values[:, 0::2] | values[:, 1::2] << 4, "scale": scale, "least": least}

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        rows, groups = self.scale.shape
        values = torch.stack([self.weight & 15, self.weight >> 4], dim=-1).view(rows, groups, -1)
        return (values * self.scale[..., None].float() + self.least[..., None].float()).view(rows, -1).to(dtype)


Quantised = type[Int8Linear] | type[Int4Linear]


@functools.cache
def why_no_kernels() -> str:
    """Why the kernels cannot be used on CUDA here; empty if they can: they are tried, and compared."""
    try:
        from personaplex_cli.engine import kernels

        weight, x = torch.randn(96, 2 * GROUP, device="cuda"), torch.randn(2 * GROUP, device="cuda")
        for kind in (Int8Linear, Int4Linear):
            module = filled(kind, weight)
            product = getattr(kernels, kind.kernel)(x, **dict(module.named_buffers()))
            if not torch.allclose(product, module.unpacked(x.dtype) @ x, atol=1e-2):
                return "its kernels answer wrongly"
    except ImportError:
        return "it is not installed"
    except Exception as error:  # a compiler that is missing, a driver that does not fit: Triton raises many kinds
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return ""


def filled(kind: Quantised, weight: Tensor) -> QuantisedLinear:
    """A module of this kind that stands for a plain weight [rows, columns]."""
    module = kind(*weight.shape)
    module.load_state_dict(kind.pack(weight), assign=True)
    return module


def _group(columns: int) -> int:
    """Columns that share a scale: 64, or as many as there are in a tiny model."""
    return GROUP if columns % GROUP == 0 else columns
