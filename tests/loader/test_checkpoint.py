"""The loader reads what is needed, exactly, and tells what is wrong with a file that is not right."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden import CPU, FP32, load_golden
from moshi.models import LMModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from personaplex_cli.errors import ModelError
from personaplex_cli.library.spec import LM, MOSHI, PERSONAPLEX, SPEC_FILE, spec_of_folder
from personaplex_cli.loader.checkpoint import file_shapes, load_lm, load_mimi, load_tokenizer, no_random_init
from personaplex_cli.loader.precision import PLAIN, Precision

WEIGHTS, MIMI, TOKENIZER = PERSONAPLEX.weights_file, PERSONAPLEX.mimi_file, PERSONAPLEX.tokenizer_file
GOLDEN = load_golden(Path(__file__).parents[1] / "data/golden/golden-b.json")


@pytest.fixture(scope="session")
def golden_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return GOLDEN.write_weights(tmp_path_factory.mktemp("golden") / WEIGHTS)


@pytest.fixture
def model(random_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(random_folder, tmp_path / "model")
    return tmp_path / "model"


def load(path: Path, precision: str = "fp32") -> LMModel:
    return load_lm(path, GOLDEN.sizes, Precision(precision, PLAIN[precision]), lambda name: CPU)


def test_only_the_agents_eight_depformer_steps_are_loaded(golden_weights: Path) -> None:
    lm = load(golden_weights)
    whole = load_file(golden_weights)
    assert lm.dep_q == len(lm.linears) == len(lm.depformer_in) == 8 and len(lm.depformer_emb) == 7
    stacked = whole["depformer.layers.0.self_attn.in_proj_weight"]
    ours = [linear.weight for linear in lm.depformer.layers[0].self_attn.in_projs]
    assert torch.equal(torch.cat(ours), stacked[: len(stacked) // 2])
    assert torch.equal(
        lm.depformer.layers[0].gating[7].linear_in.weight, whole["depformer.layers.0.gating.7.linear_in.weight"]
    )


@pytest.mark.parametrize("precision", PLAIN)
def test_weights_arrive_in_the_precision_asked_without_gradients(golden_weights: Path, precision: str) -> None:
    lm = load(golden_weights, precision)
    assert {parameter.dtype for parameter in lm.parameters()} == {PLAIN[precision]}
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in lm.parameters())
    assert not lm.training


def test_a_file_of_eight_steps_loads_as_well(golden_weights: Path, tmp_path: Path) -> None:
    lm = load(golden_weights)
    state = dict(lm.state_dict())
    shapes = file_shapes(lm)
    eight = {name: torch.cat([state[key] for key in state if _file_name(key) == name]).contiguous() for name in shapes}
    save_file(eight, tmp_path / WEIGHTS)
    again = load(tmp_path / WEIGHTS)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in state.items())


def _file_name(key: str) -> str:
    module = torch.nn.Module()
    module.state_dict = lambda: {key: torch.zeros(1)}  # type: ignore[method-assign,assignment]
    return next(iter(file_shapes(module)))


def test_the_7b_has_the_known_size_and_names() -> None:
    """8.37 billion parameters in the file's 16 steps; ours are those less 8 steps of the depformer."""
    with no_random_init():
        whole = LMModel(device="meta", **{**LM, "dep_q": 16})
        ours = LMModel(device="meta", **LM)
    count = {name: torch.Size(shape).numel() for name, shape in file_shapes(whole).items()}
    assert round(sum(count.values()) / 1e9, 2) == 8.37
    assert sum(count[name] for name in count if name.startswith("transformer.")) == 6_576_930_816
    assert set(file_shapes(ours)) < set(count)


