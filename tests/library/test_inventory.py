"""What is on the disk is known by looking at sizes only."""

from pathlib import Path

import pytest

from personaplex_cli.library.inventory import inventory_of_folder, safetensors_length
from personaplex_cli.library.spec import MOSHI, PERSONAPLEX, SPEC_FILE


def test_the_length_of_real_safetensors(demo_folder: Path) -> None:
    for name in (PERSONAPLEX.weights_file, PERSONAPLEX.mimi_file):
        assert safetensors_length(demo_folder / name) == (demo_folder / name).stat().st_size
    assert inventory_of_folder(demo_folder).is_whole


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\2\0\0\0\0\0\0\0[]", b'\x08\0\0\0\0\0\0\0{"a": 1}'])
def test_what_is_no_safetensors_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError):
        safetensors_length(tmp_path / "x.safetensors")


def test_a_moshi_folder_lacks_no_voices(tmp_path: Path) -> None:
    assert set(inventory_of_folder(tmp_path).missing) == set(PERSONAPLEX.needed_files)
    (tmp_path / SPEC_FILE).write_text('{"spec": "moshi"}')
    assert set(inventory_of_folder(tmp_path).missing) == set(MOSHI.needed_files)
