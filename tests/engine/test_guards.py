"""What makes a frame quick on a GPU, counted where there is none: what is read, what is asked, what never moves."""

import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from costs import Kernels
from golden import NoWords
from tape import ASKING
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from personaplex_cli.character import Character, Sampling
from personaplex_cli.engine import generator as generator_module
from personaplex_cli.engine import transformer
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.mimi import MimiCodec
from personaplex_cli.engine.pipeline import FramePipeline
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.quantised import Int4Linear, Int8Linear
from personaplex_cli.engine.slot import Slot
from personaplex_cli.engine.steps import fused_steps
from personaplex_cli.library.spec import LM, PERSONAPLEX
from personaplex_cli.loader.checkpoint import unfilled_lm, unfilled_mimi
from personaplex_cli.loader.load import load_cold
from personaplex_cli.loader.precision import Precision, quantise
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME


@pytest.fixture(scope="module")
def engine(random_folder: Path) -> LocalEngine:
    engine = load_cold(ModelOptions(str(random_folder), device="cpu"))
    engine._begin(0, Character("kind", "You are kind.", "NATF2", "NATF2.pt", Sampling(seed=3)))
    return engine


def tensors_of(thing: Any, seen: set[int]) -> dict[int, torch.Tensor]:
    """All tensors that are reachable through attributes, lists and dictionaries, by identity."""
    if id(thing) in seen:
        return {}
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        return {id(thing): thing}
    inside = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list | tuple) else ()
    if type(thing).__module__.startswith(("personaplex_cli", "moshi", "torch.nn")):
        inside = [*inside, *vars(thing).values()]
    return {key: tensor for each in inside for key, tensor in tensors_of(each, seen).items()}


def live_tensors() -> Counter[tuple[Any, ...]]:
    gc.collect()
    return Counter(tuple(each.shape) for each in gc.get_objects() if issubclass(type(each), torch.Tensor))


@pytest.mark.slow
def test_frames_move_nothing_and_pile_up_nothing(engine: LocalEngine) -> None:
    frame = np.random.default_rng(0).normal(0.0, 0.1, FRAME).astype(np.float32)
    for _ in range(3):
        engine.step({0: frame})
    fixed = tensors_of(engine, set())
    where = {key: tensor.data_ptr() for key, tensor in fixed.items()}
    before = live_tensors()
    assert len(where) > 300
    for _ in range(300):
        engine.step({0: frame})
    assert live_tensors() == before
    assert {key: tensor.data_ptr() for key, tensor in tensors_of(engine, set()).items()} == where


class Questions(TorchDispatchMode):
    """Counts how often somebody asks for the value of a tensor."""

    asked = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.asked += function.overloadpacket.__name__ in ASKING
        return function(*args, **(kwargs or {}))


