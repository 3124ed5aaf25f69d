"""The files of a model: which it has, where they lie, and the voices among them.

This module does not know what is inside the files (`loader/checkpoint.py` does) nor how they travel (`hub.py` does).
It prints nothing.
"""

import gzip
import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import platformdirs

from personaplex_cli.errors import ModelError, unknown_name
from personaplex_cli.events import Listener
from personaplex_cli.files import atomic_folder, damaged_hint, keep_newest
from personaplex_cli.library import hub
from personaplex_cli.library.hub_errors import disk_error
from personaplex_cli.library.spec import CONFIG_FILE, SPEC_FILE, VOICE_BYTES, ModelSpec, spec_of_folder, spec_of_repo

OPTIONAL_FILES = (CONFIG_FILE, SPEC_FILE)
# A model has some dozens of voices, of less than a megabyte each.
MAX_UNPACKED_BYTES, MAX_MEMBERS = 256 * 2**20, 1000
ARCHIVES_KEPT = 3  # unpacked
VOICE_FILE = re.compile(r"\w[\w .-]*\.pt")  # a plain name: no way out of its folder


@dataclass(frozen=True)
class ModelFiles:
    """A model on this disk: its name, the folder of its files, their commit ("local" for a folder), what it is."""

    name: str
    folder: Path
    revision: str
    spec: ModelSpec

    @property
    def weights(self) -> Path:
        return self.folder / self.spec.weights_file

    @property
    def mimi(self) -> Path:
        return self.folder / self.spec.mimi_file

    @property
    def tokenizer(self) -> Path:
        return self.folder / self.spec.tokenizer_file


def is_folder(model: str) -> bool:
    """Whether the name of a model means a folder, there or not, and no Hugging Face repository."""
    return model.startswith((".", "/", "~")) or os.path.isdir(model)


def open_folder(folder: Path) -> ModelFiles:
    """The model in a local folder, where a folder `voices/` may replace the archive of voices.

    Raises ModelError if the folder or a file is missing, empty or closed to us.
    """
    try:
        if not folder.is_dir():
            hint = "Give a folder, or a Hugging Face repo as ORG/NAME."
            raise ModelError(f"There is no model folder {folder}.", hint)
        spec = spec_of_folder(folder)
        for name in files_needed(folder, spec):
            path = folder / name
            if not path.is_file():
                raise ModelError(f"{folder} is not a PersonaPlex model: it has no {name}.", f"Copy {name} into it.")
            if path.stat().st_size == 0:
                raise ModelError(f"{path} is empty.", "Copy it there again.")
    except OSError as error:
        raise ModelError(f"{folder} cannot be used ({error.strerror}).", "Change its owner or mode.") from error
    return ModelFiles(folder.resolve().name, folder, "local", spec)


def files_needed(folder: Path, spec: ModelSpec) -> list[str]:
    """The names of the files that a local folder must have."""
    has_voices = (folder / "voices").is_dir()
    return [name for name in spec.needed_files if not (has_voices and name == spec.voices_file)]


def cached(model: str, revision: str | None = None) -> ModelFiles | None:
    """The model ORG/NAME if all of it is here already, without asking the network. Raises what `hub.find` raises."""
    spec = spec_of_repo(model)
    found = hub.find(model, revision, spec.needed_files)
    if len(found) < len(spec.needed_files) or any(path.stat().st_size == 0 for path in found.values()):
        return None
    folder = found[spec.weights_file].parent
    return ModelFiles(model, folder, folder.name, spec_of_folder(folder, spec))


def download(model: str, revision: str | None, listen: Listener, damaged: Collection[str] = ()) -> ModelFiles:
    """The model ORG/NAME at a branch, tag or commit (default: main), fetched unless all of it is here already.

    Of what is here the files that are `damaged` are fetched anew, and any whose size is not the hub's.
    `listen` gets `Downloading`; `hub.fetch` says more. Raises UsageError for malformed names; ModelError if the model
    is gated, absent, damaged or does not fit the disk; NetworkError for the rest.
    """
    if not damaged and (here := cached(model, revision)):
        return here
    spec = spec_of_repo(model)
    folder = hub.fetch(model, revision, spec.needed_files, OPTIONAL_FILES, listen, damaged)
    return ModelFiles(model, folder, folder.name, spec_of_folder(folder, spec))


