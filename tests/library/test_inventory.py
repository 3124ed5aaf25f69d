"""What is on the disk is known by looking at sizes only."""

import shutil
from pathlib import Path

import pytest

from personaplex_cli.library.inventory import inventory_of_folder
from personaplex_cli.library.spec import MOSHI, PERSONAPLEX, SPEC_FILE


def test_real_safetensors_are_whole_and_cut_short_or_too_long_they_are_not(random_folder: Path, tmp_path: Path) -> None:
    assert inventory_of_folder(random_folder).is_whole
    copy = shutil.copytree(random_folder, tmp_path / "copy")
    for name in (PERSONAPLEX.weights_file, PERSONAPLEX.mimi_file):
        content = (copy / name).read_bytes()
        for spoiled in (content[:-1], content[:100], content + b"x", b""):
            (copy / name).write_bytes(spoiled)
            assert inventory_of_folder(copy).damaged == (name,)
        (copy / name).write_bytes(content)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\2\0\0\0\0\0\0\0[]", b'\x08\0\0\0\0\0\0\0{"a": 1}'])
def test_what_is_no_safetensors_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / PERSONAPLEX.weights_file).write_bytes(content)
    assert inventory_of_folder(tmp_path).damaged == (PERSONAPLEX.weights_file,)


def test_a_moshi_folder_lacks_no_voices(tmp_path: Path) -> None:
    assert set(inventory_of_folder(tmp_path).missing) == set(PERSONAPLEX.needed_files)
    (tmp_path / SPEC_FILE).write_text('{"spec": "moshi"}')
    assert set(inventory_of_folder(tmp_path).missing) == set(MOSHI.needed_files)
