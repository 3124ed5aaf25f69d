"""The lean step against moshi's own modules: same numbers, same tokens, a quarter of the kernels."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import CPU, load_golden
from moshi.models import LMModel
from torch.utils._python_dispatch import TorchDispatchMode

from personaplex_cli.library.weights import WEIGHTS
from personaplex_cli.model.checkpoint import load_lm
from personaplex_cli.model.prompting import lay_out
from personaplex_cli.model.sizes import LM
from personaplex_cli.model.step import Depformer, ModuleDepformer, ModuleTransformer, Transformer
from personaplex_cli.model.talk import Talk
from personaplex_cli.prompt import Sampling

GOLDEN = load_golden(Path(__file__).parents[1] / "data/golden/golden-b.json")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return GOLDEN.write_weights(tmp_path_factory.mktemp("golden") / WEIGHTS)


def load(weights: Path, dtype: torch.dtype = torch.float32, **sizes: Any) -> LMModel:
    return load_lm(weights, {**GOLDEN.sizes, **sizes}, dtype, lambda name: CPU)


@pytest.mark.parametrize("context", [3000, 300, 33])
@torch.inference_mode()
def test_over_time_it_equals_the_modules_also_round_the_ring(weights: Path, context: int) -> None:
    lm = load(weights, context=context)
    lean, modules = Transformer(lm), ModuleTransformer(lm)
    random = torch.Generator().manual_seed(1)
    for talk in range(2):  # the second begins clean
        lean.reset()
        modules.reset()
        prompt = torch.randn(1, 30 - talk, lm.dim, generator=random)
        torch.testing.assert_close(lean(prompt), modules(prompt), rtol=1e-4, atol=1e-4)
        for _ in range(80 if context < 300 else 330):  # past the first span that is read, past the ring of 300
            x = torch.randn(1, 1, lm.dim, generator=random)
            torch.testing.assert_close(lean(x), modules(x), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_over_codebooks_it_equals_the_modules(weights: Path) -> None:
    lm = load(weights)
    lean, modules = Depformer(lm), ModuleDepformer(lm)
    random = torch.Generator().manual_seed(2)
    for _ in range(5):
        hidden = torch.randn(1, 1, lm.dim, generator=random)
        for step in range(8):
            token = torch.randint(400, (), generator=random)
            torch.testing.assert_close(lean(step, token, hidden), modules(step, token, hidden), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", [3000, 50])
def test_greedy_tokens_are_equal(weights: Path, context: int) -> None:
    random = torch.Generator().manual_seed(3)
    voice = torch.randint(2048, (8, 7), generator=random)
    user = torch.randint(2048, (8, 90), generator=random)
    spoken = []
    for by_modules in (False, True):
        talk = Talk(load(weights, context=context), by_modules)
        talk.begin(lay_out(voice, [5, 6], talk.rows), Sampling(greedy=True))
        spoken.append([(int(text), codes.tolist()) for text, codes in map(talk.step, user.T)])
    assert spoken[0] == spoken[1]


@torch.inference_mode()
def test_in_bf16_it_stays_as_close_as_rounding_allows(weights: Path) -> None:
    lm = load(weights, torch.bfloat16)
    lean, modules = Transformer(lm), ModuleTransformer(lm)
    x = torch.randn(1, 20, lm.dim, generator=torch.Generator().manual_seed(4)).bfloat16()
    similarity = torch.nn.functional.cosine_similarity(lean(x).float(), modules(x).float(), dim=-1)
    assert similarity.min() > 0.999


class Kernels(TorchDispatchMode):
    """Counts what is really computed: operators that only look at memory differently do not count."""

    VIEWS = (
        "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze",
        "detach", "alias", "as_strided", "unbind", "split", "split_with_sizes", "chunk", "_reshape_alias",
        "lift_fresh", "empty", "view_as_complex", "view_as_real", "unfold", "narrow",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name not in self.VIEWS:
            self.counted[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def deep() -> Talk:
    """The real depth at a tiny width, with weights of no meaning."""
    narrow = {
        "dim": 64,
        "num_heads": 4,
        "depformer_dim": 32,
        "depformer_num_heads": 4,
        "depformer_dim_feedforward": 132,
    }
    with torch.no_grad():
        talk = Talk(LMModel(**{**LM, **narrow, "text_card": 400, "context": 64}).requires_grad_(False).eval())
    talk.begin(lay_out(torch.zeros(8, 3, dtype=torch.long), [], talk.rows), Sampling())
    return talk


def test_a_step_of_real_depth_takes_at_most_2000_kernels(deep: Talk) -> None:
    # Not in inference mode, which would hide what composite operators are made of.
    step = Talk.step.__wrapped__  # type: ignore[attr-defined]
    with torch.no_grad(), Kernels() as kernels:
        step(deep, torch.zeros(8, dtype=torch.long))
    assert sum(kernels.counted.values()) <= 2000, kernels.counted.most_common(20)


def test_all_state_stays_where_it_is(deep: Talk) -> None:
    def addresses() -> list[int]:
        held = [deep._column, *vars(deep._transformer).values(), *vars(deep._depformer).values()]
        return [each.data_ptr() for each in held if isinstance(each, torch.Tensor)]

    before = addresses()
    assert len(before) >= 5
    for _ in range(100):  # once round the ring of 64 and on
        deep.step(torch.zeros(8, dtype=torch.long))
    assert addresses() == before
