"""Linear layers whose weights take 8 or 4 bits each: less to hold, and less to read in every frame.

int8: a scale per row, near-neutral. int4: scale and least value per 64 columns of a row, experimental: it can be heard.
What is multiplied with them, and the result, stay in the model's dtype.

One frame is one vector for each slot: on CUDA the kernels of `kernels.py` read the weights as they are. A prompt is
many vectors, and other devices have no such kernels: there the weights are unpacked first, one layer at a time.
"""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personaplex_cli.engine.trial import why_not

GROUP = 64  # columns that share a scale in int4
# At most for a kernel, one by one or by tiles: for more vectors, unpacking the weights once is cheaper.
VECTORS, VECTORS_IN_TILES = 8, 64
PACKING = 2  # changes with anything that `pack` makes: what was kept on disk is then made anew
BLOCK = 8 * 2**20  # weights that are packed or unpacked at once: 60 MB with all that is needed in between
HALF_OF_FLOAT16 = 32_000
ALL = slice(None)


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
        columns = x.shape[-1]
        if not x.is_cuda or columns % GROUP or why_no_kernels(x.device, x.dtype):
            return self.plain(x)
        most = VECTORS_IN_TILES if has_tiles(x.device, x.dtype) else VECTORS
        return self.with_kernel(x) if x.numel() <= most * columns else self.plain(x)

    def with_kernel(self, x: Tensor) -> Tensor:
        """The product by the kernel, on CUDA: of few vectors, of a multiple of 64 columns."""
        from personaplex_cli.engine import kernels

        vectors = x.reshape(-1, x.shape[-1]).contiguous()
        many = "_many" if len(vectors) > 1 and has_tiles(x.device, x.dtype) else ""
        product: Tensor = getattr(kernels, self.kernel + many)(vectors, **self._buffers)
        return product.view(*x.shape[:-1], -1)

    def plain(self, x: Tensor) -> Tensor:
        """The product without a kernel."""
        blocks = _blocks(len(self.scale), x.shape[-1])
        if len(blocks) == 1:
            return self.product(x, ALL)
        out = x.new_empty(*x.shape[:-1], len(self.scale))
        for rows in blocks:
            out[..., rows] = self.product(x, rows)
        return out

    def product(self, x: Tensor, rows: slice) -> Tensor:
        """These rows of it."""
        return F.linear(x, self.unpacked(x.dtype, rows))

    def unpacked(self, dtype: torch.dtype, rows: slice = ALL) -> Tensor:
        """The plain weight that this stands for, or some rows of it."""
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

    def unpacked(self, dtype: torch.dtype, rows: slice = ALL) -> Tensor:
        return (self.weight[rows] * self.scale[rows, None]).to(dtype)

    def product(self, x: Tensor, rows: slice) -> Tensor:
        # Whole numbers up to 127 are exact in every dtype; the scale comes last, in float32.
        shrink = _shrink(x)
        small = x if shrink is None else (x * shrink).to(x.dtype)
        product = F.linear(small, self.weight[rows].to(x.dtype)) * self.scale[rows]
        return (product if shrink is None else product / shrink).to(x.dtype)


