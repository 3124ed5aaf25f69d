"""Clients of four kinds at once, unchanged, in one batch of the demo: each hears what it hears alone.

The server is a process of its own. MODEL_PYTHON names a Python that has the model's libraries, if this one does not.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runningserver import (
    SAFETY_SECONDS,
    connected,
    fetched,
    frames,
    next_json,
    next_message,
    opus,
    talk_moshi,
    talk_pcm,
)

from personaplex_cli.audio.recording import read_recording
from personaplex_cli.library.catalog import personas
from personaplex_cli.protocols.wire import PATH, Handshake
from personaplex_cli.samples import SAMPLE_RATE

pytest.importorskip("openai", reason="needs openai[realtime]")
pytest.importorskip("livekit.plugins.openai", reason="needs livekit-agents and livekit-plugins-openai")

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVE = """
import sys
from personaplex_cli.cli.main import program
from personaplex_cli.server import admission, rounds
rounds.MAX_ROUND_MS, admission.JOIN_SECONDS = float("inf"), 0.0  # a slow machine would let in one at a time
sys.exit(program(sys.argv[1:]))
"""
Heard = tuple[str, np.ndarray[Any, Any]]  # words, and sound in 16-bit steps
Talk = Callable[[str, asyncio.Barrier], Awaitable[Heard]]  # with the server of a URL; none leaves before all have heard


@pytest.fixture
def url(user_folders: Path) -> Iterator[str]:
    """Where the demo is served to four at once."""
    python = os.environ.get("MODEL_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import importlib.util as it; exit(not it.find_spec('torch'))"]).returncode:
        pytest.skip("needs a MODEL_PYTHON, which has torch")
    command = [python, "-c", SERVE, "serve", "--model", "demo", "--batch-size", "4", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("Ready"):
                yield line.split()[1]
                process.send_signal(signal.SIGTERM)
        assert process.wait(SAFETY_SECONDS) == 0 and "Traceback" not in said, said


def asking() -> np.ndarray[Any, Any]:
    """The first 3 s of a question, and 4 in which it is answered."""
    question = read_recording(EXAMPLES / "question.wav")[: 3 * SAMPLE_RATE]
    return np.append(question, np.zeros(4 * SAMPLE_RATE, dtype=np.float32))


async def by_openai(url: str, all_have_heard: asyncio.Barrier) -> Heard:
    """The chef greets, in OpenAI's SDK for Realtime: a response, though turns are made up. Its user is silent."""
    from openai import AsyncOpenAI

    (prompt,) = (persona.prompt for persona in personas() if persona.name == "chef")
    session = {"type": "realtime", "instructions": prompt, "audio": {"output": {"voice": "NATM1"}}}
    words, said = "", b""
    client = AsyncOpenAI(api_key="any", base_url=f"{url}/v1")
    async with client.realtime.connect(model="any", extra_query={"seed": "1"}) as connection:
        await connection.session.update(session=session)
        async for event in connection:
            match event.type:
                case "response.output_audio_transcript.delta":
                    words += event.delta
                case "response.output_audio.delta":
                    said += b64decode(event.delta)
                case "response.done":
                    break
        await all_have_heard.wait()
    return words, np.frombuffer(said, "<i2")


async def by_livekit(url: str, all_have_heard: asyncio.Barrier) -> Heard:
    """The teacher greets, in a LiveKit agent by GPT-Live: the example's, as it is. Its user is silent."""
    from livekit.agents import Agent
    from livekit.agents.voice.io import AudioOutput, AudioOutputCapabilities

    class Loudspeaker(AudioOutput):
        said = b""

        async def capture_frame(self, frame: Any) -> None:
            await super().capture_frame(frame)
            self.said += bytes(frame.data)

        def flush(self) -> None:
            super().flush()
            self.on_playback_finished(playback_position=0.0, interrupted=False)

        def clear_buffer(self) -> None:
            self.on_playback_finished(playback_position=0.0, interrupted=True)

    example = import_module("livekit_agent")
    session = example.session(f"{url}/v1")
    speaker = Loudspeaker(label="memory", capabilities=AudioOutputCapabilities(pause=False))
    session.output.audio = speaker
    await session.start(Agent(instructions=example.PROMPT))
    while not (messages := [item.text_content for item in session.history.items if item.type == "message"]):
        await asyncio.sleep(0.05)
    await all_have_heard.wait()
    await session.aclose()
    await session.llm.aclose()
    return " ".join(messages), np.trim_zeros(np.frombuffer(speaker.said, "<i2"))


async def by_pcm(url: str, all_have_heard: asyncio.Barrier) -> Heard:
    """The astronaut answers a robot."""
    async with connected(f"{url}/pcm?persona=astronaut&voice=NATF1&seed=3") as socket:
        await next_json(socket, "ready")
        said, others = await talk_pcm(socket, frames(asking()))
        await all_have_heard.wait()
    return "".join(each["text"] for each in others if each["type"] == "transcript"), np.frombuffer(said, "<i2")


async def by_moshi(url: str, all_have_heard: asyncio.Barrier) -> Heard:
    """Somebody at the customer service answers a client of Moshi's."""
    async with connected(f"{url}{PATH}?persona=customer_service&voice=VARM1&seed=4") as socket:
        await next_message(socket, Handshake)
        _, words = await talk_moshi(socket, opus(asking()))
        await all_have_heard.wait()
    return words, np.empty(0, dtype=np.int16)  # Opus makes much of a last bit: sound is not compared


def test_each_hears_what_it_hears_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    clients: list[Talk] = [by_openai, by_livekit, by_pcm, by_moshi]

    async def together() -> list[Heard]:
        async with asyncio.timeout(SAFETY_SECONDS):
            barrier = asyncio.Barrier(len(clients))
            return await asyncio.gather(*(client(url, barrier) for client in clients))

    async def alone() -> list[Heard]:
        async with asyncio.timeout(SAFETY_SECONDS):
            return [await client(url, asyncio.Barrier(1)) for client in clients]

    crowd = asyncio.run(together())
    figures = asyncio.run(fetched(f"{url}/metrics"))[1]
    assert re.search(r'step_seconds_count{conversations="[34]"} [1-9]', figures)
    solo = asyncio.run(alone())
    words = [text.strip() for text, _ in solo]
    assert words[:2] == [
        "Welcome to my kitchen, I am Bruno. What is in your fridge?",
        "Good day, I am your teacher. What would you like to learn?",
    ]
    assert words == [text.strip() for text, _ in crowd] and all(words)
    for (_, sound), (_, same) in zip(crowd, solo, strict=True):  # sums of several rows are rounded otherwise
        np.testing.assert_allclose(sound.astype(int), same.astype(int), atol=2)
