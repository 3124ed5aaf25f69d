"""A program that is killed in the middle of writing: nothing half is taken for whole, and its scraps do not pile up."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from personaplex_cli.files import ABANDONED_SECONDS, SCRATCH, _remove_abandoned, atomic_file, atomic_folder, atomic_path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX")
WRITING = """
import os, signal, sys
from pathlib import Path
from personaplex_cli.files import atomic_path
with atomic_path(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def scraps(folder: Path) -> list[Path]:
    return list(folder.glob(f"{SCRATCH}*"))


@pytest.fixture
def scrap(tmp_path: Path) -> Path:
    """What a killed program has left."""
    killed = subprocess.run([sys.executable, "-c", WRITING, str(tmp_path / "prompt.safetensors")])
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "prompt.safetensors").exists()
    (left,) = scraps(tmp_path)
    _remove_abandoned.cache_clear()  # as in the next program
    return left


@pytest.mark.parametrize("new", [atomic_file, atomic_folder, atomic_path])
def test_the_next_one_that_writes_there_tidies_up_a_day_later(new, scrap: Path) -> None:
    old = time.time() - ABANDONED_SECONDS - 1
    os.utime(scrap, (old, old))
    with new(scrap.parent / "other") as made:
        if isinstance(made, Path) and not made.exists():
            made.touch()
    assert not scraps(scrap.parent) and (scrap.parent / "other").exists()


def test_what_may_still_be_written_stays(scrap: Path) -> None:
    with atomic_file(scrap.parent / "other"):
        pass
    assert scraps(scrap.parent) == [scrap]


def test_hidden_folders_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    os.utime(tmp_path / ".git", (0, 0))
    with atomic_file(tmp_path / "other"):
        pass
    assert (tmp_path / ".git").is_dir()
