"""A program that is told to end, by whatever signal, ends as by Ctrl-C: what it made is tidied up."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from personaplex_cli.cli.terminal import INTERRUPTED

QUESTION = Path(__file__).parents[2] / "examples/question.wav"
PROGRAM = [sys.executable, "-m", "personaplex_cli"]
ENDLESS_WAV = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\xc0]\0\0\x80\xbb\0\0\x02\0\x10\0data\xff\xff\xff\xff"


def _ended(process: "subprocess.Popen[bytes]", number: signal.Signals) -> int:
    """Send the signal until it is heard: Python misses one that comes in the instant before a read begins to wait."""
    for _ in range(10):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=2)
    process.kill()
    raise AssertionError("it does not end")


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize(
    ("number", "ignored"),
    [
        (signal.SIGINT, None),
        (signal.SIGTERM, None),
        (signal.SIGHUP, None),
        (signal.SIGTERM, signal.SIGINT),  # as of what a script starts with &
        (signal.SIGHUP, signal.SIGINT),
        (signal.SIGTERM, signal.SIGHUP),  # nohup
    ],
)
def test_what_was_read_does_not_stay(number: signal.Signals, ignored: signal.Signals | None, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [*PROGRAM, "run", "-", "-o", str(tmp_path / "answer.wav"), "--model", "demo"]

    def heard() -> None:
        signal.signal(number, signal.SIG_DFL)  # also where the tests run under nohup
        if ignored:
            signal.signal(ignored, signal.SIG_IGN)

    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env=environment, preexec_fn=heard) as process:
        assert process.stdin and process.stderr
        process.stdin.write(ENDLESS_WAV + bytes(1 << 20))  # more than a pipe holds: so it is being read
        assert _ended(process, number) == 128 + number
        said = process.stderr.read().decode()
    assert "Stopped" in said and "Traceback" not in said
    assert not list(temporary.iterdir())
    assert not (tmp_path / "answer.wav").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_what_the_parent_ignores_stays_ignored() -> None:
    code = (
        "import signal; from personaplex_cli.cli.terminal import end_as_by_ctrl_c;"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); end_as_by_ctrl_c();"
        "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN; signal.raise_signal(signal.SIGHUP)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize(
    "module",
    ["typer", "personaplex_cli.cli.main", "rich.console", "personaplex_cli.options", "torch"],
)
def test_ctrl_c_counts_while_the_program_is_imported(module: str, tmp_path: Path) -> None:
    """As if it came at the moment in which this module is looked for, and Python executes some text."""
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: exec('signal.raise_signal(signal.SIGINT)')\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Impatient())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [*PROGRAM, "run", str(QUESTION), "-o", str(tmp_path / "answer.wav"), "--model", "demo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr[-9:]) == (INTERRUPTED, "", "Stopped.\n")
    assert "Traceback" not in done.stderr


def test_nothing_is_imported_before_ctrl_c_counts() -> None:
    """What comes before is Python's own start."""
    code = (
        "import sys; before = {*sys.modules}; import personaplex_cli.__main__; print(*sorted({*sys.modules} - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["personaplex_cli", "personaplex_cli.__main__"]
