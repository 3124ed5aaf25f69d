"""Layers that wait in main memory: the same answers, whichever and however many they are."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import CPU, FP32, TokenTalk, load_golden

from personaplex_cli.character import Sampling
from personaplex_cli.engine.prompting import lay_out
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.loader.checkpoint import load_lm
from personaplex_cli.loader.offload import StreamedLayers, is_streamed, waits_in_main_memory
from personaplex_cli.loader.precision import Precision

GOLDEN = load_golden(Path(__file__).parents[1] / "data/golden/golden-b.json")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return GOLDEN.write_weights(tmp_path_factory.mktemp("golden") / PERSONAPLEX.weights_file)


def held(talk: TokenTalk) -> list[Any]:
    talk.begin(lay_out(GOLDEN.codes("voice"), GOLDEN.data["text_prompt"], talk.spec), Sampling(greedy=True))
    return [talk.step(user) for user in GOLDEN.codes("user").T]


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


def test_after_a_call_that_was_broken_off_the_layers_come_in_their_order_again(weights: Path) -> None:
    lm = load_lm(weights, GOLDEN.sizes, FP32, lambda name: CPU)
    layers = StreamedLayers(lm.transformer.layers, 2, CPU)
    talk = TokenTalk(lm, GOLDEN.spec, layers)
    expected = held(talk)
    assert len(list(islice(layers, 3))) == 3  # the first of the two streamed ones was left, not the second
    assert held(talk) == expected


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
