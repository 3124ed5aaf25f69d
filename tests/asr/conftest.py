"""A library that only counts, in the place of faster-whisper, for the process that writes down speech."""

import os
import sys
import textwrap
from pathlib import Path

import pytest

from personaplex_cli.library import whisper_files
from personaplex_cli.library.whisper_files import NEEDED

# In place of faster_whisper: it tells how loud it was at the beginning, prints, fails and crashes as it is told.
LIBRARY = """
    import os
    from types import SimpleNamespace as Some

    class WhisperModel:
        def __init__(self, folder, **options):
            print("loading", folder)
            if "broken" in folder:
                raise RuntimeError("no such model")

        def transcribe(self, sound, **options):
            print("noise that is no answer")
            level = round(float(sound[len(sound) // 4]), 1) if len(sound) else 0.0
            if level == 0.8:
                raise ValueError("too loud")
            if level == 0.9:
                os._exit(7)
            pieces = [(" heard", 0.0, 0.5), (f" {level}", 0.5, 0.75), ("!", 0.75, len(sound) / 16000)]
            return [Some(words=[Some(word=word, start=start, end=end) for word, start, end in pieces])], None
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a model, which this library does not look at."""
    folder = tmp_path / "library"
    folder.mkdir()
    for name in NEEDED:
        (tmp_path / name).touch()
    (folder / "faster_whisper.py").write_text(textwrap.dedent(LIBRARY))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
    monkeypatch.setattr(whisper_files, "find_spec", lambda name: True)
    return tmp_path
