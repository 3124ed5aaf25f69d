"""The agent's words as a recogniser hears them (extra `asr`), kept beside the sound."""

import json
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from personaplex_cli.audio.recording import read_recording
from personaplex_cli.errors import UsageError
from personaplex_cli.evaluation.dataset import Sample, read_json
from personaplex_cli.evaluation.turn_taking import Spoken
from personaplex_cli.files import atomic_file
from personaplex_cli.recogniser import Recogniser
from personaplex_cli.transcript import as_bytes, chunks

HEARD = "output.asr.json"


def can_hear() -> bool:
    """Whether the library that recognises words is installed."""
    return find_spec("faster_whisper") is not None


def heard(sample: Sample, recogniser: Recogniser) -> list[Spoken]:
    """The words in `output.wav`, from `HEARD` if this recogniser has heard this sound before.

    Raises AudioError for a sound that cannot be read, and what recognisers raise.
    """
    sound, path = sample.folder / "output.wav", sample.folder / HEARD
    if not _is_there(path, sound, recogniser.name):
        words = recogniser.transcribe(read_recording(sound))
        text = " ".join(word.word for word in words)
        content = {"text": text, "chunks": chunks(words), "recogniser": recogniser.name}
        with atomic_file(path) as file:
            file.write(as_bytes(json.dumps(content, ensure_ascii=False, indent=1) + "\n"))
    return sample.words(HEARD)


def _is_there(path: Path, sound: Path, recogniser: str) -> bool:
    with suppress(OSError, UsageError, LookupError, TypeError):
        return path.stat().st_mtime >= sound.stat().st_mtime and read_json(path)["recogniser"] == recogniser
    return False
