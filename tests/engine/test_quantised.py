"""Weights in 8 and 4 bits: how far they may be off, how they are packed, what is kept on disk."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import CPU, FP32, TokenTalk, load_golden
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from personaplex_cli.character import Sampling
from personaplex_cli.engine import quantised
from personaplex_cli.engine.prompting import lay_out
from personaplex_cli.engine.quantised import (
    PACKING,
    Int4Linear,
    Int8Linear,
    Quantised,
    _in_pairs,
    _out_of_pairs,
    filled,
)
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.loader import quantised_cache
from personaplex_cli.loader.checkpoint import load_lm
from personaplex_cli.loader.precision import Precision
from personaplex_cli.loader.quantised_cache import QuantisedCache

GOLDEN = load_golden(Path(__file__).parents[1] / "data/golden/golden-b.json")
INT8, INT4 = Precision("int8", torch.float32), Precision("int4", torch.float32)
KINDS = [Int8Linear, Int4Linear]


def weight_of(seed: int, rows: int, columns: int, size: float = 0.02) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size


@given(st.integers(0, 9999), st.integers(1, 9), st.sampled_from([2, 6, 64, 88, 130, 176, 192, 4096]))
def test_pairs_come_apart_as_they_went_in(seed: int, rows: int, columns: int) -> None:
    values = torch.randint(0, 16, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    pairs = _in_pairs(values)
    assert pairs.shape == (rows, columns // 2) and pairs.dtype == torch.int8
    assert torch.equal(_out_of_pairs(pairs), values)


def test_where_the_kernel_finds_a_column() -> None:
    """Byte j of a unit of 32 columns is column j + 16 * column (16 + j) - 128."""
    values = torch.arange(128, dtype=torch.int8).view(1, 128) % 13
    low, high = values.view(4, 2, 16).unbind(1)
    assert torch.equal(_in_pairs(values).view(4, 16), low + 16 * high - 128)


def test_what_is_packed_otherwise_has_another_number() -> None:
    """Weights that were kept on disk are read by `PACKING`: whoever changes what is packed changes it, and this."""
    weight = torch.arange(-256, 256).view(2, 256) / 64
    packed = [part for kind in KINDS for part in kind.pack(weight).values()]
    digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in packed)).hexdigest()
    assert (PACKING, digest[:16]) == (2, "3526adcbbceb248e")


@given(st.integers(0, 9999), st.integers(1, 9), st.sampled_from([2, 6, 64, 130, 192]), st.floats(1e-4, 1e3))
def test_no_weight_is_off_by_more_than_half_a_step(seed: int, rows: int, columns: int, size: float) -> None:
    weight = weight_of(seed, rows, columns, size)
    eight = filled(Int8Linear, weight).unpacked(torch.float32)
    steps = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((eight - weight).abs() <= steps * 0.5001).all()
    four = filled(Int4Linear, weight).unpacked(torch.float32)
    group = 64 if columns % 64 == 0 else columns
    grouped = weight.view(rows, -1, group)
    steps = (grouped.amax(dim=2, keepdim=True) - grouped.amin(dim=2, keepdim=True)) / 15
    rounding = grouped.abs().amax(dim=2, keepdim=True) * 2e-3 + 1e-6  # of scale and least value to float16
    assert ((four.view_as(grouped) - grouped).abs() <= steps * 0.501 + rounding).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_multiplies_with_what_it_stands_for(kind: Quantised, dtype: torch.dtype) -> None:
    module = filled(kind, weight_of(0, 40, 128))
    x = weight_of(1, 5, 128, 1.0).to(dtype)[None]
    expected = F.linear(x.float(), module.unpacked(torch.float32))
    product = module(x)
    assert product.dtype == dtype and product.shape == (1, 5, 40)
    torch.testing.assert_close(product.float(), expected, rtol=0.02, atol=0.01 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_rows_stay_finite(kind: Quantised) -> None:
    weight = torch.zeros(3, 64)
    weight[1] = 5.0
    weight[2, ::2] = -3.0
    module = filled(kind, weight)
    torch.testing.assert_close(module.unpacked(torch.float32), weight, rtol=1e-2, atol=1e-2)
    assert module(torch.ones(1, 1, 64)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("largest", [1.0, 400.0, 1000.0, 20_000.0])
def test_one_large_number_among_thousands_does_not_leave_float16(kind: Quantised, largest: float) -> None:
    """Large models have such, and whole numbers up to 127 times 1000 are more than float16 can hold."""
    weight = weight_of(0, 64, 11264)
    x = weight_of(1, 5, 11264, 1.0)[None]
    x[0, :4, 77] = largest
    module = filled(kind, weight)
    expected = F.linear(x, module.unpacked(torch.float32))
    torch.testing.assert_close(module(x.half()).float(), expected, rtol=0.01, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_in_blocks_it_packs_and_multiplies_as_in_one(kind: Quantised, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = weight_of(0, 50, 128), weight_of(1, 3, 128)
    whole = filled(kind, weight)
    expected = whole(x)
    monkeypatch.setattr(quantised, "BLOCK", 7 * 128)
    parts = filled(kind, weight)
    assert all(torch.equal(each, whole.state_dict()[name]) for name, each in parts.state_dict().items())
    torch.testing.assert_close(parts(x), expected)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return GOLDEN.write_weights(tmp_path_factory.mktemp("golden") / PERSONAPLEX.weights_file)


def load(weights: Path, precision: Precision, cache: QuantisedCache | None = None) -> Any:
    return load_lm(weights, GOLDEN.sizes, precision, lambda name: CPU, cache)


def test_only_the_linears_that_frames_read_most_are_packed(weights: Path) -> None:
    for precision, kind in ((INT8, Int8Linear), (INT4, Int4Linear)):
        lm = load(weights, precision)
        layers = [lm.transformer.layers[0].self_attn.in_projs[0], lm.transformer.layers[1].gating.linear_out]
        assert all(type(each) is kind for each in layers)
        small = [lm.depformer.layers[0].self_attn.out_projs[7], lm.depformer.layers[0].gating[3].linear_in]
        assert all(type(each) is Int8Linear for each in [*small, *lm.depformer_in])
        plain = [lm.text_linear, *lm.linears]
        assert all(type(each) is torch.nn.Linear for each in plain)


def teacher_forced(talk: TokenTalk, spoken: list[tuple[int, list[int]]] | None) -> tuple[Any, list[torch.Tensor]]:
    """Talk; if `spoken` is given, keep saying that instead of one's own. Returns what was chosen, and the outputs."""
    talk.begin(lay_out(GOLDEN.codes("voice"), GOLDEN.data["text_prompt"], talk.spec), Sampling(greedy=True))
    chosen, outputs = [], []
    for index, user in enumerate(GOLDEN.codes("user").T):
        if spoken:
            talk.slot._column[0], talk.slot._column[1:9] = spoken[index][0], spoken[index][1]
            talk.pipeline.skip_to(0, talk.slot.position)
        talk.step(user)
        chosen.append((talk.slot._column[0], talk.slot._column[1:9]))
        outputs.append(talk.generator.hidden.flatten().clone())
    return chosen, outputs


