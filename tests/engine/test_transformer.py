"""The lean step against moshi's own modules: same numbers, same tokens, a quarter of the kernels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from costs import Kernels
from golden import CPU, TokenTalk, load_golden
from moshi.models import LMModel
from reference import ModuleDepformer, ModuleTransformer

from personaplex_cli.character import Sampling
from personaplex_cli.engine.prompting import lay_out
from personaplex_cli.engine.steps import PlainRing
from personaplex_cli.engine.transformer import Depformer, KVCache, Transformer, layer_of
from personaplex_cli.library.spec import LM, PERSONAPLEX, spec_with
from personaplex_cli.loader.checkpoint import load_lm
from personaplex_cli.loader.precision import PLAIN, Precision

GOLDEN = load_golden(Path(__file__).parents[1] / "data/golden/golden-b.json")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return GOLDEN.write_weights(tmp_path_factory.mktemp("golden") / PERSONAPLEX.weights_file)


def load(weights: Path, precision: str = "fp32", **sizes: Any) -> LMModel:
    return load_lm(weights, {**GOLDEN.sizes, **sizes}, Precision(precision, PLAIN[precision]), lambda name: CPU)


def lean_of(lm: LMModel) -> Transformer:
    return Transformer(lm, [layer_of(each) for each in lm.transformer.layers])


@pytest.mark.parametrize("context", [3000, 300, 33])
@torch.inference_mode()
def test_over_time_it_equals_the_modules_also_round_the_ring(weights: Path, context: int) -> None:
    lm = load(weights, context=context)
    lean, modules, cache = lean_of(lm), ModuleTransformer(lm), KVCache(lm, 1)
    random = torch.Generator().manual_seed(1)

    def compare(position: int, count: int) -> None:
        x, first = torch.randn(1, count, lm.dim, generator=random), torch.tensor([position])
        kv = cache.upto(cache.span_for(position + count))
        torch.testing.assert_close(lean(x, first, kv), modules(x, first, kv), rtol=1e-4, atol=1e-4)

    for prompt in (30, 29):  # the second begins clean
        modules.reset()
        compare(0, prompt)
        for position in range(prompt, prompt + (80 if context < 300 else 330)):  # past the first span, past the ring
            compare(position, 1)


@pytest.mark.parametrize("context", [3000, 2750, 256, 33])
def test_rows_of_the_mask_lie_where_attention_reads_them_as_they_are(context: int) -> None:
    """Others CUDA copies in every layer: all strides but the last must be multiples of 16."""
    cache = torch.zeros(2, 1, 1, context, 8, dtype=torch.bfloat16)
    for count in (1, 7):
        positions = torch.arange(count)[None]
        mask = PlainRing(positions, torch.ones(1, count, 4), context, cache).seen
        assert mask.shape == (1, 1, count, context) and mask.dtype == torch.bfloat16 and mask.stride(-1) == 1
        assert all(stride % 16 == 0 for stride in mask.stride()[:-1])
        assert torch.equal(mask[0, 0] == 0, torch.arange(context) <= positions[0, :, None])


@torch.inference_mode()
def test_over_codebooks_it_equals_the_modules(weights: Path) -> None:
    lm = load(weights)
    lean, modules = Depformer(lm, 1), ModuleDepformer(lm)
    random = torch.Generator().manual_seed(2)
    for _ in range(5):
        hidden = torch.randn(1, 1, lm.dim, generator=random)
        for step in range(8):
            token = torch.randint(400, (1,), generator=random)
            torch.testing.assert_close(lean(step, token, hidden), modules(step, token, hidden), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", [3000, 50])
def test_greedy_tokens_are_equal(weights: Path, context: int) -> None:
    random = torch.Generator().manual_seed(3)
    voice = torch.randint(2048, (8, 7), generator=random)
    user = torch.randint(2048, (8, 90), generator=random)
    spoken = []
    for by_modules in (False, True):
        lm = load(weights, context=context)
        talk = TokenTalk(lm, GOLDEN.spec)
        if by_modules:
            talk.generator._transformer = ModuleTransformer(lm)  # type: ignore[assignment]
            talk.generator._depformer = ModuleDepformer(lm)  # type: ignore[assignment]
        talk.begin(lay_out(voice, [5, 6], talk.spec), Sampling(greedy=True))
        spoken.append([talk.step(each) for each in user.T])
    assert spoken[0] == spoken[1]


@torch.inference_mode()
def test_in_bf16_it_stays_as_close_as_rounding_allows(weights: Path) -> None:
    lm = load(weights, "bf16")
    lean, modules = lean_of(lm), ModuleTransformer(lm)
    x = torch.randn(1, 20, lm.dim, generator=torch.Generator().manual_seed(4)).bfloat16()
    where = torch.tensor([0]), KVCache(lm, 1).kv
    similarity = torch.nn.functional.cosine_similarity(lean(x, *where).float(), modules(x, *where).float(), dim=-1)
    assert similarity.min() > 0.999


@pytest.fixture(scope="module")
def deep() -> TokenTalk:
    """The real depth at a tiny width, with weights of no meaning."""
    narrow = {
        "dim": 64,
        "num_heads": 4,
        "depformer_dim": 32,
        "depformer_num_heads": 4,
        "depformer_dim_feedforward": 132,
    }
    with torch.no_grad():
        sizes = {**LM, **narrow, "text_card": 400, "context": 64}
        talk = TokenTalk(LMModel(**sizes).requires_grad_(False).eval(), spec_with({"lm": sizes}))
    talk.begin(lay_out(torch.zeros(8, 3, dtype=torch.long), [], talk.spec), Sampling())
    return talk


def test_a_step_of_real_depth_takes_few_kernels(deep: TokenTalk) -> None:
    # Not in inference mode, which would hide what composite operators are made of.
    generator, width = deep.generator, deep.slot.sampler.width
    with torch.no_grad(), Kernels() as kernels:
        deep.slot.prepare({name: each[0] for name, each in generator.inputs.host.items()})
        generator.transform(1, 64)
        generator.depform(1, width)
    assert sum(kernels.counted.values()) <= 2015, kernels.counted.most_common(20)
