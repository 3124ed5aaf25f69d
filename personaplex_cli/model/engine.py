"""The engine: 80 ms of the user's voice in, 80 ms of the agent's voice and perhaps a piece of text out.

    frame -> Mimi encode -> Talk.step -> Mimi decode -> reply

One engine serves every program. `begin` may be called again at any time for a new conversation. All calls must come
from one thread at a time; gradients are off whichever it is. Sound is numpy; no tensor leaves this room.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from moshi.models import LMModel, MimiModel
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from personaplex_cli.events import Listener, Note, Timings
from personaplex_cli.library.weights import ModelFiles
from personaplex_cli.model.checkpoint import load_lm, load_mimi, load_tokenizer
from personaplex_cli.model.device import choose_device, choose_precision, out_of_memory_explained, precision_name
from personaplex_cli.model.offload import LAYERS, offload_layers
from personaplex_cli.model.prompting import SavedVoice, check_room, lay_out, load_saved_voice, system_text
from personaplex_cli.model.sizes import sizes_of
from personaplex_cli.model.talk import Talk
from personaplex_cli.model.text import TextStream
from personaplex_cli.prompt import Prompt
from personaplex_cli.samples import FRAME, SILENT_FRAME, Samples, frame_at, frames_for, level

HUSH_FRAMES = 150  # 12 s: longer, and the model loses the thread
SPEECH_LEVEL = -45.0  # dBFS; a frame above it is taken for speech
SPEECH_FRAMES = 3  # in a row: 0.24 s, so that a click does not end the silence
WARM_UP_FRAMES = 8
SMALL_MODEL = 100_000_000  # parameters


@dataclass(frozen=True)
class Reply:
    """The agent's answer to one frame: `pcm` [1920] float32 at 24 kHz, the text it adds (often empty), the timings."""

    pcm: Samples
    text: str
    timings: Timings


class Engine:
    """A loaded model, ready for one conversation after another."""

    def __init__(self, talk: Talk, mimi: MimiModel, tokenizer: SentencePieceProcessor) -> None:
        self.device = talk.device
        self.precision = precision_name(talk.lm.dtype)
        self.talk = talk
        self.mimi = mimi
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer)
        self._hushed = 0  # frames for which the agent must still keep silent
        self._spoken = 0  # frames in a row in which the user spoke into that silence
        self._clock = StageClock(self.device)
        self._sample: Samples | None = None  # the voice sample that was encoded last
        self._sample_codes = torch.empty(0)
        mimi.streaming_forever(1)

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
        self.mimi.reset_streaming()
        self._text = TextStream(self._tokenizer)
        self._hushed = 0
        self.talk.begin(layout, prompt.sampling)
        return layout.positions

    @out_of_memory_explained()
    @torch.inference_mode()
    def step(self, frame: Samples) -> Reply:
        """Hear one frame [1920] float32 at 24 kHz and answer it. One wait for the device, at the end."""
        clock = self._clock
        clock.start()
        codes = self._encode(frame)
        clock.lap()
        text, agent = self.talk.step(codes, silent=self._stays_silent(frame))
        clock.lap()
        sound = self.mimi.decode(agent.view(1, -1, 1))[0, 0]
        clock.lap()
        # Sound and text token travel together, so that the device is asked once.
        answer = torch.cat([sound, text[None].to(sound.dtype)]).cpu().numpy()
        return Reply(answer[:FRAME], self._text.piece(int(answer[FRAME])), Timings(*clock.milliseconds()))

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def hush(self) -> None:
        """Make the agent fall silent until the user speaks (again), for 12 seconds at most."""
        self._hushed, self._spoken = HUSH_FRAMES, 0

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
        return self._hushed > 0

    def warm_up(self, prompt: Prompt) -> float:
        """Do everything once that is slow the first time; returns the p95 of a step in milliseconds afterwards."""
        self.begin(prompt)
        steps = [self.step(SILENT_FRAME).timings.total for _ in range(2 * WARM_UP_FRAMES)]
        return float(np.percentile(steps[WARM_UP_FRAMES:], 95))

    def _stays_silent(self, frame: Samples) -> bool:
        """Whether `hush` holds in this frame."""
        if self._hushed == 0:
            return False
        self._spoken = self._spoken + 1 if level(frame) > SPEECH_LEVEL else 0
        self._hushed = 0 if self._spoken >= SPEECH_FRAMES else self._hushed - 1
        return self._hushed > 0

    def _voice(self, voice: Path | Samples) -> Tensor | SavedVoice:
        if isinstance(voice, Path):
            return load_saved_voice(voice, self.talk.lm.dim, self.talk.rows)
        if self._sample is not voice:  # a restart asks for the same sample again
            self.mimi.reset_streaming()
            codes = [self._encode(frame_at(voice, index)) for index in range(frames_for(len(voice)))]
            self._sample, self._sample_codes = voice, torch.stack(codes, dim=1).cpu()
        return self._sample_codes

    def _encode(self, frame: Samples) -> Tensor:
        """A frame [1920] -> its Mimi codes [8]."""
        sound = torch.from_numpy(np.ascontiguousarray(frame, dtype=np.float32)).to(self.device)
        codes: Tensor = self.mimi.encode(sound.view(1, 1, FRAME))
        return codes[0, :, 0]


