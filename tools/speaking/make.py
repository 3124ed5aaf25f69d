"""Makes the demo model that speaks, all of it, on two cores without a GPU.

Usage: make.py FOLDER [ARCHIVE.tar.xz]

What is made on the way stays in FOLDER, and what is there already is not made again: a run that was stopped goes on
where it was. README.md says what must be installed.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
ARCHIVE = PROJECT / "personaplex_cli" / "loader" / "speaking.tar.xz"


class Maker:
    """Runs the scripts, each for a file or folder that is not there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, result: str, script: str, *sources: str) -> None:
        """Run a script with these sources and the result as arguments, and log what it says."""
        done = self.folder / f"{result}.done"
        if done.exists():
            return
        begun = time.monotonic()
        arguments = [str(self.folder / name) for name in (*sources, result)]
        with (self.folder / f"{result}.log").open("a") as log:
            command = [sys.executable, str(HERE / script), *arguments]
            subprocess.run(command, check=True, stdout=log, stderr=log, env=environment())
        done.write_text(f"{time.monotonic() - begun:.0f} s\n")
        print(f"{result}: {time.monotonic() - begun:.0f} s", flush=True)

    def make_in_turn(self, steps: Sequence[Sequence[str]]) -> None:
        """One after the other."""
        for step in steps:
            self.make(*step)


def environment() -> dict[str, str]:
    """One thread each, and the project as it lies here."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NO_TORCH_COMPILE": "1"}


def main(folder: Path, archive: Path = ARCHIVE) -> None:
    """Make everything: sounds, then two trainings side by side, then the archive."""
    folder.mkdir(parents=True, exist_ok=True)
    maker = Maker(folder)
    maker.make_in_turn([("voices", "speech.py"), ("users", "users.py"), ("units.pt", "units.py", "voices", "users")])
    speaking = [("decoder.pt", "train_decoder.py", "units.pt")]
    listening = [
        ("encoder.pt", "train_encoder.py", "units.pt", "users"),
        ("tracks.pt", "tracks.py", "units.pt", "users", "encoder.pt"),
        ("lm.pt", "train_lm.py", "units.pt", "tracks.pt"),
    ]
    with ThreadPoolExecutor(2) as both:
        for each in [both.submit(maker.make_in_turn, steps) for steps in (speaking, listening)]:
            each.result()
    sources = [str(folder / name) for name in ("units.pt", "decoder.pt", "encoder.pt", "lm.pt", "model")]
    subprocess.run([sys.executable, str(HERE / "export.py"), *sources, str(archive)], check=True, env=environment())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
