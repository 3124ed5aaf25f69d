"""The quantised kernels against the plain way: in Triton's interpreter; and who uses them."""

from pathlib import Path

import pytest
import torch
from interpreted import hold

from personaplex_cli.engine import quantised
from personaplex_cli.engine.quantised import Int8Linear, why_no_kernels

pytest.importorskip("triton", reason="there is no Triton for this system")


@pytest.mark.slow
def test_their_laws_hold_in_the_interpreter() -> None:
    hold(Path(__file__).with_name("interpreted_kernels.py"))


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
