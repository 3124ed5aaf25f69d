"""The fused steps against the plain ones: in Triton's interpreter; and who uses them."""

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interpreted import hold
from torch import Tensor

from personaplex_cli import engine
from personaplex_cli.engine import steps
from personaplex_cli.engine.steps import PLAIN, Steps, agreeing, steps_for, why_plain

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.slow
def test_their_laws_hold_in_the_interpreter() -> None:
    hold(Path(__file__).with_name("interpreted_steps.py"))


def spoiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but what it answers, or what is answered by what it answers, is a little too large."""

    def spoil(answer: Any) -> Any:
        if isinstance(answer, Tensor):
            return answer * 1.05 if answer.is_floating_point() else answer ^ 1
        if isinstance(answer, tuple | list):
            return type(answer)([*answer[:-1], spoil(answer[-1])])
        return spoiled(answer)

    return lambda *rest: spoil(step(*rest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [each.name for each in fields(Steps) if each.name != "fits_all"])
def test_one_that_is_wrong_is_found(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    others = replace(PLAIN, **{name: spoiled(getattr(PLAIN, name))})
    assert [step for step, right in agreeing(others, CPU, dtype).items() if not right] == [name]


def test_they_are_tried_once_for_each_device_and_dtype_and_only_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[torch.dtype] = []
    monkeypatch.setattr(steps, "fused_steps", lambda: replace(PLAIN))
    monkeypatch.setattr(torch.cuda, "device", lambda device: pytest.MonkeyPatch.context())
    right = {torch.bfloat16: True, torch.float16: False}
    monkeypatch.setattr(steps, "agreeing", lambda _, __, dtype: tried.append(dtype) or {"gated": right[dtype]})
    why_plain.cache_clear()
    for _ in range(2):
        assert steps_for(GPU, torch.bfloat16) is not PLAIN
        assert steps_for(GPU, torch.float16) is PLAIN
    assert why_plain(GPU, torch.float16) == "its kernels answer wrongly"
    why_plain.cache_clear()
    assert tried == [torch.bfloat16, torch.float16]
    monkeypatch.setattr(steps, "why_plain", lambda *_: pytest.fail("it was asked for"))
    assert steps_for(CPU, torch.bfloat16) is PLAIN


def test_there_are_none_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "personaplex_cli.engine.fused", raising=False)
    monkeypatch.delattr(engine, "fused", raising=False)  # another test may have imported it
    monkeypatch.setattr(torch.cuda, "device", lambda device: pytest.MonkeyPatch.context())
    why_plain.cache_clear()
    assert why_plain(GPU, torch.bfloat16) == "it is not installed"
    why_plain.cache_clear()
