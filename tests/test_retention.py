"""Recordings are deleted as the owner says: the oldest first, none of a talk that goes on, nothing that is not ours."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_recorded import BEGAN, Given, noise

from personaplex_cli.events import Step, ignore
from personaplex_cli.files import GIGABYTE, is_locked, lock
from personaplex_cli.recorder import Recorder
from personaplex_cli.retention import DAY, delete_old

NOW = 2e9
AGES = st.integers(0, 10 * int(DAY))  # seconds: more exactly no clock tells


def keep(parent: Path, number: int, age: float, size: int) -> Path:
    folder = parent / f"2026-01-31_14-05-09_{number}"
    folder.mkdir(parents=True)
    for name, length in (("conversation.wav", size), ("transcript.json", 0)):
        (folder / name).write_bytes(bytes(length))
        os.utime(folder / name, (NOW - age, NOW - age))
    return folder


def total(parent: Path) -> int:
    return sum(path.stat().st_size for path in parent.rglob("*") if path.is_file())


@given(
    st.lists(st.tuples(AGES, st.integers(0, 3000), st.booleans()), max_size=8, unique_by=lambda each: each[0]),
    st.none() | st.integers(0, 9000),
    st.none() | st.floats(0.01, 9),
)
def test_the_oldest_go_and_as_few_as_must(
    tmp_path_factory: pytest.TempPathFactory,
    recordings: list[tuple[float, int, bool]],
    most: int | None,
    days: float | None,
) -> None:
    parent = tmp_path_factory.mktemp("talks")
    folders = {keep(parent, number, *each[:2]): each for number, each in enumerate(recordings)}
    with ExitStack() as talks:
        for folder, (*_, goes_on) in folders.items():
            assert not goes_on or lock(talks.enter_context((folder / "conversation.wav").open("r+b")))
        deleted = delete_old(parent, None if most is None else most / GIGABYTE, days, NOW)
    left = {folder: each for folder, each in folders.items() if folder.exists()}
    gone = [each for folder, each in folders.items() if folder not in left]
    assert deleted == len(gone)
    assert not any(goes_on for *_, goes_on in gone)
    idle = [(age, size) for age, size, goes_on in left.values() if not goes_on]
    if most is None and days is None:
        assert not gone
    if days is not None:
        assert all(age <= days * DAY + 1 for age, _ in idle)
    if most is not None:
        assert total(parent) <= most or not idle
        # With the youngest of those that went, it would have been too much, or it was too old.
        if gone:
            age, size, _ = min(gone)
            assert total(parent) + size > most or (days is not None and age > days * DAY - 1)
    assert all(age >= max((each for each, _ in idle), default=0.0) for age, *_ in gone)


@pytest.mark.skipif(os.name == "nt", reason="there the system keeps what is open")
def test_a_talk_is_kept_until_it_is_over(tmp_path: Path) -> None:
    with Recorder(Given(noise(1, 1)), tmp_path, ignore) as recorder:
        list(recorder.frames(lambda: None))
        recorder.hear(BEGAN)
        recorder.hear(Step(0, "", 0, 0, None))
        assert recorder.folder
        while not (recorder.folder / "transcript.md").exists():
            time.sleep(0.001)
        assert is_locked(recorder.folder / "conversation.wav")
        assert delete_old(tmp_path, 0.0, 0.0, NOW) == 0
    assert delete_old(tmp_path, 0.0, 0.0, NOW) == 1 and not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX")
def test_of_a_program_that_was_killed_it_is_over(tmp_path: Path) -> None:
    folder = keep(tmp_path, 1, DAY, 5)
    dies = """
import os, sys
from personaplex_cli.files import lock
assert lock(open(sys.argv[1], "r+b"))
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", dies, str(folder / "conversation.wav")]).returncode == -9
    assert delete_old(tmp_path, 0.0, None, NOW) == 1


def test_nothing_else_is_deleted(tmp_path: Path) -> None:
    folder = keep(tmp_path, 1, 100 * DAY, 5)
    (folder / "notes.txt").write_text("mine")
    others = [tmp_path / "letters", tmp_path / "2026-01-31", tmp_path / "elsewhere"]
    for each in others:
        each.mkdir()
        (each / "conversation.wav").write_bytes(b"mine")
        os.utime(each / "conversation.wav", (0, 0))
    (tmp_path / "2026-01-31_14-05-10").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert delete_old(tmp_path, 0.0, 1.0, NOW) == 1
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert all((each / "conversation.wav").read_bytes() == b"mine" for each in others)
    assert delete_old(tmp_path, 0.0, 1.0, NOW) == 0


def test_a_folder_that_is_not_there_has_nothing_to_delete(tmp_path: Path) -> None:
    assert delete_old(tmp_path / "nowhere", 0.0, 0.0) == 0