class StageClock:
    """Milliseconds between laps: by the device's own events on CUDA, where calls return before the work is done."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []  # CUDA events, or seconds

    def start(self) -> None:
        self._marks.clear()
        self.lap()

    def lap(self) -> None:
        if self._cuda:
            self._marks.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._marks[-1].record()
        else:
            self._marks.append(time.perf_counter())

    def milliseconds(self) -> Iterator[float]:
        """Each stage's duration. On CUDA the last lap's work must be done."""
        for earlier, later in zip(self._marks, self._marks[1:], strict=False):
            yield earlier.elapsed_time(later) if self._cuda else 1000 * (later - earlier)


def load_engine(files: ModelFiles, device: str, precision: str, cpu_offload: bool, listen: Listener) -> Engine:
    """Load a model for `--device`, `--precision` and `--cpu-offload`, and say what was chosen.

    Raises DeviceError, UsageError or ModelError, each with its remedy.
    """
    where, reason = choose_device(device)
    dtype = choose_precision(precision, where)
    listen(Note(reason))
    offload = cpu_offload and where.type != "cpu"
    if cpu_offload:
        listen(Note(_OFFLOADED if offload else "CPU offload changes nothing here: the whole model is on the CPU."))
    sizes = sizes_of(files.folder)
    host = torch.device("cpu")
    # Convolutions in TF32 flip Mimi's codes.
    torch.backends.cudnn.allow_tf32 = False
    with out_of_memory_explained():
        tokenizer = load_tokenizer(files.tokenizer, sizes.lm["text_card"])
        mimi = load_mimi(files.mimi, sizes.mimi, where)
        lm = load_lm(
            files.weights, sizes.lm, dtype, lambda name: host if offload and name.startswith(LAYERS) else where
        )
        if offload:
            offload_layers(lm, where)
        use_cores(lm)
        return Engine(Talk(lm, by_modules=offload), mimi, tokenizer)


def use_cores(lm: LMModel) -> None:
    """How many cores a model on the CPU gets.

    Threads wait for each other by spinning: for a small model that costs more than they gain, and it starves the sound
    card. A big one gets all cores but one, which stays free for sound and screen.
    """
    if lm.device.type == "cpu":
        small = sum(parameter.numel() for parameter in lm.parameters()) < SMALL_MODEL
        torch.set_num_threads(1 if small else max(1, (os.cpu_count() or 2) - 1))


_OFFLOADED = "CPU offload: layers visit the GPU one at a time. Good for files, far too slow for talking."
