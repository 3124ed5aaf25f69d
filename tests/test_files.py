"""Files and folders are whole or absent, whatever happens, and nothing stays beside them."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from personaplex_cli.errors import AudioError, ModelError
from personaplex_cli.files import (
    atomic_file,
    atomic_folder,
    atomic_path,
    check_is_model_file,
    check_writable,
    damaged_hint,
    free_bytes,
    keep_newest,
)


@contextmanager
def new_file(path: Path) -> Iterator[None]:
    with atomic_file(path) as file:
        file.write(b"half")
        yield
        file.write(b" and half")


@contextmanager
def new_path(path: Path) -> Iterator[None]:
    with atomic_path(path) as partial:
        partial.write_bytes(b"half")
        yield
        partial.write_bytes(b"half and half")


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    with atomic_folder(path) as partial:
        (partial / "one").touch()
        yield
        (partial / "two").touch()


@pytest.mark.parametrize("new", [new_file, new_path, new_folder])
class TestWholeOrAbsent:
    def test_it_appears_when_it_is_done(self, new: Callable[[Path], object], tmp_path: Path) -> None:
        path = tmp_path / "new" / "x"
        with new(path):  # type: ignore[attr-defined]
            assert not path.exists()
        whole = {each.name for each in path.iterdir()} if path.is_dir() else path.read_bytes()
        assert whole in ({"one", "two"}, b"half and half")
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
    def test_interrupted_it_never_was(
        self, interruption: type[BaseException], new: Callable[[Path], object], tmp_path: Path
    ) -> None:
        with pytest.raises(interruption), new(tmp_path / "x"):  # type: ignore[attr-defined]
            raise interruption
        assert not list(tmp_path.iterdir())

    def test_a_place_that_is_none_leaves_no_trace(self, new: Callable[[Path], object], tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"before")
        with pytest.raises((OSError, AudioError)), new(tmp_path / "file" / "x"):  # type: ignore[attr-defined]
            pass
        assert (tmp_path / "file").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1

    def test_many_may_write_the_same_at_once(self, new: Callable[[Path], object], tmp_path: Path) -> None:
        at_once = threading.Barrier(8)

        def write(_: int) -> None:
            with new(tmp_path / "new" / "x"):  # type: ignore[attr-defined]
                at_once.wait(timeout=30)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["x"]


def test_an_interrupted_file_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"before")
    with pytest.raises(ValueError), atomic_file(tmp_path / "x") as file:
        file.write(b"half")
        raise ValueError
    assert (tmp_path / "x").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_the_folder_of_the_first_stays(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "x") as second:
        (second / "second").touch()
        with atomic_folder(tmp_path / "x") as first:
            (first / "first").touch()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["first"] and len(list(tmp_path.iterdir())) == 1


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"before")
    with pytest.raises(OSError), atomic_folder(tmp_path / "x"):
        pass
    assert (tmp_path / "x").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_others_may_read_what_the_user_lets_them(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with atomic_file(tmp_path / "file"), atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_file_that_cannot_be_written_is_an_audio_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x.wav", tmp_path / "folder"):
        with pytest.raises(AudioError, match="cannot be written"), atomic_file(path):
            pass
        with pytest.raises(AudioError, match="cannot be written"):
            check_writable(path)
    assert not list((tmp_path / "folder").iterdir())


def test_looking_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"before")
    check_writable(tmp_path / "x")
    check_writable(tmp_path / "new" / "y")
    assert (tmp_path / "x").read_bytes() == b"before" and not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_the_newest_are_kept(count: int, tmp_path: Path) -> None:
    for number in (3, 1, 4, 2):
        path = tmp_path / f"{number}"
        path.touch() if number % 2 else (path / "inside").mkdir(parents=True)
        os.utime(path, (number, number))
    keep_newest(tmp_path.iterdir(), count)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3", "4"][max(0, 4 - count) :]


@pytest.mark.parametrize(("total", "left"), [(100, "1234"), (60, "234"), (59, "34"), (30, "4"), (29, "")])
def test_files_may_be_kept_by_their_bytes_together(total: int, left: str, tmp_path: Path) -> None:
    for number, size in enumerate((40, 10, 20, 30), start=1):
        (tmp_path / f"{number}").write_bytes(bytes(size))
        os.utime(tmp_path / f"{number}", (number, number))
    keep_newest(tmp_path.iterdir(), 10, total)
    assert "".join(sorted(path.name for path in tmp_path.iterdir())) == left


def test_cleaning_up_is_no_error_when_another_process_does_it(tmp_path: Path) -> None:
    keep_newest([tmp_path / "gone", tmp_path], 1)
    assert tmp_path.exists()


def test_the_room_of_a_folder_that_is_not_there_is_that_of_its_disk(tmp_path: Path) -> None:
    assert abs(free_bytes(tmp_path / "a" / "b") - free_bytes(tmp_path)) < 10**9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid x", "Git LFS pointer"),
        (b"\n <!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"<HTML>", "web page"),
    ],
)
def test_a_file_that_is_no_model_file(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        check_is_model_file(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value) and caught.value.hint


def test_a_pipe_is_no_model_file_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(ModelError, match="is not a file"):
        check_is_model_file(tmp_path / "x")


def test_what_is_to_be_removed_is_what_a_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"a model")
    (tmp_path / "link").symlink_to(tmp_path / "blob")
    check_is_model_file(tmp_path / "link")
    assert str(tmp_path / "blob") in damaged_hint(tmp_path / "link")
