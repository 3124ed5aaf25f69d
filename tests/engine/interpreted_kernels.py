"""Laws of the quantised kernels, for Triton's interpreter: `test_kernels.py` runs this file in a process of its own."""

from typing import Any

import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

from personaplex_cli.engine import kernels
from personaplex_cli.engine.quantised import Int4Linear, Int8Linear, filled, kernel_is_right

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
kinds = pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])


@pytest.fixture(autouse=True)
def bits_of_bf16_are_no_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes them for such, both in products and when it makes them of such."""
    times = InterpreterBuilder.create_dot

    def dot(self: Any, a: Any, b: Any, total: Any, *rest: Any) -> Any:
        return times(self, *(self.cast_impl(each, tl.float32) for each in (a, b)), total, *rest)

    def to_float(self: Any, value: Any, kind: Any) -> Any:
        return self.cast_impl(self.cast_impl(value, tl.float32), kind)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)
    monkeypatch.setattr(InterpreterBuilder, "create_si_to_fp", to_float)
    torch.manual_seed(1)


@kinds
@pytest.mark.parametrize(
    ("rows", "columns"), [(8, 1024), (8, 2816), (8, 4096), (8, 11264), (1, 64), (3, 192), (6, 2112)]
)
def test_they_agree_for_every_inner_size_of_the_real_model_and_for_odd_ones(
    kind: type[Any], rows: int, columns: int
) -> None:
    module = filled(kind, torch.randn(rows, columns) * 0.02)
    assert all(kernel_is_right(module, dtype) for dtype in DTYPES)


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_vectors_keep_their_dtype_and_shape_and_large_ones_stay_finite(
    kind: type[Any], dtype: torch.dtype
) -> None:
    """fp16 ends at 65,504, which is passed within a row."""
    module = filled(kind, torch.randn(5, 128) * 0.02)
    x = torch.randn(2, 9, 128).to(dtype)  # more than a tile has
    x[0, 1] = 4000.0
    product = module.with_kernel(x)
    assert product.dtype == dtype and product.shape == (2, 9, 5)
    weight = module.unpacked(torch.float32).double()
    rounding = max(torch.finfo(dtype).eps, 1e-4) * (x.double().abs() @ weight.abs().T)  # of each product, at most
    assert ((product.double() - x.double() @ weight.T).abs() <= rounding).all()


@pytest.mark.parametrize("column", [0, 15, 16, 31, 32, 63])
def test_every_value_counts_exactly(column: int) -> None:
    """Each of the numbers that a weight can be, alone in its row: no other column may leave a trace."""
    x = torch.zeros(1, 64)
    x[0, column] = 1.0
    weight = torch.arange(-128, 128, dtype=torch.int8)[:, None].repeat(1, 64)
    assert torch.equal(kernels.int8_times(x, weight, torch.ones(256))[0], weight[:, column].float())
    grid = torch.linspace(0, 15, 16)[:, None].repeat(1, 64)
    grid[:, :2] = torch.tensor([0.0, 15.0])
    module = filled(Int4Linear, grid)
    assert torch.equal(module.with_kernel(x), module.unpacked(torch.float32)[:, column][None])


def larger(y: Tensor) -> Tensor:
    return y * 1.05


def turned(y: Tensor) -> Tensor:
    return y.flip(0).flip(1)


def moved(y: Tensor) -> Tensor:
    return y.roll(1, 1)


def no_number(y: Tensor) -> Tensor:
    return y * torch.nan


@kinds
@pytest.mark.parametrize("many", ["", "_many"])
@pytest.mark.parametrize("spoil", [larger, turned, moved, no_number])
def test_one_that_is_wrong_does_not_pass(
    kind: type[Any], many: str, spoil: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = filled(kind, torch.randn(8, 320) * 0.02)
    true = getattr(kernels, kind.kernel + many)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, kind.kernel + many, lambda *args, **rest: spoil(true(*args, **rest)))
        assert not any(kernel_is_right(module, dtype) for dtype in DTYPES if dtype != torch.float32)


@kinds
def test_one_that_is_right_passes(kind: type[Any]) -> None:
    assert kernel_is_right(filled(kind, torch.randn(8, 320) * 0.02), torch.bfloat16)
