"""Where nothing can be kept the program works all the same, and what is wrong with the options is said at once."""

import atexit
import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Character, Sampling
from personaplex_cli.conversation import converse
from personaplex_cli.engine import prompt_cache
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.errors import ModelError, PersonaplexError, UsageError
from personaplex_cli.events import Event, Phase, State, ignore
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.library.weights import voice_names
from personaplex_cli.loader import demo, find, quantised_cache
from personaplex_cli.loader import load as loader
from personaplex_cli.loader.load import load, load_cold, load_random
from personaplex_cli.loader.quantised_cache import QuantisedCache
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import SILENT_FRAME

KIND = Character("kind", "You are kind.", "NATF2", "NATF2.pt", Sampling(seed=3))


def full(*_: object, **more: object) -> None:
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def closed(*_: object, **more: object) -> Any:
    raise PermissionError(13, "Permission denied")


@pytest.fixture
def cleaning(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What would be called at the end of the program."""
    demo._temporary_demo.cache_clear()
    registered: list[Any] = []
    monkeypatch.setattr(atexit, "register", lambda *what, **how: registered.append((what, how)))
    yield registered
    for (function, *arguments), how in registered:
        function(*arguments, **how)
    demo._temporary_demo.cache_clear()


def talk(engine: LocalEngine) -> bytes:
    audio = Recording(np.tile(SILENT_FRAME, 16))  # into which it greets
    list(converse(engine, audio, KIND))
    return audio.answer.tobytes()


def demo_in(precision: str) -> ModelOptions:
    return ModelOptions("demo", device="cpu", precision=precision)


@cache
def usual_talk(precision: str) -> bytes:
    """With caches, which whoever asks first may have."""
    return talk(load(demo_in(precision), rehearsal=KIND))


def no_folder(cache: Path, patch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text("a file")


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk(cache: Path, patch: pytest.MonkeyPatch) -> None:
    demo.demo_files(ignore)  # there was room for this
    patch.setattr(quantised_cache, "save_file", full)
    patch.setattr(prompt_cache, "_save", no_room)


def no_permission(cache: Path, patch: pytest.MonkeyPatch) -> None:
    def there(*, dir: Path, **more: Any) -> TemporaryDirectory[str]:
        return closed() if dir.is_relative_to(cache) else TemporaryDirectory(dir=dir, **more)

    patch.setattr("personaplex_cli.files.TemporaryDirectory", there)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("spoil", [no_folder, full_disk, no_permission])
def test_the_demo_answers_the_same_without_a_cache(
    spoil: Callable[..., None], precision: str, user_folders: Path, monkeypatch: pytest.MonkeyPatch, cleaning: list[Any]
) -> None:
    usual = usual_talk(precision)
    shutil.rmtree(user_folders / "xdg_cache_home", ignore_errors=True)
    spoil(user_folders / "xdg_cache_home", monkeypatch)
    assert any(usual) and talk(load(demo_in(precision), rehearsal=KIND)) == usual
    if spoil is not full_disk:
        (((_, folder), _),) = cleaning
        assert folder.is_dir() and len(voice_names(demo.demo_files(ignore))) == 18  # made once


def test_weights_that_were_packed_otherwise_are_not_read(
    random_folder: Path, user_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ModelOptions(str(random_folder), device="cpu", precision="int4")
    for packing in ("1", "2", "2"):
        monkeypatch.setattr(loader, "PACKING", packing)
        load_cold(options)
    kept = user_folders / "xdg_cache_home/personaplex/quantised"
    assert sorted(each.name.split("-")[1] for each in kept.iterdir()) == ["1", "2"]


def test_a_disk_that_fills_up_under_the_demo(monkeypatch: pytest.MonkeyPatch, cleaning: list[Any]) -> None:
    write, first = Path.write_bytes, iter([closed])
    monkeypatch.setattr(Path, "write_bytes", lambda *rest: next(first, write)(*rest))
    assert demo.demo_files(ignore).folder.parent == Path(tempfile.gettempdir())


def test_no_place_at_all_is_one_sentence(
    user_folders: Path, monkeypatch: pytest.MonkeyPatch, cleaning: list[Any]
) -> None:
    no_folder(user_folders / "xdg_cache_home", monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(user_folders / "nowhere"))
    with pytest.raises(ModelError, match="cannot be unpacked") as caught:
        demo.demo_files(ignore)
    assert "XDG_CACHE_HOME" in caught.value.hint and caught.value.exit_code == 3


def test_a_cache_that_may_not_even_be_looked_at_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "stat", closed)
    cache = QuantisedCache(tmp_path / "quantised", 1)
    assert not cache.exists
    assert list(cache.keep(iter([]))) == []


WRONG = {"precision": "int3", "device": "gpu"}


@pytest.mark.parametrize("option", WRONG)
def test_an_option_that_cannot_be_is_refused_before_anything_is_fetched_or_loaded(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Event] = []
    monkeypatch.setattr(find.weights, "cached", lambda *_: pytest.fail("it was looked for"))
    options = replace(ModelOptions(device="cpu"), **{option: WRONG[option]})
    for start in (load, load_cold, load_random):
        with pytest.raises(UsageError, match=WRONG[option]):
            start(options, said.append)
    assert not said


@pytest.mark.parametrize("sound", ["NATF9.pt", Path("broken.pt")])
def test_a_voice_that_cannot_be_is_refused_before_the_weights_are_read(
    sound: str | Path, random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.pt").write_bytes(b"nothing of the kind")
    folder = shutil.copytree(random_folder, tmp_path / "model")
    (folder / PERSONAPLEX.weights_file).write_bytes(b"would be refused, too")
    said: list[Event] = []
    with pytest.raises(PersonaplexError, match=r"NATF9|broken\.pt"):
        load(ModelOptions(str(folder), device="cpu"), said.append, replace(KIND, sound=sound))
    assert not any(isinstance(event, State) and event.name == Phase.LOADING for event in said)