def voice_file(files: ModelFiles, file_name: str) -> Path:
    """The path of one of the model's voices, such as "NATF2.pt".

    Raises UsageError for a voice that the model does not have, ModelError if its archive is damaged.
    """
    for path in _voices(files):
        if path.name == file_name:
            return path
    names = voice_names(files)
    raise unknown_name("voice", file_name.removesuffix(".pt"), names, f"The model has {', '.join(names) or 'none'}.")


def voice_names(files: ModelFiles) -> list[str]:
    """The names of the model's voices, sorted. Raises ModelError if its archive is damaged."""
    return sorted({path.stem for path in _voices(files)})


def _voices(files: ModelFiles) -> Iterator[Path]:
    """Those of the archive come last: it is unpacked only for a voice that the folder `voices` does not have."""
    if files.spec.voices_file:
        yield from (path for path in files.folder.glob("voices/*.pt") if VOICE_FILE.fullmatch(path.name))
        archive = files.folder / files.spec.voices_file
        if archive.exists():
            yield from _unpacked(archive).glob("*.pt")


def _unpacked(archive: Path) -> Path:
    """The folder with the voices of the archive, unpacked once into our own cache under its fingerprint."""
    cache = platformdirs.user_cache_path("personaplex") / "voices"
    try:
        with archive.open("rb") as file:
            folder = cache / hashlib.file_digest(file, "sha256").hexdigest()[:16]
        if folder.is_dir():
            with suppress(OSError):  # a cache that can only be read
                folder.touch()  # the last used is the last to be removed
        else:
            with atomic_folder(folder) as partial:
                unpack_voices(archive, partial)
            keep_newest(cache.glob("[!.]*/"), ARCHIVES_KEPT)
        return folder
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ModelError(f"{archive.name} is damaged ({error}).", damaged_hint(archive)) from error
    except OSError as error:
        raise disk_error(error, cache, "set XDG_CACHE_HOME to another folder") from error


def unpack_voices(archive: Path, folder: Path) -> None:
    """Unpack `voices/NAME.pt` as `NAME.pt`, and nothing else: no links, no paths that lead elsewhere.

    Raises OSError, or what tarfile, gzip and zlib raise for damaged archives; ReadError for one that is too large.
    """
    with gzip.open(archive) as unzipped, tarfile.open(fileobj=_Limited(unzipped), mode="r|") as tar:
        for count, member in enumerate(tar):
            if count == MAX_MEMBERS:
                raise tarfile.ReadError(f"it has more than {MAX_MEMBERS} members")
            path = PurePosixPath(member.name)
            is_voice = path.parent == PurePosixPath("voices") and VOICE_FILE.fullmatch(path.name)
            if not is_voice or not member.isreg():
                continue
            if member.issparse() or member.size > VOICE_BYTES:  # a sparse one may be of any size, in no bytes at all
                raise tarfile.ReadError(f"its {path.name} is too large for a voice")
            if content := tar.extractfile(member):
                (folder / path.name).write_bytes(content.read())
    if not any(folder.iterdir()):
        raise tarfile.ReadError("it has no voices")


class _Limited(io.RawIOBase):
    """What is unzipped, and an end to it: a few kilobytes can become any number of bytes, even in headers."""

    def __init__(self, unzipped: gzip.GzipFile) -> None:
        self._unzipped = unzipped
        self._left = MAX_UNPACKED_BYTES

    def read(self, size: int = -1) -> bytes:
        content = self._unzipped.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise tarfile.ReadError(f"it unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MB")
        return content
