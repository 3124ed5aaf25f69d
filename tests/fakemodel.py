"""A model's files, small and of no meaning, and how they come from a fake hub."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import ignore
from personaplex_cli.library.spec import CONFIG_FILE, PERSONAPLEX
from personaplex_cli.library.weights import download
from personaplex_cli.options import DEFAULT_MODEL

WEIGHTS, MIMI, TOKENIZER = PERSONAPLEX.weights_file, PERSONAPLEX.mimi_file, PERSONAPLEX.tokenizer_file
VOICES = PERSONAPLEX.voices_file or ""
CHUNK = 1 << 16


def write_model(folder: Path) -> Path:
    """A new folder with the files of a model, and one that does not belong to it."""
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(os.urandom(16 * CHUNK + 5))
    (folder / MIMI).write_bytes(os.urandom(3 * CHUNK))
    (folder / TOKENIZER).write_bytes(b"pieces")
    (folder / CONFIG_FILE).write_text("{}")
    (folder / "dist.tgz").write_bytes(b"a web client")
    archive(folder / VOICES, "voices/NATF2.pt", "voices/VARM0.pt")
    return folder


def archive(path: Path, *members: tarfile.TarInfo | str, content: bytes = b"a voice") -> Path:
    """A .tgz with these members; a name stands for a regular file."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return path


def failure(model: str = DEFAULT_MODEL, revision: str | None = None) -> PersonaplexError:
    """The error that a download ends with."""
    with pytest.raises(PersonaplexError) as caught:
        download(model, revision, ignore)
    return caught.value
