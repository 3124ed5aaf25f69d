"""LiveKit's Agents, with sound in memory and no server of LiveKit's."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession
from runningserver import SAFETY_SECONDS, RunningServer

from personaplex_cli.samples import SAMPLE_RATE, pcm16

agents = pytest.importorskip("livekit.agents", reason="needs livekit-agents")
plugin = pytest.importorskip("livekit.plugins.openai", reason="needs livekit-plugins-openai")


def in_memory(microphone: Any) -> tuple[Any, Any]:
    """A microphone and a speaker of LiveKit's. The speaker plays in real time and keeps the loudness of each frame."""
    from livekit import rtc
    from livekit.agents.voice import io

    class Input(io.AudioInput):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(label="microphone")
            self._frames: AsyncIterator[Any] = microphone.frames()

        async def __anext__(self) -> Any:
            sound = pcm16(await anext(self._frames))
            return rtc.AudioFrame(sound, SAMPLE_RATE, 1, len(sound) // 2)

    class Output(io.AudioOutput):  # type: ignore[misc]
        def __init__(self) -> None:
            capabilities = io.AudioOutputCapabilities(pause=False)
            super().__init__(label="speaker", capabilities=capabilities, sample_rate=SAMPLE_RATE)
            self.heard: list[float] = []
            self._seconds = 0.0
            self._playing: asyncio.Task[None] | None = None

        async def capture_frame(self, frame: Any) -> None:
            await super().capture_frame(frame)
            self._seconds += frame.duration
            self.heard.append(float(np.abs(np.frombuffer(frame.data, "<i2")).max()))

        def flush(self) -> None:
            super().flush()
            if self._seconds:
                self._playing = asyncio.create_task(self._play(self._seconds))
                self._seconds = 0.0

        def clear_buffer(self) -> None:
            if self._playing and self._playing.cancel():
                self.on_playback_finished(playback_position=0.1, interrupted=True)
            elif self._seconds:
                super().flush()
                self._seconds = 0.0
                self.on_playback_finished(playback_position=0.1, interrupted=True)

        async def _play(self, seconds: float) -> None:
            await asyncio.sleep(seconds)
            self.on_playback_finished(playback_position=seconds, interrupted=False)

    return Input(), Output()


async def held(
    kind: Any, server: RunningServer, microphone: Any, talk: Any
) -> tuple[list[Any], list[float], list[Any]]:
    """A session with an agent, while `talk` goes on: its messages, what was heard, its errors."""
    async with ClientSession() as http:
        model = kind(base_url=f"{server.url}/v1", api_key="any", http_session=http)
        return await _held(model, microphone, talk)


async def _held(model: Any, microphone: Any, talk: Any) -> tuple[list[Any], list[float], list[Any]]:
    session, errors = agents.AgentSession(llm=model), list[Any]()
    session.input.audio, session.output.audio = in_memory(microphone)
    speaker = session.output.audio
    session.on("error", errors.append)
    async with asyncio.timeout(SAFETY_SECONDS):
        await session.start(agents.Agent(instructions="You are a chef."))
        await talk(session)
        await session.aclose()
    messages = [item for item in session.history.items if item.type == "message" and item.role == "assistant"]
    return messages, speaker.heard, errors


async def said(session: Any, count: int) -> None:
    """Wait for so many messages of the agent's."""
    while sum(item.type == "message" and item.role == "assistant" for item in session.history.items) < count:
        await asyncio.sleep(0.05)


def test_an_agent_talks_is_interrupted_and_asked_to_speak(answering: RunningServer, microphone: Any) -> None:
    async def talk(session: Any) -> None:
        await said(session, 1)
        await microphone.speak(0.8)
        await asyncio.sleep(1.2)  # it answers
        await microphone.speak(1.0)
        await said(session, 2)
        await asyncio.wait_for(session.generate_reply(instructions="Say hello."), 15)

    messages, heard, errors = asyncio.run(held(plugin.realtime.RealtimeModel, answering, microphone, talk))
    assert [message.interrupted for message in messages[:2]] == [False, True]
    assert all(message.text_content for message in messages[:2])
    assert max(heard) > 3000 and not errors


def test_its_picture_of_the_conversation_is_the_servers(answering: RunningServer) -> None:
    """It hands over a history, then something that was before; the agent's words belong behind both."""

    async def run() -> list[str]:
        history = agents.ChatContext.empty()
        for number in range(3):
            history.add_message(role="user", content=f"Message {number}.", id=f"m{number}")
        async with ClientSession() as http, asyncio.timeout(SAFETY_SECONDS):
            model = plugin.realtime.RealtimeModel(base_url=f"{answering.url}/v1", api_key="any", http_session=http)
            session = model.session()
            for items in (history.items[1:], history.items):
                await session.update_chat_ctx(agents.ChatContext(items))
            session.interrupt()  # nothing: that is refused, and no harm
            while session.chat_ctx.items[-1].role == "user":
                await asyncio.sleep(0.05)
            items = session.chat_ctx.items
            await session.aclose()
            await model.aclose()
        return [item.id if item.role == "user" else item.role for item in items]

    assert asyncio.run(run()) == ["m0", "m1", "m2", "assistant"]


def test_gpt_live_talks(answering: RunningServer, microphone: Any) -> None:
    async def talk(session: Any) -> None:
        await said(session, 1)
        await microphone.speak(0.8)
        await said(session, 2)

    messages, heard, errors = asyncio.run(held(plugin.realtime.GPTLiveModel, answering, microphone, talk))
    assert all(message.text_content for message in messages) and max(heard) > 3000 and not errors
