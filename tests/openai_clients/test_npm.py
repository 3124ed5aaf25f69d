"""OpenAI's own SDK for JavaScript, the npm package `openai`, in Node.js: each of its classes that open a WebSocket.

npm install --prefix FOLDER openai ws
NODE_PATH=FOLDER/node_modules pytest tests/openai_clients/test_npm.py
"""

import asyncio
import json
import os
import shutil
import subprocess
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from runningserver import SAFETY_SECONDS, RunningServer

from personaplex_cli.audio.pcm import PcmWriter

CLIENT = Path(__file__).with_name("npm_client.cjs")


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """What it is made of is there."""
    if not shutil.which("node"):
        pytest.skip("needs Node.js")
    loads = subprocess.run(["node", "-e", "require(process.argv[1])", CLIENT], capture_output=True, text=True)
    if loads.returncode:
        pytest.skip("needs Node.js 22, and of npm openai 7.59 and ws, where NODE_PATH says")


class Connection:
    """What the client's script reads and writes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        assert process.stdout
        self._out, self._in = process.stdin, process.stdout

    async def send(self, kind: str, **values: Any) -> None:
        self._out.write(json.dumps({"type": kind, **values}).encode() + b"\n")
        await self._out.drain()

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """All events up to the next one of this type."""
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] != kind:
            line = await self._in.readline()
            assert line, f"the client has left before any {kind}: {events}"
            events.append(json.loads(line))
            assert events[-1]["type"] != "error", events[-1]
        return events


@asynccontextmanager
async def connected(kind: str, server: RunningServer) -> AsyncIterator[Connection]:
    """The npm client with a connection; it must end well, and without an error."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    trusting = {**os.environ, "NODE_EXTRA_CA_CERTS": str(server.app._access.ssl_cert)}
    command = ("node", CLIENT, kind, f"{server.url}/v1", "sk-key")
    process = await asyncio.create_subprocess_exec(*command, **pipes, env=trusting, limit=1 << 20)
    try:
        async with asyncio.timeout(SAFETY_SECONDS):
            yield Connection(process)
            assert process.stdin
            process.stdin.close()
            assert process.stderr
            assert (await process.stderr.read(), await process.wait()) == (b"", 0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def spoken(microphone: Any, connection: Connection, kind: str) -> AsyncIterator[None]:
    """The microphone is on while the block runs."""

    async def send() -> None:
        writer = PcmWriter(24000)
        async for frame in microphone.frames():
            await connection.send(kind, audio=b64encode(writer.write(frame)).decode())

    sending = asyncio.create_task(send())
    try:
        yield
    finally:
        sending.cancel()


def sound(events: list[dict[str, Any]]) -> bytes:
    return b"".join(b64decode(each["delta"]) for each in events if each["type"].endswith("audio.delta"))


@pytest.mark.parametrize("kind", ["ws", "browser"])
def test_realtime_talks_is_interrupted_and_cancelled(secured: RunningServer, microphone: Any, kind: str) -> None:
    async def ended(connection: Connection) -> dict[str, Any]:
        done: dict[str, Any] = (await connection.until("response.done"))[-1]["response"]
        return done

    async def talk() -> None:
        async with connected(kind, secured) as connection:
            (created,) = await connection.until("session.created")
            assert created["session"]["model"] == "gpt-realtime"
            session = {"type": "realtime", "instructions": "You cook.", "audio": {"output": {"voice": "marin"}}}
            await connection.send("session.update", session=session)
            async with spoken(microphone, connection, "input_audio_buffer.append"):
                *events, greeted = await connection.until("response.done")
                assert greeted["response"]["status"] == "completed" and len(sound(events)) > 1000
                asyncio.create_task(microphone.speak(0.8))  # noqa: RUF006  its end shows
                await connection.until("conversation.item.done")
                await connection.until("response.created")
                asyncio.create_task(microphone.speak(1.2))  # noqa: RUF006
                assert (await ended(connection))["status_details"]["reason"] == "turn_detected"
                await connection.until("response.created")
                await connection.send("response.cancel")
                assert (await ended(connection))["status_details"]["reason"] == "client_cancelled"
                await connection.send("conversation.item.truncate", item_id="i", content_index=0, audio_end_ms=9)
                await connection.until("conversation.item.truncated")

    asyncio.run(talk())


def test_the_beta_talks(secured: RunningServer, microphone: Any) -> None:
    async def talk() -> None:
        async with connected("beta", secured) as connection:
            await connection.until("session.created")
            await connection.send("session.update", session={"instructions": "You cook.", "voice": "alloy"})
            async with spoken(microphone, connection, "input_audio_buffer.append"):
                events = await connection.until("response.done")
                assert len(sound(events)) > 1000
                assert "response.audio.delta" in {each["type"] for each in events}

    asyncio.run(talk())


def test_gpt_live_talks_and_closes(secured: RunningServer, microphone: Any) -> None:
    async def talk() -> None:
        async with connected("live", secured) as connection:
            audio = {"format": {"type": "audio/pcm", "rate": 24000}, "output": {"voice": "NATM1"}}
            await connection.send("session.start", session={"model": "gpt-live-1", "audio": audio})
            (started,) = await connection.until("session.started")
            assert started["session"]["audio"] == audio
            async with spoken(microphone, connection, "session.input_audio.append"):
                events = await connection.until("session.output_transcript.delta")
                assert len(sound(events)) > 1000
                await connection.send("session.close")
                assert (await connection.until("session.closed"))[-1]["reason"] == "close_requested"

    asyncio.run(talk())
