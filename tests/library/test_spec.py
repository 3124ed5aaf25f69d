"""Sizes that a folder claims are such as a model can be built of, and told in words if not."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_model import SIZES

from personaplex_cli.errors import ModelError
from personaplex_cli.library.spec import LM, MIMI, MOSHI, PERSONAPLEX, RANGES, SPEC_FILE, check_sizes, spec_of_folder
from personaplex_cli.loader.checkpoint import file_shapes, unfilled_lm, unfilled_mimi
from personaplex_cli.loader.precision import PLAIN

many = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
numbers = st.integers() | st.floats() | st.sampled_from([-1, 0, 1, 3, 10**7, 2**63, 10**400])
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
tables = {"lm": LM, "mimi": MIMI, **{f"mimi.{name}": MIMI[name] for name in ("seanet", "quantizer", "transformer")}}
entries = st.sampled_from([(table, key) for table, inside in tables.items() for key in inside])


def described(folder: Path, sizes: Any) -> Any:
    """The model that `sizes` describe, or the sentence that says why they do not."""
    (folder / SPEC_FILE).write_text(sizes if isinstance(sizes, str) else json.dumps(sizes))
    began = time.perf_counter()
    try:
        return spec_of_folder(folder)
    except ModelError as error:
        assert str(folder / SPEC_FILE) in str(error) and error.hint and len(str(error)) < 700
        assert str(error).isprintable()
        return str(error)
    finally:
        assert time.perf_counter() - began < 5


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value  # type: ignore[no-any-return]


@many
@given(entries, anything)
def test_any_value_of_any_entry_makes_a_model_that_can_be_built_or_a_sentence(
    tmp_path: Path, entry: tuple[str, str], value: Any
) -> None:
    found = described(tmp_path, nested(".".join(entry), value))
    if not isinstance(found, str):
        assert file_shapes(unfilled_lm({**found.lm, "num_layers": 1, "depformer_num_layers": 1}, PLAIN["bf16"]))
        assert file_shapes(unfilled_mimi(found))


@many
@given(anything | st.text(max_size=40))
def test_whatever_the_file_holds_it_is_a_model_or_a_sentence(tmp_path: Path, content: Any) -> None:
    described(tmp_path, content)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("lm.num_heads", 0, "lm.num_heads is 0, not a whole number from 1 to 256."),
        ("lm.num_heads", 3, "lm.dim is 4096, which does not make 3 even parts, one for each of lm.num_heads."),
        ("lm.dim", -64, "lm.dim is -64"),
        ("lm.dim", "4096", "lm.dim is 4096, not a whole number"),
        ("lm.dim", True, "lm.dim is True"),
        ("lm.hidden_scale", float("nan"), "not a number from 0.5 to 64"),
        ("lm.num_layers", 10_000_000, "lm.num_layers is 10000000"),
        ("lm.depformer_num_layers", 10_000_000, "from 1 to 64"),
        ("lm.gating", "\x1b[2Jrelu", r"lm.gating is \x1b[2Jrelu, and this program can run silu only."),
        ("lm.delays", [0] * 17, "lm.delays is [0, 0"),
        ("lm.delays", None, "lm.delays is None"),
        ("lm.dep_q", 16, "can run 8 only"),
        ("lm.card", 1024, "can run 2048 only"),
        ("mimi.seanet.ratios", [8, 6, 5], "can run [8, 6, 5, 4] only"),
        ("mimi.seanet.dimension", 64, "mimi.quantizer.input_dimension is 512, and mimi.seanet.dimension is 64."),
        ("mimi.transformer.output_dimensions", [64], "is [64], not [512]"),
        ("mimi.transformer.output_dimensions", 512, "is 512, not [512]"),
        ("mimi.transformer", 3, "transformer is 3, not a table of sizes."),
        ("lm.\x1b]0;owned\x07", 3, r"\x1b]0;owned"),
        ("spec", "\x1b[2J", r"\x1b[2J"),
    ],
)
def test_what_is_wrong_is_said(path: str, value: Any, said: str, tmp_path: Path) -> None:
    assert said in described(tmp_path, nested(path, value))


def test_a_file_that_is_nested_too_deeply_or_too_long_is_refused(tmp_path: Path) -> None:
    assert "nested too deeply" in described(tmp_path, '{"lm": ' + "[" * 20_000)
    assert "100,000 bytes" in described(tmp_path, '{"lm": "' + "x" * 200_000 + '"}')
    (tmp_path / SPEC_FILE).unlink()
    os.mkfifo(tmp_path / SPEC_FILE)
    with pytest.raises(ModelError, match="is not a file"):
        spec_of_folder(tmp_path)


def test_the_models_that_there_are_are_possible(tmp_path: Path) -> None:
    check_sizes(PERSONAPLEX)
    check_sizes(MOSHI)
    assert described(tmp_path, SIZES).lm["dim"] == 64
    flat = {f"{table}.{key}" for table, inside in tables.items() for key in inside}
    assert set(RANGES) < flat
