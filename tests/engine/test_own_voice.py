"""A voice of the user's own as `.pt`: the reference's file to the last bit, and the same talk as with the sample."""

import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import load_golden

from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Character, OwnVoice, Sampling
from personaplex_cli.conversation import converse
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.engine.mimi import MimiCodec
from personaplex_cli.engine.own_voice import KEPT, save_voice, saved_voice
from personaplex_cli.engine.prompting import load_saved_voice
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.loader.load import load_cold
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import SAMPLE_RATE, Samples


def sound(seconds: float, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    return (random.standard_normal(round(seconds * SAMPLE_RATE)) * 0.1).astype(np.float32)


QUESTION = sound(0.5, seed=5)


@pytest.fixture
def own(tmp_path: Path) -> OwnVoice:
    (tmp_path / "ada").mkdir()
    return OwnVoice(sound(0.7), tmp_path / "ada")


def loaded(folder: Path, precision: str = "fp32") -> LocalEngine:
    engine = load_cold(ModelOptions(str(folder), None, "cpu", precision))
    engine.model.prompts.clear()  # that nothing comes out of the cache
    return engine


@pytest.fixture
def engine(random_folder: Path) -> LocalEngine:
    return loaded(random_folder)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the samples that the codec has heard."""
    heard: list[int] = []
    codes_of = MimiCodec.codes_of

    def counted(self: MimiCodec, sample: Samples) -> Iterator[None]:
        heard.append(len(sample))
        return codes_of(self, sample)

    monkeypatch.setattr(MimiCodec, "codes_of", counted)
    return heard


def tokens(engine: LocalEngine, voice: Samples | Path | OwnVoice) -> list[tuple[int, ...]]:
    who = Character("kind", "You are kind.", "ada", voice, Sampling(seed=3))
    return [step.tokens for step in converse(engine, Recording(QUESTION), who)]


def test_it_is_the_file_that_the_reference_saves(golden_path: Path, tmp_path: Path) -> None:
    golden = load_golden(golden_path)
    generator = golden.talk(tmp_path).generator
    with torch.inference_mode():
        save_voice(saved_voice(golden.codes("voice"), generator.embed, golden.spec), tmp_path / "v.pt")
    ours, theirs = (torch.load(path, weights_only=True) for path in (tmp_path / "v.pt", golden.saved_voice))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_is_said_after_the_file_as_after_the_sample(
    precision: str, random_folder: Path, own: OwnVoice, encoded: list[int]
) -> None:
    engine = loaded(random_folder, precision)
    expected = tokens(engine, own.sample)
    assert tokens(engine, own) == expected  # now it is made
    (path,) = own.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    encoded.clear()
    later = loaded(random_folder, precision)
    assert tokens(later, replace(own)) == tokens(later, path) == expected
    assert encoded == [], "it was read"


def test_it_is_made_anew_for_another_sample_another_model_and_another_precision(
    random_folder: Path, demo_folder: Path, own: OwnVoice, encoded: list[int]
) -> None:
    models = [loaded(random_folder), loaded(demo_folder), loaded(random_folder, "bf16")]
    voices = [own, replace(own, sample=sound(0.7, seed=1))]
    for count, (model, voice) in enumerate(((model, voice) for model in models for voice in voices), start=1):
        tokens(model, voice)
        assert len(encoded) == count and len(list(own.folder.iterdir())) == min(count, KEPT)


@pytest.mark.parametrize("file", ["weights", "mimi"])
def test_a_model_that_was_replaced_makes_it_anew(file: str, random_folder: Path, own: OwnVoice, tmp_path: Path) -> None:
    folder = shutil.copytree(random_folder, tmp_path / "model")
    tokens(loaded(folder), own)
    tokens(loaded(folder), own)
    assert len(list(own.folder.iterdir())) == 1
    path = folder / getattr(PERSONAPLEX, f"{file}_file")
    path.write_bytes(path.read_bytes())
    tokens(loaded(folder), own)
    assert len(list(own.folder.iterdir())) == 2


def test_a_damaged_file_is_made_anew(engine: LocalEngine, own: OwnVoice) -> None:
    expected = tokens(engine, own)
    (path,) = own.folder.iterdir()
    whole = path.read_bytes()
    for content in (b"", b"garbage", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert tokens(engine, replace(own)) == expected
        assert load_saved_voice(path, engine.model.spec).is_possible(engine.model.spec)


def test_where_it_cannot_be_kept_the_voice_speaks_all_the_same(
    engine: LocalEngine, own: OwnVoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tokens(engine, own.sample)
    removed = OwnVoice(own.sample, tmp_path / "removed")
    assert tokens(engine, removed) == expected and not removed.folder.exists()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert tokens(engine, own) == expected and list(own.folder.iterdir()) == []
