"""The voices that the user has added: a folder each, closed to others, with the sample and where it came from.

    voices/ada/sample.wav    24 kHz mono, at the loudness that the model wants
    voices/ada/about.json    `Provenance`
    voices/ada/*.pt          what models have made of the sample (`engine/own_voice.py`); made again where it is missing

This module does not know what a sample sounds like.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

from personaplex_cli.errors import UsageError
from personaplex_cli.files import atomic_folder, read_small
from personaplex_cli.library.settings import config_folder

SAMPLE, ABOUT = "sample.wav", "about.json"
MAX_SAMPLE_BYTES = 10_000_000  # three minutes: more is no sample of ours
NAME = re.compile(r"[^\W_][\w-]{0,39}")  # no separator, no dot: it is a folder's name, and no path
RESERVED = {"add", "play", "remove", "show"}  # words of the command `voices`


@dataclass(frozen=True)
class Provenance:
    """Where a voice comes from, in words for whoever asks later; digests are SHA-256 in hexadecimal digits."""

    source: str  # the path of the recording, as far as there is one
    added: str  # when
    kept: str  # which part of it
    consent: str  # of the speaker's
    warnings: str  # what was said of it
    source_digest: str
    sample_digest: str


def folder() -> Path:
    """Where the user's voices lie."""
    return config_folder() / "voices"


def is_own(path: Path) -> bool:
    """Whether a voice was added there, whole or damaged."""
    return any(os.path.exists(path / name) for name in (SAMPLE, ABOUT))  # False for what is closed to us


def check_name(name: str) -> None:
    """Raise UsageError for what cannot be the name of a voice of the user's own."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a voice.", "Use up to 40 letters, digits, - or _.")
    if name.lower() in RESERVED:
        raise UsageError(f"{name} is a subcommand, so it cannot be a name.", "Choose another name.")


def keep(name: str, sample: bytes, about: Provenance) -> Path:
    """Write a new voice, whole or not at all; returns its folder. Raises UsageError if it cannot be written, or if
    there is another one of that name.
    """
    place = folder() / name
    try:
        with atomic_folder(place) as partial:
            partial.chmod(0o700)
            described = json.dumps(asdict(about), indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
            for file_name, content in ((SAMPLE, sample), (ABOUT, described)):
                (partial / file_name).touch(0o600)
                (partial / file_name).write_bytes(content)
    except OSError as error:
        what = f"{place} cannot be written ({error.strerror})."
        raise UsageError(what, "Make room there, or change the owner or mode of that folder.") from error
    if not is_own(place):  # a folder of another kind
        raise UsageError(f"{place} is in the way.", "Move it away, or choose another name.")
    if provenance(place) != about:  # another program was first
        raise UsageError(f"There is a voice named {name} already.", "Choose another name.")
    return place


def provenance(place: Path) -> Provenance:
    """What is known of the voice in this folder. Raises UsageError if that, or the sample, is missing or damaged."""
    try:
        values = json.loads(read_small(place / ABOUT))
        about = Provenance(**{each.name: str(values[each.name]) for each in fields(Provenance)})
        if _digest_of_sample(place / SAMPLE) != about.sample_digest:
            raise ValueError(f"{SAMPLE} is not what was added")
        return about
    except (OSError, UsageError, ValueError, LookupError, TypeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        what = f"The voice {place.name} is damaged ({place}: {why})."
        remedy = f"Remove it with `personaplex voices remove {place.name}`, and add it again."
        raise UsageError(what, remedy) from error


def remove(place: Path) -> None:
    """Delete a voice with all that models have made of it. Raises UsageError if that is not possible."""
    try:
        with TemporaryDirectory(prefix=".", dir=place.parent) as scratch:
            os.replace(place, Path(scratch) / place.name)  # at once, whoever may be reading it
    except OSError as error:
        raise UsageError(f"{place} cannot be removed ({error.strerror}).", "Change its owner or mode.") from error


def _digest_of_sample(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > MAX_SAMPLE_BYTES:
        raise ValueError(f"there is no {path.name}, or it is no sample")
    return hashlib.sha256(path.read_bytes()).hexdigest()
