"""The voices and personas: those shipped, and the user's own, which replace them by name.

Each is a small TOML file named after itself. In the user's `voices` folder a sound file or a `.pt` file is a voice
itself, and so is the folder of one that was added (`own_voices.py`). A file is only read when its name is asked for, so
that one broken file breaks no other name.
This module does not know what a voice sounds like: it opens neither sound nor `.pt` files, nor the model.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar
from unicodedata import normalize

from personaplex_cli.errors import UsageError, either, unknown_name
from personaplex_cli.library import own_voices
from personaplex_cli.library.own_voices import Provenance
from personaplex_cli.library.settings import config_folder, read_toml
from personaplex_cli.samples import SOUND_SUFFIXES

DEFAULT_VOICE = "NATF2"

PACKAGE = Path(__file__).parents[1]
VOICE_SUFFIXES = (*SOUND_SUFFIXES, ".pt")

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Voice:
    """How the agent sounds: either `file` in the model's voices archive, or a local sample or `.pt` file (`path`).

    `added` is what is known of one that the user has added.
    """

    name: str
    description: str = ""
    source: str = ""
    licence: str = ""
    file: str = ""
    path: Path | None = None
    added: Provenance | None = None


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
    """All that there is of one kind ("voice"): the paths that are entries, each read by `read`."""

    def __init__(self, kind: str, is_entry: Callable[[Path], bool], read: Callable[[Path], Entry]) -> None:
        self._kind = kind
        self._is_entry = is_entry
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
        return self._load(self.path(name))

    def path(self, name: str) -> Path:
        """The file behind a name, whatever is in it. Raises UsageError for an unknown name."""
        try:
            files = self.files()
        except UsageError as error:
            raise SpoiledEntry(self._kind, name, error) from error
        if folded(name) not in files:
            names = [path.stem for path in files.values()]
            raise unknown_name(self._kind, name, names, f"See `personaplex {self._kind}s`.")
        return files[folded(name)]

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
                if self._is_entry(path) and not path.name.startswith("."):
                    files.setdefault(folded(path.stem), path)
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
    if has_separator or (has_suffix and folded(path.stem) not in VOICES.files()):
        raise UsageError(f"There is no file {name_or_path}.", "A voice is a name or the path of a sample of speech.")
    return VOICES.find(path.stem if has_suffix else name_or_path)


def is_own_voice(voice: Voice) -> bool:
    """Whether it is the user's, added or put there by hand, and not shipped."""
    return VOICES.path(voice.name).parent == own_voices.folder()


def speakers() -> dict[str, list[str]]:
    """The names of the personas, as far as they can be read, by the folded name of the voice that they speak with."""
    by_voice: dict[str, list[str]] = {}
    for persona in PERSONAS.all(lambda error: None):
        by_voice.setdefault(folded(persona.voice), []).append(persona.name)
    return by_voice


def _is_other_file(path: Path) -> bool:
    """Whether it may be a recording of a kind that is no voice by itself, and is not the name of a voice with a dot."""
    return bool(path.suffix) and folded(path.name) not in VOICES.files()


def folded(name: str) -> str:
    """What makes two names the same: case does not count, nor dash or underscore, nor how an accent is encoded."""
    return normalize("NFC", name).casefold().replace("-", "_")


def _is_voice(path: Path) -> bool:
    return path.suffix.lower() in (".toml", *VOICE_SUFFIXES) or own_voices.is_own(path)


def _read_voice(path: Path) -> Voice:
    if own_voices.is_own(path):
        about = own_voices.provenance(path)
        description = f"Added {about.added[:10]}"
        return Voice(path.name, description, about.source, path=path / own_voices.SAMPLE, added=about)
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


VOICES = Catalog("voice", _is_voice, _read_voice)
PERSONAS = Catalog("persona", lambda path: path.suffix.lower() == ".toml", _read_persona)
voices, find_named_voice = VOICES.all, VOICES.find
personas, find_persona = PERSONAS.all, PERSONAS.find
