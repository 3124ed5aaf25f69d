"""Laws of the fused steps, for Triton's interpreter: `test_fused.py` runs this file in a process of its own."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from golden import load_golden
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from personaplex_cli.character import Sampling
from personaplex_cli.engine import fused, generator, transformer
from personaplex_cli.engine.prompting import lay_out
from personaplex_cli.engine.sampling import counted, noise, sample
from personaplex_cli.engine.steps import PLAIN, Steps, agreeing, fused_steps

CPU = torch.device("cpu")
FUSED = fused_steps()
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)


def close(ours: Tensor, plain: Tensor) -> None:
    """The interpreter cuts numbers off where they should be rounded to 16 bits, hence two steps of the dtype."""
    tolerance = max(2 * torch.finfo(plain.dtype).eps, 1e-5)
    torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_agree_as_a_device_asks_them_to(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    assert agreeing(FUSED, CPU, dtype) == dict.fromkeys(
        (each.name for each in fields(Steps) if each.name != "fits_all"), True
    )


@given(st.integers(1, 3), st.integers(1, 5000), dtypes, seeds)
@settings(max_examples=20)
def test_what_is_added_normed_and_gated(rows: int, width: int, dtype: torch.dtype, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x, y, both, alpha = (
        torch.randn(*shape, generator=random).to(dtype)
        for shape in ((rows, 1, width), (rows, 1, width), (rows, 1, 2 * width), (width,))
    )
    for ours, plain in zip(FUSED.add_norm(x, y, alpha, 1e-5), PLAIN.add_norm(x, y, alpha, 1e-5), strict=True):
        close(ours, plain)
    close(FUSED.gated(both), PLAIN.gated(both))


@given(
    st.integers(1, 700).flatmap(
        lambda context: st.tuples(st.just(context), st.lists(st.integers(0, 3 * context), min_size=1, max_size=4))
    ),
    st.sampled_from([8, 16]),
    st.sampled_from(DTYPES[:2]),
    seeds,
)
@example((3000, [0, 2999, 3000, 31]), 128, torch.bfloat16, 1)
@settings(max_examples=8)
def test_a_ring_is_read_where_it_is_filled(
    where: tuple[int, list[int]], width: int, dtype: torch.dtype, seed: int
) -> None:
    """What it must not look at is no number: one look would spoil the answer."""
    context, positions = where
    random = torch.Generator().manual_seed(seed)
    batch, span = len(positions), min(context, max(positions) + 1)
    ring = torch.randn(2, batch, 2, context, width, generator=random).to(dtype)
    poisoned = ring.clone()
    for row, position in enumerate(positions):
        poisoned[:, row, :, position + 1 :] = torch.nan
        poisoned[:, row, :, position % context] = torch.nan
    at = torch.tensor(positions)[:, None]
    turns = torch.polar(torch.ones(batch, 1, width // 2), torch.rand(batch, 1, width // 2, generator=random))
    h = torch.randn(batch, 1, 6 * width, generator=random).to(dtype)
    ours = FUSED.ring(at, turns, context, poisoned)(h, poisoned[..., :span, :])
    plain = PLAIN.ring(at, turns, context, ring[..., :span, :])(h, ring[..., :span, :])
    close(ours, plain)
    for row, position in enumerate(positions):
        written = position % context
        close(poisoned[:, row, :, written], ring[:, row, :, written])
        poisoned[:, row, :, written] = ring[:, row, :, written]
        assert torch.equal(poisoned[:, row, :, : position + 1], ring[:, row, :, : position + 1])


@given(st.integers(1, 3000), st.integers(0, 2999), st.floats(0, 5), dtypes, st.booleans(), seeds)
@settings(max_examples=30)
@example(32000, 249, 0.8, torch.bfloat16, False, 1)
@example(2048, 0, 0.0, torch.bfloat16, True, 1)
def test_the_same_token_is_drawn(
    tokens: int, rank: int, temperature: float, dtype: torch.dtype, coarse: bool, seed: int
) -> None:
    """`coarse` logits are often equal, as those of 16 bits are; of equals torch takes the first."""
    random = torch.Generator().manual_seed(seed)
    logits = (torch.randn(3, tokens, generator=random) * 4).to(dtype)
    if coarse:
        logits = logits.round()
    keys = torch.randint(-(2**31), 2**31, (3, 2), generator=random).to(torch.int32)
    warmth, ranks = torch.full((3, 2), temperature), torch.full((3, 2), min(rank, tokens - 1))
    loud = noise(keys, warmth, counted(tokens, CPU))[:, 1]
    ours = fused.drawn(logits, keys[:, 1], warmth[:, 1], ranks[:, 1])
    plain = sample(logits, loud, ranks[:, 1], 3000)
    for row in (ours != plain).nonzero().flatten().tolist():
        one, other = (logits.float() + loud)[row, [ours[row], plain[row]]]  # two logarithms may round differently
        assert temperature > 0 and logits[row, ours[row]] >= logits[row].sort(descending=True).values[ranks[row, 1]]
        assert float(other - one) <= 1e-5 * max(1.0, temperature)


@pytest.mark.parametrize("spoil", [torch.nan, torch.inf, -torch.inf])
def test_of_no_numbers_some_token_is_drawn(spoil: float) -> None:
    """One that is none would be looked up beyond the end of a table."""
    logits = torch.full((1, 300), spoil)
    how = torch.tensor([[1]], dtype=torch.int32), torch.tensor([[0.8]]), torch.tensor([[24]])
    assert 0 <= int(fused.drawn(logits, *(each[:, 0] for each in how))) < 300


def test_a_talk_has_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the ring's end, too."""
    golden = load_golden(Path(__file__).parents[1] / "data/golden/golden-a.json")
    user = golden.codes("user").T[:2]
    spoken = []
    for steps in (PLAIN, FUSED):
        for module in (generator, transformer):
            monkeypatch.setattr(module, "steps_for", lambda *_, steps=steps: steps)
        talk = golden.talk(tmp_path, context=32)
        talk.begin(lay_out(golden.codes("voice"), golden.data["text_prompt"], talk.spec), Sampling(seed=1))
        spoken.append([talk.step(each) for each in user])
    assert talk.slot.position > 32
    assert spoken[0] == spoken[1]
