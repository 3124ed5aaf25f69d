"""`download` mends what is damaged: it compares sizes, and of small files the content."""

import os
from pathlib import Path

import pytest
from fakehub import FakeHub
from huggingface_hub.utils import reset_sessions

from personaplex_cli.cli.main import program
from personaplex_cli.errors import ModelError
from personaplex_cli.events import ignore
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.loader.find import find_files
from personaplex_cli.options import DEFAULT_MODEL

NAMES = PERSONAPLEX.needed_files
SPOILED = {
    "cut short": lambda content: content[:-1],
    "empty": lambda content: b"",
    "too long": lambda content: content + b"\0",
    "a web page": lambda content: b"<!doctype html><html>Log in</html>",
}


@pytest.fixture
def hub(random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with FakeHub(random_folder) as hub:
        yield hub
    reset_sessions()


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_damaged_is_fetched_anew_and_nothing_else(
    hub: FakeHub, random_folder: Path, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = find_files(DEFAULT_MODEL, None, ignore).folder
    path = (folder / name).resolve()
    path.write_bytes(SPOILED[how](path.read_bytes()))
    assert program(["download"]) == 0
    assert (folder / name).read_bytes() == (random_folder / name).read_bytes()
    assert name in capsys.readouterr().err
    assert [len(hub.downloads(each)) for each in NAMES] == [2 if each == name else 1 for each in NAMES]
    asked = len(hub.asked)
    assert program(["download"]) == 0 and len(hub.asked) == asked, "what is whole is not asked for"


def test_before_the_hub_has_answered_nothing_is_removed(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = find_files(DEFAULT_MODEL, None, ignore)
    os.truncate(files.weights.resolve(), 100)
    hub.mode = "disabled"
    with pytest.raises(ModelError):
        find_files(DEFAULT_MODEL, None, ignore, verify=True)
    assert files.weights.stat().st_size == 100


def test_a_folder_of_ones_own_is_compared_too(random_folder: Path, tmp_path: Path) -> None:
    for name in os.listdir(random_folder):
        if (random_folder / name).is_file():
            (tmp_path / name).write_bytes((random_folder / name).read_bytes())
    assert find_files(str(tmp_path), None, ignore, verify=True).folder == tmp_path
    os.truncate(tmp_path / PERSONAPLEX.mimi_file, 1000)
    with pytest.raises(ModelError, match=PERSONAPLEX.mimi_file) as caught:
        find_files(str(tmp_path), None, ignore, verify=True)
    assert caught.value.hint
