"""The files of a Whisper model in CTranslate2's format, which writes down what the user says."""

import os
from importlib.util import find_spec
from pathlib import Path

from personaplex_cli.errors import ModelError, UsageError, unknown_name
from personaplex_cli.events import Listener, Phase, State
from personaplex_cli.library import hub
from personaplex_cli.library.weights import is_folder

NEEDED = ("config.json", "tokenizer.json", "model.bin")
OPTIONAL = ("preprocessor_config.json", "vocabulary.json", "vocabulary.txt")
SYSTRAN = "Systran/faster-whisper-"  # whose repositories have the plain names
ENGLISH = ("tiny.en", "base.en", "small.en", "medium.en")
SIZES = (*ENGLISH, "tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3")


def check_installed() -> None:
    """Raise UsageError without the library that runs such models."""
    if find_spec("faster_whisper") is None:
        what = "To write down your words faster-whisper is needed, which is not installed."
        raise UsageError(what, "Run `pip install faster-whisper`, or leave out --asr.")


def find_whisper(name: str, listen: Listener) -> Path:
    """The folder of a model by its name: a size such as base.en, a folder, or a Hugging Face ORG/REPO.

    Downloaded unless it is here; `listen` gets `Downloading`. Raises UsageError, ModelError or NetworkError.
    """
    check_installed()
    if is_folder(name):
        return _folder(Path(os.path.expanduser(name)))
    if "/" not in name and name not in SIZES:
        raise unknown_name("Whisper model", name, SIZES, "Try tiny.en, base.en, small.en or a folder.")
    repo = name if "/" in name else SYSTRAN + name
    found = hub.find(repo, None, NEEDED)
    if len(found) == len(NEEDED):
        return found[NEEDED[0]].parent
    listen(State(Phase.DOWNLOADING, repo))
    return hub.fetch(repo, None, NEEDED, OPTIONAL, listen, kind="Whisper")


def _folder(folder: Path) -> Path:
    absent = [name for name in NEEDED if not (folder / name).is_file()]
    if absent:
        *others, last = absent
        names = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        what = f"{folder} is not a Whisper model in CTranslate2's format: {names} missing."
        raise ModelError(what, "Give --asr another folder, or a name such as base.en.")
    return folder
