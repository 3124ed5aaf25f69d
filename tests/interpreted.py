"""Laws of Triton's kernels, held on the CPU by its interpreter, line by line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def hold(laws: Path) -> None:
    """Run a file of tests. The interpreter must be asked for before Triton is imported: in a process of its own."""
    pytest.importorskip("triton", reason="there is no Triton for this system")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider", "--durations=5", laws],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    print(done.stdout)  # seen with pytest -rP
    assert done.returncode == 0, done.stdout + done.stderr