def test_the_device_is_asked_for_its_answer_only(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    fetch = engine.pipeline._fetch
    monkeypatch.setattr(engine.pipeline, "_fetch", lambda rows: fetched.append(1) or fetch(rows))
    with Questions() as questions:
        engine.step({0: np.zeros(FRAME, dtype=np.float32)})
    assert questions.asked == 0 and len(fetched) == 1


class Reads(TorchDispatchMode):
    """Adds up the bytes of all weights that something is multiplied with."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self._weights = weights
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for each in args:
            if isinstance(each, torch.Tensor) and function.overloadpacket.__name__ in ("mm", "linear", "_to_copy"):
                self.bytes += each.nbytes if each.untyped_storage()._cdata in self._weights else 0
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "layer_bits", "depformer_bits"), [("bf16", 16, 16), ("int8", 8, 8)])
def test_at_the_real_size_a_frame_multiplies_with_each_weight_once(
    precision: str, layer_bits: int, depformer_bits: int
) -> None:
    """On `meta`, where nothing has a value: a frame that asked for one would fail."""
    lm = unfilled_lm(LM, torch.bfloat16).requires_grad_(False).eval()
    quantise(lm, Precision(precision, torch.bfloat16))
    generator = TokenGenerator(lm)
    linears = [each for each in lm.modules() if isinstance(each, torch.nn.Linear | Int8Linear | Int4Linear)]
    with torch.no_grad(), Reads({each.weight.untyped_storage()._cdata for each in linears}) as reads:
        generator.transform(1, 3000)
        generator.depform(1, 256)
    layers = 32 * (205_529_088 - 2 * 4096)
    head = 32_000 * 4096
    steps = 8 * (6 * (4 * 1024 * 1024 + 3 * 2816 * 1024) + 4096 * 1024)
    heads = 8 * 2048 * 1024
    assert reads.bytes == layers * layer_bits // 8 + 2 * head + steps * depformer_bits // 8 + 2 * heads
    assert round((layers + 2 * 4096 * 32) / 1e9, 3) == 6.577 and round((steps + heads) / 1e9, 2) == 0.67


class Strangers(TorchDispatchMode):
    """Counts what has to do with another device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        tensors = [each for each in tree_leaves((result, args, kwargs)) if isinstance(each, torch.Tensor)]
        if name in ASKING or any(each.device.type != "meta" for each in tensors):
            self.seen[name] += 1
        return result


@pytest.fixture(scope="module")
def real() -> FramePipeline:
    """A frame at the real size, on `meta`."""
    lm, mimi = unfilled_lm(LM, torch.bfloat16), unfilled_mimi(PERSONAPLEX)
    with torch.no_grad():
        generator = TokenGenerator(lm.eval())
        slot = Slot(generator.embeddings, NoWords(), PERSONAPLEX)
        return FramePipeline(generator, MimiCodec(mimi.eval(), torch.device("meta")), [slot], PromptCache())


@pytest.mark.slow
def test_at_the_real_size_no_part_of_a_frame_leaves_the_device(real: FramePipeline) -> None:
    with torch.no_grad():
        with Strangers() as strangers:
            for part in real._parts(1, 256, 256).values():
                part()
        assert not strangers.seen
        with Strangers() as strangers:  # it does notice
            torch.ones(3, device="meta") * torch.ones(3)[0]
        assert strangers.seen == {"ones": 1, "select": 1, "mul": 1}


@pytest.mark.slow
def test_at_the_real_size_no_part_of_a_frame_takes_more_kernels_than_it_did(
    real: FramePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number is what a frame costs beside reading the weights. A part that needs fewer lowers its ceiling."""
    ceilings = {"encode": 231, "transform": 543, "depform": 720, "decode": 174}
    # One kernel each on CUDA, on `meta` many.
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda query, *_, **__: torch.zeros_like(query))
    monkeypatch.setattr(F, "rms_norm", lambda x, *_: torch.zeros_like(x))
    counted = {}
    with torch.no_grad():
        for name, part in real._parts(1, 3000, 256).items():
            part()  # what is computed once and kept
            with Kernels() as kernels:
                part()
            counted[name[0]] = sum(kernels.counted.values())
    assert all(counted[name] <= ceiling for name, ceiling in ceilings.items()), counted


@pytest.mark.slow
def test_at_the_real_size_fused_steps_leave_little_but_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches of a transform and a depform, 337 of which are products, with kernels that only count themselves."""
    pytest.importorskip("triton", reason="there is no Triton for this system")
    from personaplex_cli.engine import fused

    launched: list[str] = []

    def counting(name: str, answer: Callable[..., Any], launches: int = 1) -> None:
        monkeypatch.setattr(fused, name, lambda *args, **_: launched.extend([name] * launches) or answer(*args))

    counting("add_norm", lambda x, *_: (x, x))
    counting("gated", lambda both: both.chunk(2, dim=-1)[0])
    counting("attend", lambda h, _: h[..., : h.shape[-1] // 3], launches=2)  # a ring's; a codebook's is one
    counting("drawn", lambda logits, *_: torch.empty(len(logits), dtype=torch.long, device=logits.device))
    monkeypatch.setattr(F, "rms_norm", lambda x, *_: torch.zeros_like(x))
    for module in (transformer, generator_module):
        monkeypatch.setattr(module, "steps_for", lambda *_: fused_steps())
    with torch.no_grad(), Kernels() as kernels:
        generator = TokenGenerator(unfilled_lm(LM, torch.bfloat16).eval())
        kernels.counted.clear()
        generator.transform(1, 3000)
        generator.depform(1, 256)
    codebooks = 48  # counted twice above
    assert sum(kernels.counted.values()) + len(launched) - codebooks <= 738, kernels.counted