class Int4Linear(QuantisedLinear):
    """`weight` [rows, columns / 2] int8, two values a byte, times `scale` plus `least` [rows, groups] float16.

    A byte is low + 16 * high - 128. In a unit of 32 columns byte j has column j as low, column 16 + j as high: what the
    kernel needs of its vector for 16 bytes then lies in a row, twice. A tiny model's row is one unit.
    """

    kernel = "int4_times"
    least: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        groups = (rows, columns // _group(columns)), torch.float16
        super().__init__(weight=((rows, columns // 2), torch.int8), scale=groups, least=groups)

    @staticmethod
    def pack(weight: Tensor) -> dict[str, Tensor]:
        """A plain weight [rows, columns] -> the tensors of this module, by name."""
        rows, columns = weight.shape
        grouped = weight.float().view(rows, -1, _group(columns))
        least = grouped.amin(dim=2).half()
        scale = ((grouped.amax(dim=2) - least) / 15).clamp_min_(1e-7).half()
        steps = (grouped - least[..., None].float()) / scale[..., None].float()
        values = steps.round_().clamp_(0, 15).to(torch.int8).view(rows, columns)
        return {"weight": _in_pairs(values), "scale": scale, "least": least}

    def unpacked(self, dtype: torch.dtype, rows: slice = ALL) -> Tensor:
        weight, scale, least = self.weight[rows], self.scale[rows, :, None].float(), self.least[rows, :, None].float()
        values = _out_of_pairs(weight).view(len(scale), scale.shape[1], -1)
        return (values * scale).add_(least).view(len(scale), -1).to(dtype)


Quantised = type[Int8Linear] | type[Int4Linear]


@functools.cache
def has_tiles(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether tensor cores multiply vectors of `dtype`: from Ampere on, as far as Triton knows them."""
    is_new = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    return dtype != torch.float32 and is_new


@functools.cache
def why_no_kernels(device: torch.device, dtype: torch.dtype) -> str:
    """Why the kernels cannot be used on this CUDA device, for vectors of `dtype`; empty if they can: they are tried."""
    return why_not(device, lambda: _agree(device, dtype))


def _agree(device: torch.device, dtype: torch.dtype) -> bool:
    """In the dtype that will be used, since each is compiled on its own, and with as many columns as the real model
    has, so that long and unfinished rounds of the loops and each width of program come to pass.
    """
    tried = ((Int8Linear, 2816), (Int8Linear, 11264), (Int4Linear, 11264))
    return all(kernel_is_right(filled(kind, torch.randn(48, columns, device=device)), dtype) for kind, columns in tried)


def kernel_is_right(module: QuantisedLinear, dtype: torch.dtype) -> bool:
    """Whether a module's kernels agree, on one vector of `dtype` and on several, with what the weights stand for."""
    weight = module.unpacked(torch.float32).double()
    tolerance = max(2 * torch.finfo(dtype).eps, 1e-4)
    for count in (1, 3):
        x = torch.randn(count, weight.shape[1], device=weight.device).to(dtype)
        expected = x.double() @ weight.T
        product = module.with_kernel(x).double()
        if not torch.allclose(product, expected, rtol=0, atol=tolerance * float(expected.abs().max())):
            return False
    return True


def pack(kind: Quantised, weight: Tensor) -> dict[str, Tensor]:
    """A plain weight [rows, columns] -> the tensors of such a module, by name; little is needed in between."""
    tensors = {name: torch.empty_like(each, device=weight.device) for name, each in kind(*weight.shape).named_buffers()}
    for rows in _blocks(*weight.shape):
        for name, part in kind.pack(weight[rows]).items():
            tensors[name][rows] = part
    return tensors


def filled(kind: Quantised, weight: Tensor) -> QuantisedLinear:
    """A module of this kind that stands for a plain weight [rows, columns]."""
    module = kind(*weight.shape)
    module.load_state_dict(pack(kind, weight), assign=True)
    return module


def _blocks(rows: int, columns: int) -> list[slice]:
    """A weight's rows, few enough at a time."""
    step = max(1, BLOCK // columns)
    return [slice(start, start + step) for start in range(0, rows, step)]


def _shrink(x: Tensor) -> Tensor | None:
    """What each vector must be multiplied with so that no product with whole numbers up to 127 leaves float16.

    One large number among thousands is usual in a large model, and enough. None for dtypes that reach far.
    """
    if x.dtype != torch.float16:
        return None
    largest = 127 * x.abs().sum(dim=-1, keepdim=True, dtype=torch.float32)
    return HALF_OF_FLOAT16 / largest.clamp_min_(HALF_OF_FLOAT16)


def _group(columns: int) -> int:
    """Columns that share a scale: 64, or as many as there are in a tiny model."""
    return GROUP if columns % GROUP == 0 else columns


def _unit(columns: int) -> int:
    """Columns of a unit of int4's bytes."""
    return 32 if columns % GROUP == 0 else columns


def _in_pairs(values: Tensor) -> Tensor:
    """Values 0 to 15 [rows, columns] int8 -> two to the byte [rows, columns / 2]."""
    rows, columns = values.shape
    low, high = values.view(rows, -1, 2, _unit(columns) // 2).unbind(2)
    return (low + 16 * (high - 8)).view(rows, -1)


def _out_of_pairs(both: Tensor) -> Tensor:
    """Bytes [rows, columns / 2] -> their values 0 to 15 [rows, columns]."""
    rows, half = both.shape
    units = both.view(rows, -1, _unit(2 * half) // 2)
    return torch.stack([units & 15, (units >> 4) + 8], dim=2).view(rows, -1)
