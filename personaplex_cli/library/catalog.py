"""The voices and personas: those shipped, and the user's own, which replace them by name.

Each is a small TOML file named after itself; a sound file or `.pt` file in the user's `voices` folder is a voice
itself. A file is only read when its name is asked for, so that one broken file breaks no other name.
This module does not know what a voice sounds like: it opens neither sound nor `.pt` files, nor the model.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar
from unicodedata import normalize

from personaplex_cli.errors import UsageError, either, unknown_name
from personaplex_cli.library.settings import config_folder, read_toml
from personaplex_cli.samples import SOUND_SUFFIXES

DEFAULT_VOICE = "NATF2"

PACKAGE = Path(__file__).parents[1]
VOICE_SUFFIXES = (*SOUND_SUFFIXES, ".pt")

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Voice:
    """How the agent sounds: either `file` in the model's voices archive, or a local sample or `.pt` file (`path`)."""

    name: str
    description: str = ""
    source: str = ""
    licence: str = ""
    file: str = ""
    path: Path | None = None


@dataclass(frozen=True)
class Persona:
    """Who the agent is: the prompt (may be empty) and the voice that goes with it; `path` is the file that says so."""

    name: str
    prompt: str
    voice: str
    description: str
    path: Path


class SpoiledEntry(UsageError):
    """The file behind a name cannot be used: strangers may know the name, but not what the error says of files."""

    def __init__(self, kind: str, name: str, error: UsageError) -> None:
        super().__init__(str(error), error.hint)
        self.kind = kind
        self.name = name


class Catalog(Generic[Entry]):
    """All that there is of one kind ("voice"): files with these suffixes, each read by `read`."""

    def __init__(self, kind: str, suffixes: Collection[str], read: Callable[[Path], Entry]) -> None:
        self._kind = kind
        self._suffixes = suffixes
        self._read = read

    def all(self, broken: Callable[[UsageError], object] | None = None) -> list[Entry]:
        """All of them, by name. `broken` gets the error of each file or folder that is left out.

        Without it the first of them is raised, as a list would hide it.
        """
        entries = []
        for _, path in sorted(self.files(broken).items()):
            try:
                entries.append(self._load(path))
            except UsageError as error:
                if broken is None:
                    raise
                broken(error)
        return entries

    def find(self, name: str) -> Entry:
        """The one of that name, never a file at that path: clients may not look around on this machine.

        Raises UsageError for an unknown name and for a broken file.
        """
        try:
            files = self.files()
        except UsageError as error:
            raise SpoiledEntry(self._kind, name, error) from error
        if _folded(name) not in files:
            names = [path.stem for path in files.values()]
            raise unknown_name(self._kind, name, names, f"See `personaplex {self._kind}s`.")
        return self._load(files[_folded(name)])

    def _load(self, path: Path) -> Entry:
        try:
            return self._read(path)
        except UsageError as error:
            raise SpoiledEntry(self._kind, path.stem, error) from error

    def files(self, broken: Callable[[UsageError], object] | None = None) -> dict[str, Path]:
        """The file behind each folded name: the user's own folder goes first, and in a folder a TOML file does.

        Raises UsageError for a folder that cannot be read, or gives the error to `broken`.
        """
        files: dict[str, Path] = {}
        kind = f"{self._kind}s"
        shipped = PACKAGE / kind  # in a wheel; in a checkout it is beside the package
        for folder in (config_folder() / kind, shipped if shipped.is_dir() else PACKAGE.parent / kind):
            try:
                found = sorted(folder.iterdir(), key=lambda path: (path.suffix.lower() != ".toml", path.name))
            except FileNotFoundError:
                continue
            except OSError as error:
                spoiled = UsageError(f"{folder} cannot be read: {error.strerror}.")
                if broken is None:
                    raise spoiled from error
                broken(spoiled)
                continue
            for path in found:
                if path.suffix.lower() in self._suffixes and not path.name.startswith("."):
                    files.setdefault(_folded(path.stem), path)
        return files


def find_voice(name_or_path: str) -> Voice:
    """The voice of that name, or a voice made of the file at that path.

    A path has a separator or a suffix; `NATF2.pt` also finds NATF2 if there is no such file here.
    Raises UsageError for an unknown name, a path without a file, and a broken TOML file.
    """
    path = Path(os.path.expanduser(name_or_path))  # unlike Path.expanduser, silent about unknown users
    has_separator = any(separator in name_or_path for separator in (os.sep, os.altsep) if separator)
    has_suffix = path.suffix.lower() in VOICE_SUFFIXES
    # os.path.isfile, unlike Path.is_file, is silent about names too long to exist.
    if (has_separator or has_suffix or _is_other_file(path)) and os.path.isfile(path):
        return Voice(name=path.name, path=path)
    if has_separator or (has_suffix and _folded(path.stem) not in VOICES.files()):
        raise UsageError(f"There is no file {name_or_path}.", "A voice is a name or the path of a sample of speech.")
    return VOICES.find(path.stem if has_suffix else name_or_path)


def _is_other_file(path: Path) -> bool:
    """Whether it may be a recording of a kind that is no voice by itself, and is not the name of a voice with a dot."""
    return bool(path.suffix) and _folded(path.name) not in VOICES.files()


def _folded(name: str) -> str:
    """What makes two names the same: case does not count, nor dash or underscore, nor how an accent is encoded."""
    return normalize("NFC", name).casefold().replace("-", "_")


def _read_voice(path: Path) -> Voice:
    if path.suffix.lower() != ".toml":
        if not path.is_file():  # a pipe would keep the reader waiting
            raise UsageError(f"{path} is not a regular file.", "Put a sample of speech there, or remove it.")
        return Voice(name=path.stem, path=path)
    fields = _fields(path, required="file", optional=("description", "source", "licence"))
    voice = Voice(path.stem, fields["description"], fields["source"], fields["licence"], fields["file"])
    beside = path.parent / os.path.expanduser(voice.file)
    if os.path.isfile(beside):  # False for a NUL in its name and for a loop of links
        return replace(voice, file="", path=beside)
    # What is not beside its TOML file can only come with the model, whose archive has plain .pt names.
    if voice.file != Path(voice.file).name or not voice.file.endswith(".pt"):
        raise UsageError(f"{path}: there is no file {voice.file!r}.", f"Put it into {path.parent}, or correct `file`.")
    return voice


def _read_persona(path: Path) -> Persona:
    fields = _fields(path, required="prompt", optional=("voice", "description"))
    return Persona(path.stem, fields["prompt"], fields["voice"] or DEFAULT_VOICE, fields["description"], path)


def _fields(path: Path, required: str, optional: Collection[str]) -> dict[str, str]:
    """The texts in a TOML file, empty where left out. Raises UsageError for other keys, other values, one missing."""
    known = (required, *optional)
    table = read_toml(path)
    for key, value in table.items():
        if key not in known:
            raise unknown_name("key", key, known, f"{path} may have {either(known)}.")
        if not isinstance(value, str):
            raise UsageError(f"{path}: {key} is not text.", f'Write it in quotes: {key} = "..."')
    if required not in table:
        raise UsageError(f"{path} has no {required}.", f'Add a line: {required} = "..."')
    return {key: table.get(key, "").strip() for key in known}


VOICES = Catalog("voice", (".toml", *VOICE_SUFFIXES), _read_voice)
PERSONAS = Catalog("persona", (".toml",), _read_persona)
voices, find_named_voice = VOICES.all, VOICES.find
personas, find_persona = PERSONAS.all, PERSONAS.find
