"""The demo comes with the program, is unpacked once, mended where it is damaged, and loaded like any model."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from personaplex_cli.errors import ModelError
from personaplex_cli.events import Event, Notice, ignore
from personaplex_cli.library.catalog import voices
from personaplex_cli.library.weights import ModelFiles, open_folder, voice_names
from personaplex_cli.loader import demo
from personaplex_cli.loader.find import find_files
from personaplex_cli.options import DEMO_NOTE, ModelOptions


def content(files: ModelFiles) -> dict[str, bytes]:
    paths = [path for path in files.folder.rglob("*") if path.is_file()]
    return {path.relative_to(files.folder).as_posix(): path.read_bytes() for path in paths}


def test_it_says_what_it_is_with_one_voice() -> None:
    said: list[Event] = []
    assert find_files("demo", None, said.append).name == "demo"
    assert said == [Notice(DEMO_NOTE)] and ModelOptions("demo").note == DEMO_NOTE


def test_it_is_a_model_folder_like_any_with_all_voices() -> None:
    files = demo.demo_files(ignore)
    opened = open_folder(files.folder)
    assert opened.spec == files.spec and opened.spec.is_prompted
    assert voice_names(files) == sorted(voice.name for voice in voices()) and len(voice_names(files)) == 18


def test_programs_that_start_at_once_all_get_it(user_folders: Path) -> None:
    code = "from personaplex_cli.loader.demo import *; print(demo_files(lambda event: None).folder)"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    files = demo.demo_files(ignore)
    assert folders == {str(files.folder)} and content(files) == demo.packed()[1]
    assert list((user_folders / "xdg_cache_home/personaplex").iterdir()) == [files.folder]


def test_the_one_in_use_stays_however_old_it_is() -> None:
    folder = demo.demo_files(ignore).folder
    os.utime(folder, (0, 0))
    others = [folder.with_name(f"demo-{number}") for number in range(demo.KEPT + 1)]
    for other in others:
        other.mkdir()
    assert demo.demo_files(ignore).folder.is_dir()
    assert sum(other.is_dir() for other in others) == demo.KEPT - 1


def test_what_is_whole_is_left_alone() -> None:
    """What is made of the weights is kept by the time at which they were written."""
    before, after = (demo.demo_files(ignore).weights.stat() for _ in range(2))
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def changed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("spoil", [shortened, changed, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "personaplex.json", "voices/NATF2.pt"])
def test_what_is_damaged_is_mended(spoil: Callable[[Path], None], name: str) -> None:
    folder = demo.demo_files(ignore).folder
    spoil(folder / name)
    assert content(demo.demo_files(ignore)) == demo.packed()[1]


def test_demos_of_older_versions_do_not_pile_up(user_folders: Path) -> None:
    for number in range(5):
        (user_folders / f"xdg_cache_home/personaplex/demo-{number}").mkdir(parents=True)
    folder = demo.demo_files(ignore).folder
    assert folder in folder.parent.iterdir() and len(list(folder.parent.iterdir())) == demo.KEPT


@pytest.mark.parametrize("spoil", [shortened, changed, Path.unlink])
def test_an_archive_that_is_damaged_is_told(
    spoil: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive.tar.xz"
    archive.write_bytes(demo.ARCHIVE.read_bytes())
    spoil(archive)
    monkeypatch.setattr(demo, "ARCHIVE", archive)
    with pytest.raises(ModelError, match="The demo model is damaged") as caught:
        demo.demo_files(ignore)
    assert caught.value.hint
