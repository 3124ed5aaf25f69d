"""Layers that wait in main memory: the same answers, whichever and however many they are."""

from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from costs import LargestCopy
from fakecuda import FakeCuda
from golden import CPU, FP32, TokenTalk, load_golden
from moshi.models import LMModel

from personaplex_cli.character import Sampling
from personaplex_cli.engine.prompting import lay_out
from personaplex_cli.engine.staging import Packing
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.loader import offload
from personaplex_cli.loader.checkpoint import load_lm
from personaplex_cli.loader.offload import StreamedLayers, _Place, is_streamed, waits_in_main_memory
from personaplex_cli.loader.pinned import pinned
from personaplex_cli.loader.precision import Precision

GOLDEN = load_golden(Path(__file__).parents[1] / "data/golden/golden-b.json")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return GOLDEN.write_weights(tmp_path_factory.mktemp("golden") / PERSONAPLEX.weights_file)


def held(talk: TokenTalk, frames: int = 48) -> list[Any]:
    talk.begin(lay_out(GOLDEN.codes("voice"), GOLDEN.data["text_prompt"], talk.spec), Sampling(greedy=True))
    return [talk.step(user) for user in GOLDEN.codes("user").T[:frames]]


@pytest.mark.parametrize("precision", [FP32, Precision("int8", torch.float32), Precision("int4", torch.float32)])
def test_streamed_layers_answer_like_resident_ones(weights: Path, precision: Precision) -> None:
    def load() -> Any:
        return load_lm(weights, GOLDEN.sizes, precision, lambda name: CPU)

    expected = held(TokenTalk(load(), GOLDEN.spec))
    layers = len(load().transformer.layers)
    for streamed in range(1, layers + 1):
        lm = load()
        moving = StreamedLayers(lm.transformer.layers, streamed, CPU)
        absent = [each.is_meta for each in lm.transformer.layers.state_dict().values()]
        assert 0 < sum(absent) < len(absent)
        talk = TokenTalk(lm, GOLDEN.spec, moving)
        assert held(talk) == expected
        assert held(talk) == expected


class Failed(Exception):
    pass


@pytest.mark.parametrize("brought", range(3))
@pytest.mark.parametrize("copied", [False, True])
def test_after_a_call_that_was_broken_off_every_layer_is_itself(
    weights: Path, brought: int, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether what broke off was a computation with a layer, or the copy of the next one, half done."""
    lm = load_lm(weights, GOLDEN.sizes, FP32, lambda name: CPU)
    layers = StreamedLayers(lm.transformer.layers, 3, CPU)
    talk = TokenTalk(lm, GOLDEN.spec, layers)
    expected = held(talk, 6)
    take, takes = _Place.take, iter(range(99))

    def fails(place: _Place, waiting: torch.Tensor) -> None:
        if next(takes) == brought:
            place._memory.zero_()
            raise Failed
        take(place, waiting)

    if copied:
        with monkeypatch.context() as patch, suppress(Failed):
            patch.setattr(_Place, "take", fails)
            held(talk, 6)
    else:
        list(islice(layers, brought + 1))
    assert held(talk, 6) == expected


def test_no_layer_is_held_twice(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load_lm(weights, GOLDEN.sizes, FP32, lambda name: CPU)
    whole = sum(each.nbytes for each in lm.transformer.layers.state_dict().values())
    alive: list[int] = []
    moved = StreamedLayers._moved

    def watched(self: StreamedLayers, *rest: Any) -> torch.Tensor:
        memory = moved(self, *rest)
        kept = (each.nbytes for each in lm.transformer.layers.state_dict().values() if not each.is_meta)
        alive.append(sum(kept) + memory.nbytes * (len(alive) + 1))
        return memory

    monkeypatch.setattr(StreamedLayers, "_moved", watched)
    StreamedLayers(lm.transformer.layers, 3, CPU)
    assert len(alive) == 3 and max(alive) <= whole


def test_what_waits_is_copied_in_pieces(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "PIECE", 1000)
    lm = load_lm(weights, GOLDEN.sizes, FP32, lambda name: CPU)
    layers = StreamedLayers(lm.transformer.layers, 3, CPU)
    with LargestCopy() as largest:
        list(layers)
    assert 0 < largest.nbytes <= 1000


SECOND = torch.device("cuda", 1)


def test_copies_and_computations_wait_for_each_other_on_streams_of_their_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCuda(monkeypatch)
    layer = LMModel(**{**GOLDEN.sizes, "num_layers": 1}).transformer.layers[0]
    packing = Packing({name: (tuple(each.shape), each.dtype) for name, each in offload._linears(layer).items()})
    copying: Any = torch.cuda.Stream(SECOND)
    place = _Place(layer, packing, CPU, copying)
    place.take(torch.zeros(packing.nbytes, dtype=torch.uint8))
    place.await_copy()
    computing, left, copied = cuda.first_stream, place._left, place._copied
    expected = [("record", left, computing), ("wait", left, copying), ("record", copied, copying)]
    assert cuda.log == [*expected, ("wait", copied, computing)]


class FakeRuntime:
    def __init__(self, refuses: bool) -> None:
        self.refuses = refuses
        self.pages: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        self.pages |= {} if self.refuses else {address: size}
        return int(self.refuses)

    def cudaHostUnregister(self, address: int) -> None:  # noqa: N802
        del self.pages[address]


class Owner:
    pass


@pytest.mark.parametrize("refuses", [False, True])
def test_exactly_what_is_needed_is_pinned_until_its_owner_is_gone(
    refuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(error: int) -> None:
        if error:
            raise RuntimeError("CUDA error: out of memory")

    runtime, waited, empty = FakeRuntime(refuses), [], torch.empty
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "check_error", check)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch, "empty", lambda *sizes, pin_memory, **kinds: empty(*sizes, **kinds))
    owner = Owner()
    memory = pinned(411_041_792 // 64, CPU, owner)
    assert memory.nbytes == 411_041_792 // 64 and memory.fill_(3).sum() == 3 * len(memory)
    assert runtime.pages == ({} if refuses else {memory.data_ptr(): memory.nbytes})
    del owner
    assert not runtime.pages and len(waited) == (not refuses)


@pytest.mark.parametrize("layers", [1, 2, 7, 32])
def test_as_many_layers_wait_as_were_asked_for(layers: int) -> None:
    for streamed in range(layers + 1):
        assert sum(is_streamed(each, layers, streamed) for each in range(layers)) == streamed


def test_only_the_linears_of_the_big_transformer_wait() -> None:
    waiting = "transformer.layers.3.self_attn.in_proj_weight", "transformer.layers.0.gating.linear_in.weight"
    staying = "transformer.layers.3.norm1.alpha", "depformer.layers.3.self_attn.in_proj_weight", "text_linear.weight"
    assert all(waits_in_main_memory(name, 4, 4) for name in waiting)
    assert not any(waits_in_main_memory(name, 4, 4) for name in staying)
    assert not any(waits_in_main_memory(name, 4, 0) for name in waiting)
