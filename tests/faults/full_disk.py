"""What is written to a disk that is really full: it has two megabytes. `test_full_disk.py` makes it, and runs this."""

import json
import os
import shutil
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from personaplex_cli.errors import AudioError
from personaplex_cli.events import Event, Note
from personaplex_cli.files import SCRATCH
from personaplex_cli.samples import FRAME

SMALL = os.environ["SMALL_DISK"]


@pytest.fixture
def disk() -> Iterator[Path]:
    """The disk, empty; nothing half written is left on it in the end."""
    yield Path(SMALL)
    assert not list(Path(SMALL).rglob(f"{SCRATCH}*"))
    for each in Path(SMALL).iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes."""
    (disk / "others").write_bytes(bytes(shutil.disk_usage(disk).free - left))


def test_a_recording_that_fills_the_disk_stays_whole(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_recorder import keep, sound

    monkeypatch.setattr("personaplex_cli.recorder.MIN_FREE", 0)
    said: list[Event] = []
    kept = keep(disk, 400, said)
    assert kept._audio.played == 400  # type: ignore[attr-defined]
    assert any(isinstance(event, Note) and "has stopped" in event.text and "No space" in event.text for event in said)
    assert kept.folder
    left, right = sound(kept.folder / "conversation.wav")
    assert 12 * FRAME <= len(left) == len(right) < 400 * FRAME
    assert json.loads((kept.folder / "transcript.json").read_text())["words"]
    assert len(np.load(kept.folder / "tokens.npy")) >= 12


@pytest.mark.parametrize("left", [0, 50_000])
def test_answers_are_whole_or_not_there_and_the_rest_is_done_later(
    left: int, disk: Path, random_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from runningserver import speech, wav

    from personaplex_cli.cli import main as cli

    for index in range(3):
        wav(tmp_path / f"{index}.wav", speech(12, seed=index))
    out = disk / "out"
    command = ["run", *(str(tmp_path / f"{index}.wav") for index in range(3)), "-o", str(out)]
    command += ["--model", str(random_folder), "--device", "cpu", "--seed", "3"]
    fill(disk, left)
    assert cli.program(command) == AudioError.exit_code
    said = capsys.readouterr().err
    assert "No space left on device" in said and "Traceback" not in said and "a bug" not in said
    for path in out.glob("*.wav"):
        with wave.open(str(path)) as file:
            assert file.getnframes() == 12 * FRAME
    for line in (out / "results.jsonl").read_bytes().splitlines(True) if (out / "results.jsonl").exists() else ():
        assert line.endswith(b"\n") and json.loads(line)
    (disk / "others").unlink()
    assert cli.program([*command, "--skip-existing"]) == 0
    assert len(list(out.glob("*.wav"))) == 3


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("left", [0, 100_000])
def test_without_room_for_the_caches_the_talk_is_the_same(
    left: int, precision: str, disk: Path, random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from personaplex_cli.library.weights import open_folder, voice_names
    from personaplex_cli.loader.load import load_cold
    from personaplex_cli.loader.quantised_cache import QuantisedCache
    from personaplex_cli.options import ModelOptions
    from tests.faults.test_weights_that_change import KIND, talk

    def held() -> bytes:
        engine = load_cold(ModelOptions(str(random_folder), device="cpu", precision=precision), rehearsal=KIND)
        said = talk(engine)
        engine.model.prompts.settle()
        return said

    usual = held()
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk / "cache"))
    monkeypatch.setattr(QuantisedCache, "__init__", _hopeful)
    voice_names(open_folder(random_folder))  # these must have room
    fill(disk, left)
    assert held() == usual
    assert held() == usual


def _hopeful(self: object, folder: Path, expected: int) -> None:
    """As if there were room: others take it in the meantime."""
    self._folder, self._expected = folder, -1  # type: ignore[attr-defined]


def test_a_recording_that_does_not_fit_into_the_temporary_folder_is_told(
    disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from runningserver import speech, wav

    from personaplex_cli.audio.recording import read_recording

    fill(disk, 10_000)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    with pytest.raises(AudioError, match="temporary folder") as caught:
        read_recording(wav(tmp_path / "a.wav", speech(50)))
    assert "TMPDIR" in caught.value.hint
