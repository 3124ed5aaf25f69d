"""The tiny random models, of PersonaPlex's layout and of Moshi's: the same every time, and found by their folders."""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from golden import CPU, FP32
from random_model import SIZES, build_random
from safetensors import safe_open

from personaplex_cli.errors import ModelError
from personaplex_cli.events import Event, Phase, State, ignore
from personaplex_cli.library.catalog import voices
from personaplex_cli.library.spec import MOSHI, PERSONAPLEX, SPEC_FILE
from personaplex_cli.library.weights import open_folder, voice_names
from personaplex_cli.loader.checkpoint import load_lm, load_mimi, load_tokenizer
from personaplex_cli.loader.find import find_files

VOICES = PERSONAPLEX.voices_file or ""


def test_it_is_the_same_every_time(random_folder: Path, tmp_path: Path) -> None:
    build_random(tmp_path)
    for path in random_folder.iterdir():
        if path.name != VOICES:  # an archive holds the time of packing
            assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_it_has_all_the_voices_of_the_catalog(random_folder: Path) -> None:
    with tarfile.open(random_folder / VOICES) as archive:
        packed = {Path(name).name for name in archive.getnames()}
    shipped = {voice.file for voice in voices()}
    assert packed == shipped and len(shipped) == 18


def test_a_moshi_model_of_its_sizes(random_folder: Path, tmp_path: Path) -> None:
    """No voices, and eight depformer steps in the file instead of sixteen."""
    build_random(tmp_path, spec=MOSHI)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in random_folder.iterdir()} - {VOICES}
    assert json.loads((tmp_path / SPEC_FILE).read_text()) == {"spec": "moshi", **SIZES}
    files = open_folder(tmp_path)
    assert files.spec.name == "moshi" and not files.spec.is_prompted and voice_names(files) == []
    lm = load_lm(files.weights, files.spec.lm, FP32, lambda name: CPU)
    with safe_open(files.weights, framework="pt") as file:
        assert "linears.7.weight" in file.keys() and "linears.8.weight" not in file.keys()  # noqa: SIM118
        stacked = file.get_tensor("depformer.layers.0.self_attn.in_proj_weight").float()
    ours = [linear.weight for linear in lm.depformer.layers[0].self_attn.in_projs]
    assert torch.equal(torch.cat(ours), stacked)
    assert load_mimi(files.mimi, files.spec, CPU).num_codebooks == 8
    assert load_tokenizer(files.tokenizer, files.spec.lm["text_card"])


def test_a_models_name_finds_its_files_wherever_they_come_from(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Event] = []
    assert find_files(str(random_folder), None, ignore).folder == random_folder
    with pytest.raises(ModelError, match="no model folder"):
        find_files("./nowhere", None, ignore)
    files = open_folder(random_folder)
    monkeypatch.setattr("personaplex_cli.library.weights.cached", lambda model, revision: None)
    monkeypatch.setattr("personaplex_cli.library.weights.download", lambda model, revision, listen: files)
    assert find_files("org/name", "main", said.append) is files
    assert said[-1] == State(Phase.DOWNLOADING, "org/name")
