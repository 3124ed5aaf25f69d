"""A disk that is really full: a memory file system of two megabytes, in a name space of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MOUNT = 'mount -t tmpfs -o size=2m none "$SMALL_DISK" && exec "$@"'
CASES = Path(__file__).with_name("full_disk.py")


@pytest.mark.slow
def test_what_is_written_to_a_full_disk(tmp_path: Path) -> None:
    if not shutil.which("unshare"):
        pytest.skip("needs Linux' name spaces")
    # Without what was asked of the run that this is a part of: several workers would share the disk.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**own, "SMALL_DISK": str(tmp_path)}
    alone = ["unshare", "-Urm", "sh", "-c", MOUNT, "sh"]
    if subprocess.run([*alone, "true"], env=environment, capture_output=True).returncode:
        pytest.skip("this system lets us make no disk")
    command = [*alone, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, env=environment, cwd=CASES.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
