"""`personaplex serve` as a process of its own, and how it ends."""

import asyncio
import os
import signal
import subprocess
import sys
import wave
from pathlib import Path

import pytest
from runningserver import connected, fetched, next_message, opus, speech, talk_moshi

from personaplex_cli.cli import main as cli
from personaplex_cli.protocols.wire import PATH, Failure, Handshake

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("drain", "signals", "code"),
    [
        ("0", [signal.SIGTERM], 0),
        ("0", [signal.SIGINT], 130),
        ("1000", [signal.SIGTERM, signal.SIGTERM], 0),
        ("1000", [signal.SIGTERM, signal.SIGINT], 130),
    ],
)
def test_a_signal_ends_it_cleanly(
    drain: str, signals: list[int], code: int, random_folder: Path, tmp_path: Path
) -> None:
    async def talk(url: str) -> None:
        async with connected(f"ws{url.removeprefix('http')}{PATH}?seed=3") as socket:
            await next_message(socket, Handshake)
            await talk_moshi(socket, opus(speech(20)))
            *first, last = signals
            for number in first:  # the talk goes on; for those who come the door is closed
                process.send_signal(number)
                while "draining" not in (await fetched(f"{url}/health"))[1]:
                    await asyncio.sleep(0.01)
            process.send_signal(last)
            assert "shuts down" in (await next_message(socket, Failure)).text
            await socket.receive()
            assert socket.close_code == 1001

    command = ["serve", "--model", str(random_folder), "--device", "cpu", "--port", "0", "--record", str(tmp_path)]
    command += ["--drain", drain]
    with subprocess.Popen(
        [sys.executable, "-m", "personaplex_cli", *command], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("Ready"):
                asyncio.run(talk(line.split()[1]))
                break
        said += process.stderr.readlines()
        assert process.wait(30) == code, said
    assert not any("Traceback" in line for line in said)
    assert said[-1] == "Stopped.\n"
    assert f"One may talk, nobody can wait. What is said is kept in {tmp_path}." in " ".join("".join(said).split())
    (kept,) = tmp_path.glob("*/conversation.wav")
    with wave.open(str(kept)) as file:
        assert file.getnframes() >= 19 * 1920


@pytest.mark.slow
def test_a_signal_ends_it_while_it_loads(random_folder: Path, tmp_path: Path) -> None:
    """The model's thread cannot be interrupted then."""
    code = (
        "import sys, time; from personaplex_cli.loader import load; from personaplex_cli.cli.main import program;"
        "load.load = lambda *_: time.sleep(60);"
        "sys.exit(program(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "serve", "--model", str(random_folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stderr.readline().startswith("Listening http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr.read() == "Stopped.\n"


@pytest.mark.model
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--token", ""], 2, "token is empty"),
        (["--ssl-cert", "cert.pem"], 2, "belong together"),
        (["--static", "nowhere"], 2, "index.html"),
        (["--voice", "NATF9"], 2, "no voice named"),
        (["--record", "/proc/nowhere"], 4, "cannot be written"),
        (["--model", "./nowhere"], 3, "no model folder"),
        (["--host", "192.0.2.1"], 6, "cannot be opened"),
    ],
)
def test_what_is_wrong_ends_it_with_an_error(
    arguments: list[str], code: int, said: str, random_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.program(["serve", "--model", str(random_folder), "--port", "0", *arguments]) == code
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
