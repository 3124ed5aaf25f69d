"""`examples/robot.py`, as a program of its own."""

import asyncio
import subprocess
import sys
import wave
from pathlib import Path

import pytest
from runningserver import RunningServer, connected, frames, next_json, speech, talk_pcm

from personaplex_cli.audio.recording import write_wav
from personaplex_cli.options import ServeOptions
from personaplex_cli.samples import SAMPLE_RATE

EXAMPLE = Path(__file__).parents[2] / "examples/robot.py"
QUESTION = speech(12)
SEED = "seed=12"  # with it the random model says several words


def robot(url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Asks QUESTION there; the answer is in `answer.wav`."""
    with (folder / "question.wav").open("wb") as file:
        write_wav(file, QUESTION)
    command = [sys.executable, EXAMPLE, url, "question.wav", "answer.wav"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_it_prints_the_words_and_keeps_the_sound(server: RunningServer, tmp_path: Path) -> None:
    async def talk() -> tuple[bytes, str]:
        async with connected(server.socket(f"/pcm?{SEED}")) as socket:
            await next_json(socket, "ready")
            sound, messages = await talk_pcm(socket, frames(QUESTION))
            return sound, "".join(each["text"] for each in messages if each["type"] == "transcript")

    sound, words = asyncio.run(talk())
    done = robot(server.socket(f"/pcm?{SEED}"), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert words and done.stdout.startswith(words)
    with wave.open(str(tmp_path / "answer.wav")) as answer:
        assert (answer.getnchannels(), answer.getsampwidth(), answer.getframerate()) == (1, 2, SAMPLE_RATE)
        assert any(sound) and answer.readframes(len(QUESTION)) == sound


def test_it_says_which_recording_it_has_not(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLE, "ws://127.0.0.1:1/pcm", "nothing.wav", "answer.wav"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "nothing.wav" in done.stderr and "Traceback" not in done.stderr


def test_it_says_why_it_is_refused(server: RunningServer, tmp_path: Path) -> None:
    async def meanwhile() -> subprocess.CompletedProcess[str]:
        async with connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            return await asyncio.to_thread(robot, server.socket("/pcm"), tmp_path)

    for done, reason in (
        (robot(server.socket("/pcm?persona=nobody"), tmp_path), "no persona named 'nobody'"),
        (asyncio.run(meanwhile()), "503"),
    ):
        assert done.returncode == 1 and reason in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "answer.wav").exists()


def test_what_was_heard_is_kept_when_the_server_ends_the_talk(random_folder: Path, tmp_path: Path) -> None:
    with RunningServer(random_folder, ServeOptions(max_minutes=0.05)) as server:  # 3 s; the robot would talk for 6
        done = robot(server.socket(f"/pcm?{SEED}"), tmp_path)
    assert done.returncode == 1 and done.stdout.endswith("\n")
    assert done.stderr.strip() == "A conversation may last 0.05 minutes here. Connect again."
    with wave.open(str(tmp_path / "answer.wav")) as answer:
        assert any(answer.readframes(answer.getnframes()))
