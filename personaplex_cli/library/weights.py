"""The files of a model: which there are, where they lie, and the voices among them.

This module does not know what is inside the files (`model/checkpoint.py` does) nor how they travel (`hub.py` does).
It prints nothing.
"""

import gzip
import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import platformdirs

from personaplex_cli.errors import ModelError, unknown_name
from personaplex_cli.events import Listener
from personaplex_cli.library import hub
from personaplex_cli.library.hub_errors import disk_error

WEIGHTS = "model.safetensors"
MIMI = "tokenizer-e351c8d8-checkpoint125.safetensors"
TOKENIZER = "tokenizer_spm_32k_3.model"
VOICES = "voices.tgz"
CONFIG = "config.json"  # only a marker
SIZES = "personaplex.json"  # sizes other than the 7B's

DEFAULT_MODEL = "nvidia/personaplex-7b-v1"
DEMO = "demo"  # the name of the model that is made here (`model/demo.py`) and needs no download
NEEDED = (TOKENIZER, VOICES, MIMI, WEIGHTS)
OPTIONAL = (CONFIG, SIZES)

VOICE_FILE = re.compile(r"\w[\w .-]*\.pt")  # a plain name: no way out of its folder


@dataclass(frozen=True)
class ModelFiles:
    """A model on this disk: its name, the folder of its files, their commit ("local" for a folder of one's own)."""

    name: str
    folder: Path
    revision: str

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def mimi(self) -> Path:
        return self.folder / MIMI

    @property
    def tokenizer(self) -> Path:
        return self.folder / TOKENIZER


def open_folder(folder: Path) -> ModelFiles:
    """The model in a folder of one's own, where a folder `voices/` may stand for `voices.tgz`.

    Raises ModelError if the folder or a file is missing or empty.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no model folder {folder}.", "Give a folder, or a Hugging Face repo as ORG/NAME.")
    for name in NEEDED:
        path = folder / name
        if name == VOICES and (folder / "voices").is_dir():
            continue
        if not path.is_file():
            raise ModelError(f"{folder} is not a PersonaPlex model: it has no {name}.", f"Copy {name} into it.")
        if path.stat().st_size == 0:
            raise ModelError(f"{path} is empty.", "Copy it there again.")
    return ModelFiles(folder.resolve().name, folder, "local")


def cached(model: str, revision: str | None = None) -> ModelFiles | None:
    """The model ORG/NAME if all of it is here already, without asking the network.

    Raises UsageError for malformed names, ModelError if the cache may not be read.
    """
    folder = hub.find(model, revision, NEEDED)
    return ModelFiles(model, folder, folder.name) if folder else None


def download(model: str, revision: str | None, listen: Listener, *, endpoint: str | None = None) -> ModelFiles:
    """The model ORG/NAME at a branch, tag or commit (default: main), fetched unless all of it is here already.

    `listen` hears `Downloading`, in a thread of its own (`hub.fetch` says more). Ctrl-C leaves at once; whatever
    stopped a download, the next one goes on from there. `endpoint` is the hub's URL (default: HF_ENDPOINT).

    Raises UsageError for malformed names; ModelError if the model is gated, absent, damaged or does not fit the disk;
    NetworkError for the rest.
    """
    if here := cached(model, revision):
        return here
    folder = hub.fetch(model, revision, NEEDED, OPTIONAL, listen, endpoint)
    return ModelFiles(model, folder, folder.name)


def voice_file(files: ModelFiles, file_name: str) -> Path:
    """The path of one of the model's voices, such as "NATF2.pt".

    Raises UsageError for a voice that the model has not, ModelError if its archive is damaged.
    """
    if VOICE_FILE.fullmatch(file_name):
        for folder in _voice_folders(files):
            if (folder / file_name).is_file():
                return folder / file_name
    names = voice_names(files)
    raise unknown_name("voice", file_name.removesuffix(".pt"), names, f"The model has {', '.join(names) or 'none'}.")


def voice_names(files: ModelFiles) -> list[str]:
    """The names of the model's voices, sorted. Raises ModelError if its archive is damaged."""
    paths = (path for folder in _voice_folders(files) for path in folder.glob("*.pt"))
    return sorted({path.stem for path in paths if VOICE_FILE.fullmatch(path.name)})


def _voice_folders(files: ModelFiles) -> Iterator[Path]:
    yield files.folder / "voices"
    if (files.folder / VOICES).exists():
        yield _unpacked(files.folder / VOICES)


def _unpacked(archive: Path) -> Path:
    """The folder with the voices of the archive, unpacked once into our own cache under its fingerprint."""
    cache = platformdirs.user_cache_path("personaplex") / "voices"
    try:
        with archive.open("rb") as file:
            folder = cache / hashlib.file_digest(file, "sha256").hexdigest()[:16]
        if not folder.is_dir():
            _unpack(archive, folder)
        return folder
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        remedy = f"Delete {archive.resolve()} and get it again; `personaplex download` does so for a hub model."
        raise ModelError(f"{archive.name} is damaged ({error}).", remedy) from error
    except OSError as error:
        raise disk_error(error, cache, "set XDG_CACHE_HOME to another folder") from error


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the files `voices/NAME.pt`, and nothing else: no links, no paths that lead elsewhere.

    They go to a folder beside, which is then renamed: whoever else does the same, `folder` is whole or absent.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as scratch, tarfile.open(archive, "r:gz") as tar:
        voices = [member for member in tar if member.isreg() and _is_voice(PurePosixPath(member.name))]
        if not voices:
            raise tarfile.ReadError("it has no voices")
        # The choice of members is the guard. Python's own is set as well, where there is one: 3.11.4 brought it.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(scratch, members=voices)
        try:
            os.rename(Path(scratch) / "voices", folder)
        except OSError:
            if not folder.is_dir():  # else another was faster
                raise


def _is_voice(path: PurePosixPath) -> bool:
    return path.parent == PurePosixPath("voices") and VOICE_FILE.fullmatch(path.name) is not None
