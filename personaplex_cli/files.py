"""Files and folders that are whole or absent, small texts, what disk and memory have room for, and files that are not
what their names say.
"""

import os
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import EINVAL, EISDIR
from functools import lru_cache
from io import BytesIO
from itertools import accumulate
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

from personaplex_cli.errors import AudioError, ModelError, UsageError

if sys.platform != "win32":
    import fcntl

GIGABYTE = 10**9
MAX_TEXT_BYTES = 1_000_000  # of a file that a person writes: settings, a persona, a prompt
CHUNK = 1 << 20
SCRATCH = ".personaplex-"  # how the names of folders begin in which something is being written
ABANDONED_SECONDS = 24 * 3600.0  # since something was put there: the program that wrote was killed


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in this one, out of which what is whole can be moved. It is removed when the block ends; what a
    killed program leaves, a day later. Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    with TemporaryDirectory(prefix=SCRATCH, dir=parent, ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside: the file or folder made there gets the name `path` when the block ends well, else it is removed.

    A file replaces an older one. A folder does not: if another process was first, its folder stays, so do not put two
    different things under one name. Raises OSError.
    """
    with scratch_folder(path.parent) as scratch:
        partial = scratch / path.name
        yield partial
        try:
            os.replace(partial, path)
        except OSError:
            if not (partial.is_dir() and path.is_dir()):
                raise


@lru_cache  # seldom twice for a folder, which may have a hundred thousand files; a server makes a folder for each talk
def _remove_abandoned(folder: Path) -> None:
    """Remove what killed programs were writing there. One that still writes has been at it for minutes, not a day."""
    with suppress(OSError):  # a folder that others change, or that cannot be read
        for scratch in folder.glob(f"{SCRATCH}*/"):
            if time.time() - scratch.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def atomic_file(path: Path, private: bool = False) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when the block ends well. Raises AudioError if it cannot be written.

    A `private` one is for its owner alone.
    """
    with (
        writing(path),
        atomic_path(path) as partial,
        open(partial, "wb", opener=for_owner if private else None) as file,
    ):
        yield file


def for_owner(path: str, flags: int) -> int:
    """An opener: a file that it makes can be read and written by its owner alone."""
    return os.open(path, flags, 0o600)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes `folder` when the block ends well, as `atomic_path` says. Raises OSError."""
    with atomic_path(folder) as partial:
        partial.mkdir()
        yield partial


def keep_newest(paths: Iterable[Path], count: int, total: float = inf) -> None:
    """Remove these files and folders but for the last modified, as far as the system allows it.

    At most `count` stay, and of files no more than have `total` bytes together.
    """
    with suppress(OSError):  # another process may clean up at the same time
        newest = sorted(((path.stat(), path) for path in paths), key=lambda each: each[0].st_mtime, reverse=True)
        sizes = accumulate(about.st_size for about, _ in newest)
        for rank, ((_, old), size) in enumerate(zip(newest, sizes, strict=True)):
            if rank < count and size <= total:
                continue
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Check that a file can be written there, without touching what is there. Raises AudioError if not."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(EISDIR, "it is a folder")
        if path.exists() and not path.is_file():  # a file in its place would be there for no reader of a pipe
            raise OSError(EINVAL, "it is a device or a pipe")
        with TemporaryFile(dir=path.parent):
            pass


def check_folder(path: Path) -> None:
    """Check that a folder is or can be there. Raises UsageError where a file is in the way."""
    for place in (path, *path.parents):
        if os.path.lexists(place) and not os.path.isdir(place):
            raise UsageError(f"{place} is a file, not a folder.", "Choose another folder.")


def file_below(folder: Path, name: str) -> Path | None:
    """The file that a stranger names in a folder; None if there is none, or it lies elsewhere."""
    try:
        file = (folder / name).resolve()
        return file if file.is_file() and file.is_relative_to(folder.resolve()) else None
    except (OSError, ValueError, RuntimeError):  # names that cannot be, loops of links
        return None


def lock(file: IO[bytes]) -> bool:
    """Take a file, open for writing, until it is closed or the program ends; returns whether it could be taken.

    Windows needs no lock: what is open cannot be deleted there.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another program has it, or the file system knows no locks
            return False
    return True


def is_locked(path: Path) -> bool:
    """Whether somebody has taken this file, as far as it is there. Raises OSError."""
    if not path.exists():
        return False
    with path.open("r+b") as file:
        return not lock(file)


def free_bytes(folder: Path) -> int:
    """What is free on the disk where the folder is, or would be. Raises OSError."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def main_memory() -> tuple[int | None, int | None]:
    """Bytes of main memory that are free, and all there are; None where the system does not say."""
    total = free = None
    with suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf, and only Linux has /proc
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())  # of a container; ValueError: max, which is none
        total, free = min(total, limit), min(free or limit, limit)
    return free, total


def read_small(path: Path, pipe: bool = False) -> str:
    """The text of a small regular file, or also of a pipe; takes a megabyte at most.

    Never waits for a FIFO unless `pipe`. Raises UsageError for anything else, and for what is not UTF-8 (a byte order
    mark is left out).
    """
    try:
        # A FIFO without a writer would hold up an open that may wait.
        with open(path, "rb", opener=None if pipe else _open_at_once) as file:
            if not pipe and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"{path} is not a regular file.", "Put a text file there.")
            content = file.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise UsageError(f"{path} is larger than 1 MB.", "Is this the right file? Shorten it.")
        if b"\0" in content:
            raise UsageError(f"{path} is not plain text: it has a NUL.", "Save it as UTF-8.")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Check its name and permissions.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not plain text: {error}.", "Save it as UTF-8.") from error
    except ValueError as error:  # a NUL in its name
        raise UsageError(f"{str(path)!r} is not the name of a file.", "Correct it.") from error


def read_up_to(file: IO[bytes], limit: int) -> bytes:
    """What a file or a pipe holds, `limit` bytes at most; asked for them at once Python would take memory for all."""
    content = BytesIO()
    while content.tell() < limit and (more := file.read(min(CHUNK, limit - content.tell()))):
        content.write(more)
    return content.getvalue()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_is_model_file(path: Path) -> None:
    """Raise ModelError for a file that is missing, empty, a Git LFS pointer or a web page saved under its name.

    Devices and pipes are refused as well: opening one may wait without end.
    """
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path} is not a file.", "Run `personaplex download`.")
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}).", "Run `personaplex download`.") from error
    if not start:
        raise ModelError(f"{path} is empty.", damaged_hint(path))
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not the file itself.", "Run `git lfs pull` in that folder.")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ModelError(f"{path} is a web page, not model data.", damaged_hint(path))


def damaged_hint(path: Path) -> str:
    """What to do about a damaged file of a model."""
    if path.is_symlink():  # as in the hub's cache
        return f"Run `personaplex download`: it fetches {path.resolve()} again."
    return f"Remove {path} and copy it there again, or run `personaplex download`."


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses in this block is an AudioError: that this place cannot be written."""
    try:
        yield
    except OSError as error:
        raise AudioError(f"{path} cannot be written ({error.strerror}).", "Choose another place for it.") from error
