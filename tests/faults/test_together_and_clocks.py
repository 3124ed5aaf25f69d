"""Several programs in one folder at the same moment, and a clock that is set while they run."""

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from personaplex_cli import files
from personaplex_cli.events import Began
from personaplex_cli.recorder import Recorder

BEGAN = Began("teacher", "NATF2", "demo", "cpu", "fp32", 3, 10, 3000, {})
PROGRAMS = 3
RECORDING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_recorder import keep
sys.stdin.readline()
print(keep(Path(sys.argv[1]), 30).folder)
"""


def test_programs_that_record_into_one_folder_at_once_do_not_meet(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RECORDING, str(tmp_path), str(Path(__file__).parents[1])]
    programs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROGRAMS)
    ]
    for each in programs:
        assert each.stdin
        each.stdin.write("now\n")
        each.stdin.flush()
    folders = {each.communicate()[0].strip() for each in programs}
    assert len(folders) == PROGRAMS and {str(each) for each in tmp_path.iterdir()} == folders
    for folder in folders:
        assert (Path(folder) / "conversation.wav").stat().st_size > 30 * 1920 * 4


@pytest.mark.parametrize("now", [[100.0, 100.0, 50.0, 100.0], [5e9, 0.0, 1.0, -1.0]])
def test_a_clock_that_is_set_back_gives_every_recording_a_folder(
    now: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime

    from test_recorder import Ramp

    moments = iter(now)
    clock = SimpleNamespace(now=lambda: datetime.fromtimestamp(next(moments), UTC))
    monkeypatch.setattr("personaplex_cli.recorder.datetime", clock)
    with ExitStack() as recorders:  # all at once: one in which nothing was said leaves nothing
        for _ in now:
            recorders.enter_context(Recorder(Ramp(0), tmp_path, lambda event: None)).hear(BEGAN)
        assert len(list(tmp_path.iterdir())) == len(now)


@pytest.mark.parametrize("jump", [-1e6, -60.0, 60.0])
def test_a_clock_that_is_set_takes_no_file_from_who_writes_it(
    jump: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jump forward by a day is taken for a day: what is being written at that moment fails as on a full disk."""
    with files.atomic_path(tmp_path / "one") as partial:
        partial.write_bytes(b"1")
        set_to = time.time() + jump
        monkeypatch.setattr(files, "time", SimpleNamespace(time=lambda: set_to))
        files._remove_abandoned.cache_clear()
        with files.atomic_file(tmp_path / "two") as other:
            other.write(b"2")
    assert (tmp_path / "one").read_bytes() == b"1" and (tmp_path / "two").read_bytes() == b"2"
