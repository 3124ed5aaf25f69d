"""A Pipecat bot whose voice is this server. The GPT-Live protocol is full duplex: interruptions are the model's.

Needs pipecat-ai[local,openai] 1.14 or newer (on Debian first apt-get install gcc python3-dev portaudio19-dev), and
earphones: on loudspeakers the model would hear itself. The server's token, if it wants one, is the API key.

personaplex serve --model demo
python examples/pipecat_bot.py ws://127.0.0.1:8998/v1/live/sessions
"""

import asyncio
import os
import sys

from pipecat.frames.frames import LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.live.llm import OpenAILiveLLMService
from pipecat.workers.runner import WorkerRunner

RATE = 24_000
PROMPT = "You are a wise and friendly teacher. Answer questions or provide advice in a clear and engaging way."


def bot(url: str, hears: FrameProcessor, says: FrameProcessor) -> PipelineWorker:
    """From one end of a transport through the server to the other end; both sides' words are kept in a context."""
    model = OpenAILiveLLMService(
        api_key=os.environ.get("PERSONAPLEX_TOKEN", "none"),
        base_url=url,
        settings=OpenAILiveLLMService.Settings(system_instruction=PROMPT, voice="NATF2"),
    )
    words = LLMContextAggregatorPair(LLMContext())
    return PipelineWorker(
        Pipeline([hears, words.user(), model, says, words.assistant()]),
        params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
    )


async def talk(worker: PipelineWorker) -> None:
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await worker.queue_frames([LLMRunFrame()])  # which begins the session
    await runner.run()


def main(url: str) -> None:
    from pipecat.transports.local.audio import LocalAudioTransport, LocalAudioTransportParams

    card = LocalAudioTransport(LocalAudioTransportParams(audio_in_enabled=True, audio_out_enabled=True))
    asyncio.run(talk(bot(url, card.input(), card.output())))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