def test_outputs_stay_close_to_the_plain_ones(weights: Path) -> None:
    plain, outputs = teacher_forced(TokenTalk(load(weights, FP32), GOLDEN.spec), None)
    said = [(0, [0] * 8), *plain[:-1]]
    plain, outputs = teacher_forced(TokenTalk(load(weights, FP32), GOLDEN.spec), said)
    for precision, usual, least in ((INT8, 0.999, 0.99), (INT4, 0.75, 0.5)):
        _, others = teacher_forced(TokenTalk(load(weights, precision), GOLDEN.spec), said)
        similar = F.cosine_similarity(torch.stack(outputs), torch.stack(others), dim=-1)
        assert similar.median() > usual and similar.min() > least, (precision.name, similar)


def test_kept_weights_are_the_same_and_are_not_made_again(weights: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(quantised_cache, "SHARD", 100_000)  # several files
    cache = QuantisedCache(tmp_path / "quantised/mine", expected=0)
    first = load(weights, INT8, cache).state_dict()
    assert cache.exists and len(list((tmp_path / "quantised/mine").iterdir())) > 2
    monkeypatch.setattr(Int8Linear, "pack", None)
    second = load(weights, INT8, cache).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("spoil", [lambda file: file.write_bytes(file.read_bytes()[:50]), Path.unlink])
def test_spoiled_weights_are_made_anew_and_the_model_is_not_blamed(
    spoil: Callable[[Path], object], weights: Path, tmp_path: Path
) -> None:
    cache = QuantisedCache(tmp_path / "quantised/mine", expected=0)
    first = load(weights, INT8, cache).state_dict()
    spoil(sorted((tmp_path / "quantised/mine").iterdir())[0])
    for _ in range(2):
        again = load(weights, INT8, cache).state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert cache.exists


def test_nothing_half_kept_stays_behind(weights: Path, tmp_path: Path, monkeypatch: Any) -> None:
    cache = QuantisedCache(tmp_path / "quantised/mine", expected=0)
    tensors = cache.keep(iter([("a", torch.zeros(3)), ("b", torch.zeros(3))]))
    next(tensors)
    tensors.close()
    assert not cache.exists and not list((tmp_path / "quantised").iterdir())
    full = QuantisedCache(tmp_path / "quantised/mine", expected=10**18)
    assert load(weights, INT8, full) and not full.exists
    (tmp_path / "file").touch()
    nowhere = QuantisedCache(tmp_path / "file/mine", expected=0)
    assert load(weights, INT8, nowhere) and not nowhere.exists


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(4):
        list(QuantisedCache(tmp_path / f"{number}", expected=0).keep(iter([("a", torch.zeros(3))])))
        os.utime(tmp_path / f"{number}", (number, number))
    list(QuantisedCache(tmp_path / "new", expected=0).keep(iter([("a", torch.zeros(3))])))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["3", "new"]
