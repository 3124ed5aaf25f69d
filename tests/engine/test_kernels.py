"""The quantised kernels against the plain way, in Triton's interpreter: it runs them on the CPU, line by line.

It must be asked for before Triton is imported, hence the processes of their own.
"""

import os
import subprocess
import sys

import pytest
import torch

from personaplex_cli.engine import quantised
from personaplex_cli.engine.quantised import Int8Linear, why_no_kernels

pytest.importorskip("triton", reason="there is no Triton for this system")

BEGINNING = """
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder as Builder
from personaplex_cli.engine import kernels
from personaplex_cli.engine.quantised import Int4Linear, Int8Linear, filled, kernel_is_right
# The interpreter takes the bits of bf16 for whole numbers, both in products and when it makes them of such.
def dot(self, a, b, total, *rest, dot=Builder.create_dot):
    return dot(self, *(self.cast_impl(each, tl.float32) for each in (a, b)), total, *rest)
Builder.create_dot = dot
Builder.create_si_to_fp = lambda self, value, kind: self.cast_impl(self.cast_impl(value, tl.float32), kind)
torch.manual_seed(1)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
def agree(kind, rows, columns):
    module = filled(kind, torch.randn(rows, columns) * 0.02)
    for dtype in DTYPES:
        assert kernel_is_right(module, dtype), (kind, rows, columns, dtype)
"""


def interpret(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEGINNING + code],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_they_agree_for_every_inner_size_of_the_real_model_and_for_odd_ones() -> None:
    interpret("""
for rows, columns in ((8, 1024), (8, 2816), (8, 4096), (8, 11264), (1, 64), (3, 192), (6, 2112)):
    agree(Int8Linear, rows, columns)
    agree(Int4Linear, rows, columns)
""")


@pytest.mark.slow
def test_many_vectors_keep_their_dtype_and_shape_and_large_ones_stay_finite() -> None:
    """fp16 ends at 65,504, which is passed within a row."""
    interpret("""
for kind in (Int8Linear, Int4Linear):
    module = filled(kind, torch.randn(5, 128) * 0.02)
    for dtype in DTYPES:
        x = torch.randn(2, 9, 128).to(dtype)  # more than a tile has
        x[0, 1] = 4000.0
        product = module.with_kernel(x)
        assert product.dtype == dtype and product.shape == (2, 9, 5)
        weight = module.unpacked(torch.float32).double()
        rounding = max(torch.finfo(dtype).eps, 1e-4) * (x.double().abs() @ weight.abs().T)  # of each product, at most
        assert ((product.double() - x.double() @ weight.T).abs() <= rounding).all()
""")


@pytest.mark.slow
def test_every_value_counts_exactly() -> None:
    """Each of the numbers that a weight can be, alone in its row: no other column may leave a trace."""
    interpret("""
x = torch.zeros(1, 64)
for column in (0, 15, 16, 31, 32, 63):
    x.zero_()[0, column] = 1.0
    weight = torch.arange(-128, 128, dtype=torch.int8)[:, None].repeat(1, 64)
    assert torch.equal(kernels.int8_times(x, weight, torch.ones(256))[0], weight[:, column].float())
    grid = torch.linspace(0, 15, 16)[:, None].repeat(1, 64)
    grid[:, :2] = torch.tensor([0.0, 15.0])
    module = filled(Int4Linear, grid)
    assert torch.equal(module.with_kernel(x), module.unpacked(torch.float32)[:, column][None])
""")


@pytest.mark.slow
def test_a_kernel_that_is_wrong_does_not_pass() -> None:
    interpret("""
for kind in (Int8Linear, Int4Linear):
    module = filled(kind, torch.randn(8, 320) * 0.02)
    for name in (kind.kernel, kind.kernel + "_many"):
        true = getattr(kernels, name)
        for spoil in (lambda y: y * 1.05, lambda y: y.flip(0).flip(1), lambda y: y.roll(1, 1), lambda y: y * torch.nan):
            setattr(kernels, name, lambda *args, spoil=spoil, **rest: spoil(true(*args, **rest)))
            assert not any(kernel_is_right(module, dtype) for dtype in DTYPES if dtype != torch.float32)
        setattr(kernels, name, true)
    assert kernel_is_right(module, torch.bfloat16)
""")


def told(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> str:
    """What is said on a device where the kernels answer, but wrongly, or fail with this error."""

    def tried(*_: object) -> bool:
        print("thousands of lines")
        if error:
            raise error
        return False

    monkeypatch.setattr(quantised, "kernel_is_right", tried)
    why_no_kernels.cache_clear()
    try:
        return why_no_kernels(torch.device("cpu"), torch.float32)
    finally:
        why_no_kernels.cache_clear()


def test_why_there_are_none_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = RuntimeError("PTXAS error\nptxas fatal: Value 'sm_121a' is not defined for option 'gpu-name'")
    assert "TRITON_PTXAS_PATH" in told(monkeypatch, unknown)
    assert told(monkeypatch, RuntimeError("no C compiler\nin three places")) == "no C compiler"
    assert told(monkeypatch, ValueError()) == "ValueError"
    assert told(monkeypatch, ImportError("triton")) == "it is not installed"
    assert told(monkeypatch, None) == "its kernels answer wrongly"
    assert capsys.readouterr().out == ""


def test_they_are_tried_in_the_dtype_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, int, torch.dtype]] = []
    monkeypatch.setattr(
        quantised,
        "kernel_is_right",
        lambda module, dtype: not tried.append((type(module).__name__, module.unpacked(dtype).shape[1], dtype)),
    )
    why_no_kernels.cache_clear()
    for dtype in (torch.float16, torch.bfloat16):
        assert why_no_kernels(torch.device("cpu"), dtype) == ""
    why_no_kernels.cache_clear()
    assert {dtype for *_, dtype in tried} == {torch.float16, torch.bfloat16}
    assert {(kind, columns) for kind, columns, _ in tried} >= {("Int8Linear", 11264), ("Int4Linear", 11264)}


def test_the_cpu_and_columns_that_no_kernel_takes_go_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "why_no_kernels", lambda *_: pytest.fail("it was asked for"))
    module = quantised.filled(Int8Linear, torch.randn(4, 88))
    assert module(torch.randn(1, 1, 88)).shape == (1, 1, 4)