def test_no_random_numbers_are_drawn_and_torch_is_left_as_it_was() -> None:
    state = torch.get_rng_state()
    with no_random_init():
        torch.nn.Linear(3, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.nn.Linear(3, 3)
    assert not torch.equal(torch.get_rng_state(), state)


def test_the_references_own_moshi_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from personaplex_cli import engine

    engine.refuse_other_moshi()
    monkeypatch.setattr(engine, "distribution", lambda name: object())
    with pytest.raises(ModelError, match="moshi-personaplex"):
        engine.refuse_other_moshi()


def _without(name: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        state = load_file(path)
        del state[name]
        save_file(state, path)

    return spoil


def _with(name: str, shape: tuple[int, ...]) -> Callable[[Path], None]:
    return lambda path: save_file({**load_file(path), name: torch.zeros(shape)}, path)


def _changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        state = load_file(path)
        save_file({**state, name: change(state[name])}, path)

    return spoil


def _one_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return change


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid x"), "Git LFS pointer"),
    "page": (lambda path: path.write_text("<!DOCTYPE html><html>Sign in</html>"), "web page"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 9), "damaged"),
    "header only": (lambda path: path.write_bytes(path.read_bytes()[:500]), "damaged"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "damaged"),
    "lacking": (_without("emb.3.weight"), "lacks 1 tensors, such as emb.3.weight"),
    "strange": (_with("lora.weight", (3,)), "1 tensors too many, such as lora.weight"),
    "other shape": (_with("text_linear.weight", (4, 4)), r"text_linear.weight has the shape \[4, 4\]"),
    "a name that drives terminals": (_with("lora\x1b[2J\u202e", (3,)), r"such as lora\\x1b\[2J\\u202e\."),
    "a name of a megabyte": (_with("l" * 10**6, (3,)), r"such as l{80}\.\.\."),
    "other steps": (_with("depformer.layers.0.self_attn.out_proj.weight", (100, 48)), "has the shape"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_spoiled_weights_are_told_apart(kind: str, golden_weights: Path, tmp_path: Path) -> None:
    path = shutil.copy(golden_weights, tmp_path / WEIGHTS)
    spoil, message = SPOILED[kind]
    spoil(path)
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["emb.7.weight", "depformer.layers.0.gating.7.linear_in.weight", "out_norm.alpha"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_weights_that_are_no_numbers_are_refused(
    name: str, value: float, precision: str, golden_weights: Path, tmp_path: Path
) -> None:
    path = shutil.copy(golden_weights, tmp_path / WEIGHTS)
    _changed(name, _one_value(value))(path)
    with pytest.raises(ModelError, match=f"{name} has values that are infinite or not numbers") as caught:
        load_lm(path, GOLDEN.sizes, Precision(precision, torch.float32), lambda name: CPU)
    assert caught.value.hint


def test_what_is_not_loaded_may_be_anything(golden_weights: Path, tmp_path: Path) -> None:
    path = shutil.copy(golden_weights, tmp_path / WEIGHTS)
    _changed("linears.15.weight", lambda tensor: (tensor * torch.nan).bool())(path)
    assert load(path).dep_q == 8


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int8, torch.uint8, torch.uint16, torch.bool, torch.float8_e4m3fn, torch.complex64]
)
def test_weights_of_other_kinds_are_refused(dtype: torch.dtype, golden_weights: Path, tmp_path: Path) -> None:
    path = shutil.copy(golden_weights, tmp_path / WEIGHTS)
    _changed("text_linear.weight", lambda tensor: tensor.to(dtype))(path)
    with pytest.raises(ModelError, match=r"text_linear.weight is stored as \w+, not as one of BF16"):
        load(path)


def test_a_codec_that_is_no_numbers_is_refused(model: Path) -> None:
    _changed("decoder.model.0.conv.conv.weight", _one_value(torch.nan))(model / MIMI)
    with pytest.raises(ModelError, match="not numbers"):
        load_mimi(model / MIMI, spec_of_folder(model), CPU)


def test_weights_of_other_sizes_are_refused(golden_weights: Path) -> None:
    with pytest.raises(ModelError, match="shape"):
        load_lm(golden_weights, {**GOLDEN.sizes, "text_card": 500}, FP32, lambda name: CPU)
    with pytest.raises(ModelError, match="tensors too many"):
        load_lm(golden_weights, {**GOLDEN.sizes, "num_layers": 1}, FP32, lambda name: CPU)


def test_mimi_keeps_eight_codebooks_in_float32(model: Path) -> None:
    with safe_open(model / MIMI, framework="pt") as file:
        more = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # The published file has 32 codebooks.
    for name in list(more):
        if "rvq_rest.vq.layers.6." in name:
            more[name.replace("layers.6.", "layers.30.")] = more[name].clone()
    save_file(more, model / MIMI)
    mimi = load_mimi(model / MIMI, spec_of_folder(model), CPU)
    assert mimi.num_codebooks == mimi.total_codebooks == 8
    assert mimi.frame_size == 1920
    assert {tensor.dtype for tensor in mimi.parameters()} == {torch.float32}


def test_a_tokenizer_must_be_one_and_fit(model: Path) -> None:
    assert load_tokenizer(model / TOKENIZER, 480).get_piece_size() <= 480
    with pytest.raises(ModelError, match="the model knows 10"):
        load_tokenizer(model / TOKENIZER, 10)
    (model / TOKENIZER).write_bytes(b"\x01nonsense")
    with pytest.raises(ModelError, match="not a SentencePiece"):
        load_tokenizer(model / TOKENIZER, 480)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"lm": {"dims": 3}}', '{"lm": 3}', '{"voice": {}}', '{"spec": "mosh"}', '{"spec": []}']
)
def test_sizes_that_make_no_sense_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / SPEC_FILE).write_text(content)
    with pytest.raises(ModelError, match="does not describe a model"):
        spec_of_folder(tmp_path)


def test_a_folder_without_sizes_is_the_7b(tmp_path: Path) -> None:
    assert spec_of_folder(tmp_path) == PERSONAPLEX and PERSONAPLEX.lm == LM
    assert spec_of_folder(tmp_path, MOSHI) == MOSHI
    (tmp_path / SPEC_FILE).write_text(json.dumps({"lm": {"context": 40}}))
    assert spec_of_folder(tmp_path).lm == {**LM, "context": 40}
    (tmp_path / SPEC_FILE).write_text(json.dumps({"spec": "moshi", "lm": {"context": 40}}))
    assert spec_of_folder(tmp_path).name == "moshi" and spec_of_folder(tmp_path).lm["context"] == 40
