"""No home folder, or one that is closed, missing or not a folder: a sentence, or the work is done all the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = ["unshare", "-U", "--map-user=54321", "--map-group=54321"]  # no user whom the system knows


def run(home: str | None, *command: str, before: list[str]) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HOME", "HF_"))}
    if home is not None:
        environment["HOME"] = home
    done = subprocess.run(
        [*before, sys.executable, "-m", "personaplex_cli", *command], env=environment, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr and "a bug" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def test_a_user_without_a_home_is_told_what_to_set() -> None:
    if not shutil.which("unshare") or subprocess.run([*NOBODY, "true"], capture_output=True).returncode:
        pytest.skip("needs Linux' name spaces")
    code, said = run(None, "voices", before=NOBODY)
    assert code == 2 and "no home folder" in said and "Set HOME" in said
    assert run("/tmp", "voices", before=NOBODY) == (0, "")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder in which nobody can write, not even root")
@pytest.mark.parametrize("home", ["/proc", "/proc/nowhere"])
def test_a_home_that_cannot_be_written_is_no_obstacle(home: str) -> None:
    assert run(home, "voices", before=[]) == (0, "")


@pytest.mark.model
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder in which nobody can write, not even root")
def test_without_a_place_for_caches_a_recording_is_answered(tmp_path: Path) -> None:
    question = Path(__file__).parents[2] / "examples/question.wav"
    command = ["run", str(question), "-o", str(tmp_path / "a.wav"), "--model", "demo", "--device", "cpu"]
    code, said = run("/proc", *command, before=[])
    assert code == 0, said
    assert (tmp_path / "a.wav").stat().st_size > 44
