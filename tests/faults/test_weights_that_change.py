"""Files of a model that vanish, shrink or are overwritten while they are read, and while the model talks.

A mapped file that shrinks kills the program by SIGBUS: weights are read. In the instant in which the safetensors
library looks at the header, and while a voice is read, files are mapped; no test can hold these.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Character, Sampling
from personaplex_cli.conversation import converse
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.errors import ModelError
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.loader import checkpoint
from personaplex_cli.loader.load import load_cold
from personaplex_cli.loader.tensor_file import TensorFile
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import SILENT_FRAME

KIND = Character("kind", "You are kind.", "NATF2", "NATF2.pt", Sampling(seed=3))
WEIGHTS, MIMI, TOKENIZER = PERSONAPLEX.weights_file, PERSONAPLEX.mimi_file, PERSONAPLEX.tokenizer_file


def shrunk(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(1000))


@pytest.fixture
def folder(random_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_folder, tmp_path / "model"))


def load(folder: Path) -> LocalEngine:
    return load_cold(ModelOptions(str(folder), device="cpu"), rehearsal=KIND)


def talk(engine: LocalEngine) -> bytes:
    audio = Recording(np.tile(SILENT_FRAME, 4))
    list(converse(engine, audio, KIND))
    return audio.answer.tobytes()


@pytest.mark.parametrize("name", [WEIGHTS, MIMI])
@pytest.mark.parametrize("fault", [shrunk, emptied, overwritten])
def test_what_changes_between_the_look_at_the_header_and_the_end_is_refused(
    fault: Callable[[Path], None], name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(path: Path, *rest: object) -> None:
        if path.name == name:
            fault(path)

    monkeypatch.setattr(checkpoint, "_check_kinds", changed)
    with pytest.raises(ModelError, match=f"{name} is damaged or incomplete") as caught:
        load(folder)
    assert caught.value.hint


@pytest.mark.parametrize("name", [WEIGHTS, MIMI, TOKENIZER])
@pytest.mark.parametrize("look", ["check_is_model_file", "_compare"])
def test_what_vanishes_while_it_is_read_is_refused_or_was_read(
    look: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path, *rest: object) -> None:
        if path.name == name:
            path.unlink()

    monkeypatch.setattr(checkpoint, look, gone)
    if look == "_compare":  # it is open by then
        assert talk(load(folder))
    else:
        with pytest.raises(ModelError, match=name):
            load(folder)


@pytest.mark.parametrize("fault", [shrunk, emptied, overwritten, Path.unlink])
def test_a_talk_goes_on_whatever_becomes_of_the_files(fault: Callable[[Path], None], folder: Path) -> None:
    usual = talk(load(folder))
    engine = load(folder)
    for name in (WEIGHTS, MIMI, TOKENIZER):
        fault(folder / name)
    assert talk(engine) == usual


@pytest.mark.parametrize("fault", [shrunk, emptied, overwritten])
def test_a_quantised_cache_that_changes_is_made_again(
    fault: Callable[[Path], None], folder: Path, user_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded() -> LocalEngine:
        return load_cold(ModelOptions(str(folder), device="cpu", precision="int8"), rehearsal=KIND)

    usual, read = talk(loaded()), TensorFile.read
    (kept,) = user_folders.glob("xdg_cache_home/personaplex/quantised/*/*")

    def changed(self: TensorFile, *rest: object) -> object:
        if os.fstat(self._descriptor).st_ino == kept.stat().st_ino:
            monkeypatch.setattr(TensorFile, "read", read)
            fault(kept)
        return read(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(TensorFile, "read", changed)
    assert talk(loaded()) == usual
    assert TensorFile.read is read
    assert talk(loaded()) == usual
