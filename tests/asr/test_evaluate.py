"""`personaplex eval --words asr`: the words are those that are heard in the output."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runningserver import wav

from personaplex_cli.cli import main as cli
from personaplex_cli.evaluation import heard
from personaplex_cli.programs import evaluate
from personaplex_cli.samples import SAMPLE_RATE


@pytest.fixture
def sample(library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output of two seconds, in which somebody else has read no words."""
    monkeypatch.chdir(library)
    monkeypatch.setattr(evaluate, "RECOGNISER", str(library))
    monkeypatch.setattr(heard, "find_spec", lambda name: True)
    folder = library / "set/1"
    folder.mkdir(parents=True)
    say(folder, 0.1, 2.0)
    (folder / "output.json").write_text('{"chunks": []}')
    (folder / "turn_taking.json").write_text('[{"timestamp": [0.5, 0.9]}]')
    return folder


def say(folder: Path, level: float, seconds: float) -> None:
    wav(folder / "output.wav", np.full(round(seconds * SAMPLE_RATE), level, np.float32))


def scored(*arguments: str) -> dict[str, Any]:
    assert cli.program(["eval", "set", "--task", "smooth_turn_taking", "--no-run", *arguments]) == 0
    report = json.loads(Path("set/eval.json").read_text())
    return {"words": report["words"], **report["samples"]["1"]}


def test_words_come_from_the_sound_and_are_kept(sample: Path, library: Path) -> None:
    assert scored() == {"words": "tokens", "takes_turn": False, "latency": None}
    assert scored("--words", "asr") == {"words": str(library), "takes_turn": True, "latency": 0.0}
    kept = sample / "output.asr.json"
    content = json.loads(kept.read_text())
    assert content["text"] == "heard 0.1!" and content["chunks"][0] == {"text": "heard", "timestamp": [0.0, 0.5]}
    assert json.loads((sample / "output.json").read_text()) == {"chunks": []}

    content["chunks"] = []
    kept.write_text(json.dumps(content))
    assert scored("--words", "asr")["takes_turn"] is False  # it was not heard again
    say(sample, 0.3, 2.0)
    os.utime(kept, (1, 1))
    assert scored("--words", "asr")["takes_turn"] is True
    assert json.loads(kept.read_text())["text"] == "heard 0.3!"


def test_a_sound_that_cannot_be_recognised_is_named(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(sample, 0.8, 1.0)
    assert cli.program(["eval", "set", "--task", "smooth_turn_taking", "--no-run", "--words", "asr"]) == 1
    assert "1 of 1 samples were left out. 1: ValueError: too loud" in capsys.readouterr().err


def test_without_the_extra_one_is_told(
    sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(heard, "find_spec", lambda name: None)
    assert cli.program(["eval", "set", "--task", "smooth_turn_taking", "--words", "asr"]) == 2
    assert "pip install faster-whisper" in capsys.readouterr().err and not Path("set/eval.json").exists()
