"""What is needed for a moment on a GPU that the model nearly fills, counted at the real sizes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from costs import LiveBytes
from golden import finished
from torch.nn import functional as F

from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.prefill import read_prompt
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.quantised import Int4Linear, Int8Linear, Quantised, pack
from personaplex_cli.library.spec import LM
from personaplex_cli.loader.checkpoint import unfilled_lm
from personaplex_cli.loader.memory_plan import TEMPORARY_BYTES
from personaplex_cli.loader.precision import Precision, quantise

MB = 10**6
SHAPES = [(12288, 4096), (22528, 4096), (4096, 11264)]


class Forgetful(PromptCache):
    def find(self, layout: Any) -> None:
        return None

    def keep(self, layout: Any, remembered: torch.Tensor, hidden: torch.Tensor) -> None:
        pass


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_packing_needs_little_beside_what_it_takes_and_gives(kind: Quantised) -> None:
    weight = torch.zeros(22528, 4096, dtype=torch.bfloat16)
    with LiveBytes("cpu") as live:
        packed = pack(kind, weight)
    assert live.peak - sum(each.nbytes for each in packed.values()) < 120 * MB


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_unpacking_for_a_prompt_needs_little_beside_the_result(kind: Quantised, rows: int, columns: int) -> None:
    module = kind(rows, columns)
    with LiveBytes("meta") as live:
        product = module(torch.empty(1, 500, columns, dtype=torch.bfloat16, device="meta"))
    assert product.shape == (1, 500, rows)
    assert live.peak - product.nbytes - 500 * columns * 2 < 80 * MB


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention and norm are one kernel each on a GPU, and keep nothing."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda query, *_: torch.empty_like(query))
    monkeypatch.setattr(F, "rms_norm", lambda x, *_: torch.empty_like(x))


@pytest.fixture(scope="module", params=["bf16", "int8", "int4"])
def generator(request: pytest.FixtureRequest) -> TokenGenerator:
    lm = unfilled_lm(LM, torch.bfloat16).requires_grad_(False).eval()
    return TokenGenerator(quantise(lm, Precision(request.param, torch.bfloat16)))


@pytest.mark.slow
@pytest.mark.parametrize("positions", [90, 500, 2900])
def test_reading_a_prompt_stays_within_what_is_set_aside(
    generator: TokenGenerator, positions: int, fused: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout: Any = SimpleNamespace(
        positions=positions, columns=torch.zeros(17, positions + 1, dtype=torch.long, device="meta"), embeddings=None
    )
    with torch.inference_mode(), LiveBytes("meta") as live:
        finished(read_prompt(generator, 0, layout, Forgetful()))
    assert live.peak < TEMPORARY_BYTES, live.peak / MB
