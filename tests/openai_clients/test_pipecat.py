"""Pipecat's services for OpenAI, in a pipeline without a transport."""

import asyncio
from typing import Any

import pytest
from runningserver import SAFETY_SECONDS, RunningServer

from personaplex_cli.samples import SAMPLE_RATE, pcm16

pytest.importorskip("pipecat", reason="needs pipecat-ai[openai]")


async def heard(service: Any, microphone: Any, talk: Any, message: str | None) -> list[Any]:
    """All frames that leave a pipeline of the service while `talk` goes on, which may queue more that come in."""
    from pipecat.frames.frames import InputAudioRawFrame, LLMRunFrame
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.runner import PipelineRunner
    from pipecat.pipeline.task import PipelineParams, PipelineTask
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
    from pipecat.processors.frame_processor import FrameProcessor

    frames: list[Any] = []

    class Sink(FrameProcessor):  # type: ignore[misc]
        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            frames.append(frame)
            await self.push_frame(frame, direction)

    context = LLMContext([{"role": "user", "content": message}] if message else [])
    pair = LLMContextAggregatorPair(context)
    task = PipelineTask(
        Pipeline([pair.user(), service, Sink(), pair.assistant()]),
        params=PipelineParams(audio_in_sample_rate=SAMPLE_RATE, audio_out_sample_rate=SAMPLE_RATE),
    )

    async def speak() -> None:
        async for frame in microphone.frames():
            await task.queue_frame(InputAudioRawFrame(pcm16(frame), SAMPLE_RATE, 1))

    async with asyncio.timeout(SAFETY_SECONDS):
        running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
        await task.queue_frame(LLMRunFrame())
        speaking = asyncio.create_task(speak())
        await talk(frames, task.queue_frame)
        speaking.cancel()
        await task.cancel()
        await running
    return frames


async def until(frames: list[Any], kind: str, count: int) -> None:
    while sum(type(frame).__name__ == kind for frame in frames) < count:
        await asyncio.sleep(0.05)


def test_realtime_talks_without_an_error_though_a_message_is_in_the_context(
    answering: RunningServer, microphone: Any
) -> None:
    async def talk(frames: list[Any], queue: Any) -> None:
        await until(frames, "TTSStoppedFrame", 1)
        await microphone.speak(0.8)
        await until(frames, "TTSStoppedFrame", 2)

    from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

    async def run() -> list[Any]:
        service = OpenAIRealtimeLLMService(api_key="any", base_url=answering.socket("/v1/realtime"))
        return await heard(service, microphone, talk, "Say hello.")

    frames = asyncio.run(run())
    names = {type(frame).__name__ for frame in frames}
    assert {"TTSAudioRawFrame", "TTSTextFrame", "UserStartedSpeakingFrame"} <= names and "ErrorFrame" not in names


def test_who_pushes_to_talk_is_answered_and_no_refusal_ends_it(answering: RunningServer, microphone: Any) -> None:
    """Cancelling what is no response, asking for one while another goes on, and an item that is not there."""
    from pipecat.frames.frames import InterruptionFrame, UserStoppedSpeakingFrame
    from pipecat.services.openai.realtime import events
    from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

    by_hand = events.AudioConfiguration(input=events.AudioInput(turn_detection=False))
    settings = OpenAIRealtimeLLMService.Settings(session_properties=events.SessionProperties(audio=by_hand))

    async def run() -> list[Any]:
        service = OpenAIRealtimeLLMService(api_key="any", base_url=answering.socket("/v1/realtime"), settings=settings)

        async def talk(frames: list[Any], queue: Any) -> None:
            await until(frames, "TTSStoppedFrame", 1)
            await queue(InterruptionFrame())  # clear, cancel: there is no response
            with pytest.raises(Exception, match="no such item"):
                await service.retrieve_conversation_item("nothing")
            await microphone.speak(0.8)
            for _ in range(2):
                await queue(UserStoppedSpeakingFrame())  # commit, create: the second one is refused
            await until(frames, "TTSStoppedFrame", 2)

        return await heard(service, microphone, talk, None)

    names = {type(frame).__name__ for frame in asyncio.run(run())}
    assert "TTSTextFrame" in names and not {"ErrorFrame", "UserStartedSpeakingFrame"} & names


def test_gpt_live_talks(answering: RunningServer, microphone: Any) -> None:
    async def talk(frames: list[Any], queue: Any) -> None:
        await until(frames, "TTSTextFrame", 3)

    from pipecat.services.openai.live.llm import OpenAILiveLLMService

    async def run() -> list[Any]:
        service = OpenAILiveLLMService(api_key="any", base_url=answering.socket("/v1/live/sessions"))
        return await heard(service, microphone, talk, None)

    names = {type(frame).__name__ for frame in asyncio.run(run())}
    assert {"SpeechOutputAudioRawFrame", "TTSTextFrame"} <= names and "ErrorFrame" not in names
