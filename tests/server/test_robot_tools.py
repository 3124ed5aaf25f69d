"""`examples/robot_tools.py`: what is said makes it act, and the server notes what it did."""

import asyncio
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from runningserver import RunningServer, connected, frames, next_json, speech, talk_pcm

from personaplex_cli.options import ServeOptions

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return import_module("robot_tools")


def test_a_phrase_makes_it_act_and_the_recording_says_so(random_folder: Path, tmp_path: Path, example: Any) -> None:
    done = list[str]()
    turning = "\u202e.\x1b[2J"  # the owner's terminal and readers of the transcript are not steered by it
    tools = {
        phrase: lambda phrase=phrase: done.append(phrase) or f"Did {phrase}{turning}"
        for phrase in ("look left", "dance")
    }
    pieces = [
        ("user", " Can you look"),
        ("agent", " left"),  # another speaker's word does not complete it
        ("user", " le"),
        ("user", "ft?"),
        ("user", " left"),  # it was done already
        ("agent", " DANCE, abundance,"),
        ("agent", " and dance!"),
    ]

    async def talk(server: RunningServer) -> None:
        actor = example.Actor(tools)
        async with connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            await talk_pcm(socket, frames(speech(5)))
            for role, text in pieces:
                await actor.act(socket, {"type": "transcript", "role": role, "text": text})
            await talk_pcm(socket, frames(speech(5)))

    with RunningServer(random_folder, ServeOptions(record=tmp_path)) as server:
        asyncio.run(talk(server))
    assert done == ["look left", "dance", "dance"]
    told = [f"Did {each}\ufffd.\ufffd[2J" for each in done]
    assert [each for each in server.notes if "Did" in each] == [f"127.0.0.1, /pcm: {each}" for each in told]
    (transcript,) = tmp_path.glob("*/transcript.json")
    marks = json.loads(transcript.read_text("utf-8"))["marks"]
    assert [each["text"] for each in marks] == told
    assert all(0.3 < each["time"] < 0.5 for each in marks)  # five frames, of which the last may not be counted yet
    assert told[0] in transcript.with_suffix(".md").read_text("utf-8")


def test_its_table_has_phrases_in_lower_case_and_says_what_it_did(example: Any) -> None:
    assert all(phrase == phrase.lower() and tool().endswith(".") for phrase, tool in example.TOOLS.items())


def test_without_arguments_it_says_how_it_is_used() -> None:
    run = subprocess.run([sys.executable, EXAMPLES / "robot_tools.py"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1 and run.stderr.strip().startswith("A robot that acts on what is said")
