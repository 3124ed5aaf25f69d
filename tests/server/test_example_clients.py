"""The examples with other people's clients, where these are installed. Their sound comes from memory, no card."""

import asyncio
import subprocess
import sys
import wave
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from runningserver import RunningServer, frames, speech, wav

from personaplex_cli.options import AccessOptions, ServeOptions
from personaplex_cli.samples import SAMPLE_RATE

EXAMPLES = Path(__file__).parents[2] / "examples"
SPOKEN = frames(speech(40))  # 3.2 s
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the libraries' own
]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return import_module


def openai_live(server: RunningServer, folder: Path) -> subprocess.CompletedProcess[str]:
    """Asks for 3.2 s; the answer is in `answer.wav`."""
    pytest.importorskip("openai.resources.live", reason="needs openai[realtime]")
    wav(folder / "question.wav", speech(40))
    command = [sys.executable, EXAMPLES / "openai_live.py", f"{server.url}/v1", "question.wav", "answer.wav"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_openai_live(server: RunningServer, tmp_path: Path) -> None:
    run = openai_live(server, tmp_path)
    assert (run.returncode, run.stderr) == (0, "") and run.stdout.strip()
    with wave.open(str(tmp_path / "answer.wav")) as answer:
        assert answer.getframerate() == SAMPLE_RATE
        assert any(answer.readframes(answer.getnframes()))


def test_openai_live_says_why_it_does_not_talk(server: RunningServer, tmp_path: Path) -> None:
    pytest.importorskip("openai.resources.live", reason="needs openai[realtime]")
    wav(tmp_path / "question.wav", speech(1))
    for base, question, reason in (
        (f"{server.url}/v1", "nothing.wav", "nothing.wav"),
        (f"{server.url}/v2", "question.wav", "404"),
        ("http://127.0.0.1:1/v1", "question.wav", "127.0.0.1"),
    ):
        command = [sys.executable, EXAMPLES / "openai_live.py", base, question, "answer.wav"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert run.returncode == 1 and reason in run.stderr and "Traceback" not in run.stderr


def test_openai_live_says_why_it_is_refused(random_folder: Path, tmp_path: Path) -> None:
    with RunningServer(random_folder, access=AccessOptions(port=0, token="t")) as server:
        run = openai_live(server, tmp_path)
    assert (run.returncode, run.stderr) == (1, "The server does not let us in: 401 token\n")


def test_openai_live_keeps_what_it_heard_when_the_server_ends_the_talk(random_folder: Path, tmp_path: Path) -> None:
    with RunningServer(random_folder, ServeOptions(max_minutes=0.03)) as server:  # 1.8 s
        run = openai_live(server, tmp_path)
    assert run.returncode == 1 and run.stdout.endswith("\n")
    assert run.stderr.strip() == "A conversation may last 0.03 minutes here. Connect again."
    with wave.open(str(tmp_path / "answer.wav")) as answer:
        assert any(answer.readframes(answer.getnframes()))


def test_livekit_agent(server: RunningServer, example: Any) -> None:
    pytest.importorskip("livekit.plugins.openai", reason="needs livekit-agents and livekit-plugins-openai")
    from livekit import rtc
    from livekit.agents import Agent
    from livekit.agents.voice.io import AudioInput, AudioOutput, AudioOutputCapabilities

    class Microphone(AudioInput):
        def __init__(self) -> None:
            super().__init__(label="memory")
            self.left = list(SPOKEN)

        async def __anext__(self) -> Any:
            await asyncio.sleep(0.08)
            if not self.left:
                raise StopAsyncIteration
            sound = self.left.pop(0)
            return rtc.AudioFrame(sound, SAMPLE_RATE, 1, len(sound) // 2)

    class Loudspeaker(AudioOutput):
        def __init__(self) -> None:
            super().__init__(label="memory", capabilities=AudioOutputCapabilities(pause=False))
            self.said = asyncio.Event()

        async def capture_frame(self, frame: Any) -> None:
            await super().capture_frame(frame)
            if any(bytes(frame.data)):
                self.said.set()

        def flush(self) -> None:
            super().flush()
            self.on_playback_finished(playback_position=0.0, interrupted=False)

        def clear_buffer(self) -> None:
            self.on_playback_finished(playback_position=0.0, interrupted=True)

    async def talk() -> None:
        module = example("livekit_agent")
        session, loudspeaker = module.session(f"{server.url}/v1"), Loudspeaker()
        session.input.audio, session.output.audio = Microphone(), loudspeaker
        await session.start(Agent(instructions=module.PROMPT))
        async with asyncio.timeout(30):
            await loudspeaker.said.wait()
        await session.aclose()
        await session.llm.aclose()

    asyncio.run(talk())


def test_pipecat_bot(server: RunningServer, example: Any) -> None:
    pytest.importorskip("pipecat.services.openai.live.llm", reason="needs pipecat-ai[openai]")
    from pipecat.frames.frames import EndFrame, Frame, InputAudioRawFrame, OutputAudioRawFrame, StartFrame
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

    worker: Any = None

    class Microphone(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            await self.push_frame(frame, direction)
            if isinstance(frame, StartFrame):
                self.create_task(self.speak())

        async def speak(self) -> None:
            for sound in SPOKEN:
                await asyncio.sleep(0.08)
                await self.push_frame(InputAudioRawFrame(audio=sound, sample_rate=SAMPLE_RATE, num_channels=1))
            await worker.queue_frame(EndFrame())

    class Loudspeaker(FrameProcessor):
        said = False

        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            self.said = self.said or (isinstance(frame, OutputAudioRawFrame) and any(frame.audio))
            await self.push_frame(frame, direction)

    async def talk() -> None:
        nonlocal worker
        worker = module.bot(server.socket("/v1/live/sessions"), Microphone(), loudspeaker)
        await asyncio.wait_for(module.talk(worker), 30)

    module, loudspeaker = example("pipecat_bot"), Loudspeaker()
    asyncio.run(talk())
    assert loudspeaker.said
