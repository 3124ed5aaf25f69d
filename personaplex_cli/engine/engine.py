"""The engine: 80 ms of the user's voice in, 80 ms of the agent's voice and perhaps a piece of text out.

    frame -> Mimi encode -> TokenGenerator -> Mimi decode -> reply        (`frame.py`)

One engine serves every program. `begin` may be called again at any time for a new conversation. All calls must come
from one thread at a time; gradients are off whichever it is. Sound is numpy; no tensor leaves this room.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from moshi.models import MimiModel
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from personaplex_cli.character import Prompt
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.graphs import Recorder
from personaplex_cli.engine.pipeline import FramePipeline
from personaplex_cli.engine.prompting import SavedVoice, check_room, lay_out, load_saved_voice, system_text
from personaplex_cli.engine.text import TextStream
from personaplex_cli.events import Listener, Note, Timings
from personaplex_cli.hush import Hush
from personaplex_cli.loader.device import out_of_memory_explained
from personaplex_cli.samples import FRAME, SILENT_FRAME, Samples, frame_at, frames_for

WARM_UP_FRAMES = 8


@dataclass(frozen=True)
class Reply:
    """The agent's answer to one frame: `pcm` [1920] float32 at 24 kHz, the text it adds (often empty), the timings."""

    pcm: Samples
    text: str
    timings: Timings


class Engine:
    """A loaded model, ready for one conversation after another."""

    def __init__(
        self,
        talk: TokenGenerator,
        mimi: MimiModel,
        tokenizer: SentencePieceProcessor,
        precision: str,
        recorder: Recorder | None = None,
    ) -> None:
        """`recorder` makes the recordings that warming up asks for; without one, frames are simply run."""
        self.device = talk.device
        self.precision = precision
        self.talk = talk
        self.mimi = mimi
        self._tokenizer = tokenizer
        self._recorder = recorder
        self.recording_seconds = 0.0  # that making the recordings took
        self._frame = FramePipeline(talk, mimi)
        self._text = TextStream(tokenizer)
        self._hush = Hush()
        self._sample: Samples | None = None  # the voice sample that was encoded last
        self._sample_codes = torch.empty(0)

    @out_of_memory_explained()
    @torch.inference_mode()
    def begin(self, prompt: Prompt) -> int:
        """Start a conversation from nothing but the prompt; returns how many frames of context the prompt takes.

        Raises ModelError for a voice file that does not fit, UsageError for a prompt longer than the context,
        DeviceError if memory runs out.
        """
        voice = self._voice(prompt.voice)
        tokens = self._tokenizer.encode(system_text(prompt.text))
        layout = lay_out(voice, tokens, self.talk.rows)
        check_room(layout, self.talk.context)
        self._text = TextStream(self._tokenizer)
        self._hush = Hush()
        self.talk.begin(layout, prompt.sampling)
        if self._recorder and self._frame.recorded and self._frame.record(self._recorder):
            self.talk.begin(layout, prompt.sampling)  # another top-k has other shapes, and recording left its traces
        self.mimi.reset_streaming()
        return layout.positions

    @out_of_memory_explained()
    @torch.inference_mode()
    def step(self, frame: Samples) -> Reply:
        """Hear one frame [1920] float32 at 24 kHz and answer it."""
        sound, text, timings = self._frame.run(frame, self._hush.holds(frame))
        return Reply(sound, self._text.piece(text), timings)

    def hush(self) -> None:
        """Make the agent fall silent until the user speaks (again), for 12 seconds at most."""
        self._hush.begin()

    @torch.inference_mode()
    def warm_up(self, prompt: Prompt, listen: Listener = lambda event: None) -> float:
        """Do everything once that is slow the first time; returns the p95 of a step in milliseconds afterwards.

        With a recorder the frame's parts are recorded and compared with the plain way. If they cannot be recorded, or
        differ, the listener is told and the plain way stays.
        """
        plain = self._rehearse(prompt)
        if self._recorder:
            listen(Note(self._record(prompt, plain)))
        steps = [self.step(SILENT_FRAME).timings.total for _ in range(WARM_UP_FRAMES)]
        return float(np.percentile(steps, 95))

    @property
    def context(self) -> int:
        """How many frames the model remembers, the prompt's included."""
        return self.talk.context

    @property
    def device_name(self) -> str:
        """The device as people call it."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    @property
    def hushed(self) -> bool:
        """Whether the agent keeps silent because of `hush`."""
        return self._hush.on

    @property
    def recorded(self) -> int:
        """How many parts of a frame are replayed from recordings (CUDA graphs); 0 where everything simply runs."""
        return self._frame.recorded

    def _record(self, prompt: Prompt, plain: list[Reply]) -> str:
        """Record the frame's parts, if that changes nothing; returns a sentence about it."""
        assert self._recorder
        steady = _alike(plain, self._rehearse(prompt))  # or else there is nothing to compare with
        began = time.perf_counter()
        try:
            self._frame.record(self._recorder)
            self.recording_seconds = time.perf_counter() - began
            if _alike(plain, self._rehearse(prompt)) or not steady:
                checked = "equal to the plain way" if steady else "not compared: this device's answers vary"
                return f"CUDA graphs: {self.recorded} recorded in {self.recording_seconds:.1f} s, {checked}."
            why = "they answered differently"
        except RuntimeError as error:  # torch.OutOfMemoryError is one of these, too
            why = str(error).splitlines()[0]
        self._frame.forget_recordings()
        return f"No CUDA graphs here ({why}): a frame takes several times as long as it could."

    def _rehearse(self, prompt: Prompt) -> list[Reply]:
        """Hold the beginning of a conversation."""
        self.begin(prompt)
        noise = np.random.default_rng(0).normal(0.0, 0.05, (WARM_UP_FRAMES, FRAME)).astype(np.float32)
        return [self.step(frame) for frame in noise]

    def _voice(self, voice: Path | Samples) -> Tensor | SavedVoice:
        if isinstance(voice, Path):
            return load_saved_voice(voice, self.talk.lm.dim, self.talk.rows)
        if self._sample is not voice:  # a restart asks for the same sample again
            self.mimi.reset_streaming()
            codes = [self._frame.encode(frame_at(voice, index)).cpu() for index in range(frames_for(len(voice)))]
            self._sample, self._sample_codes = voice, torch.stack(codes, dim=1)
        return self._sample_codes


def _alike(some: Sequence[Reply], others: Sequence[Reply]) -> bool:
    """Whether these replies say and sound the same."""
    pairs = list(zip(some, others, strict=True))
    return all(one.text == other.text and np.allclose(one.pcm, other.pcm, atol=1e-2) for one, other in pairs)
