"""A frame, from sound to sound: one copy to the device, four parts there, one copy back, one wait.

    prepare -> encode -> transform -> depform -> decode -> commit

This order stands here and nowhere else. The host prepares what it knows and commits what was chosen (`slot.py`); the
parts between read and write fixed tensors, so that each can be recorded once and replayed (`graphs.py`).
"""

import time
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from personaplex_cli.character import Sampling
from personaplex_cli.conversation import Reply
from personaplex_cli.engine.generator import SAMPLED, TokenGenerator
from personaplex_cli.engine.graphs import CapturedGraph, GraphRecorder, Part
from personaplex_cli.engine.mimi import MimiCodec
from personaplex_cli.engine.prefill import read_prompt
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import Layout
from personaplex_cli.engine.sampling import GumbelSampler
from personaplex_cli.engine.slot import Slot
from personaplex_cli.events import Timings
from personaplex_cli.samples import FRAME, Samples


class FramePipeline:
    """Runs one frame after the other through a codec and a `TokenGenerator`, all slots in one batch."""

    def __init__(
        self, generator: TokenGenerator, codec: MimiCodec, slots: Sequence[Slot], prompts: PromptCache
    ) -> None:
        self.recordings: dict[Hashable, CapturedGraph] = {}  # by part; a part that is not here is simply run
        self._generator = generator
        self._codec = codec
        self._slots = slots
        self._prompts = prompts
        self._inputs = [{name: each[row] for name, each in generator.inputs.host.items()} for row in range(len(slots))]
        self._device = generator.device
        self._cuda = self._device.type == "cuda"
        # What the host gets of a frame, in one piece: the agent's sound, then what was chosen.
        self._answer = torch.zeros(len(slots), FRAME + SAMPLED, device=generator.device)
        self._fetched = torch.zeros(len(slots), FRAME + SAMPLED, pin_memory=self._cuda)
        # Waiting for it leaves the core to the sound card.
        self._arrived: Any = torch.cuda.Event(blocking=True) if self._cuda else None  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def begin(self, slot: int, layout: Layout, sampling: Sampling) -> None:
        """Let a slot forget any earlier conversation and begin with this prompt."""
        # Seeded only now, so that nothing run before changes the conversation.
        sampler = GumbelSampler(sampling)
        hidden = read_prompt(self._generator, slot, layout, self._prompts)
        self._slots[slot].begin(layout, sampler, *self._generator.first(hidden, sampler.noise()))

    @torch.inference_mode()
    def run(self, heard: Mapping[int, Samples], silent: Collection[int] = ()) -> dict[int, Reply]:
        """Hear a frame [1920] in each of these slots -> the agent's reply to it, [1920], by slot."""
        live = self._codec.sound.host["live"].zero_()
        for slot, frame in heard.items():
            live[slot] = True
            self._codec.sound.host["heard"][slot, 0] = torch.from_numpy(frame)
            self._slots[slot].prepare(self._inputs[slot], slot in silent)
        clock = StageClock(self._device)
        self._generator.inputs.send()
        self._codec.sound.send()
        span = self._generator.cache.span_for(max(slot.position for slot in self._slots) + 1)
        for name, part in self._parts(span, self._width).items():
            self._run(name, part)
            clock.lap()
        for slot in heard:
            self._slots[slot].draw_ahead()
        answer = self._fetch()
        encode, transform, depform, decode = clock.milliseconds()
        timings = Timings(encode, transform + depform, decode, depform)
        replies = {}
        for slot in heard:
            text, tokens = self._slots[slot].commit([round(token) for token in answer[slot, FRAME:].tolist()])
            replies[slot] = Reply(answer[slot, :FRAME].numpy(), text, tokens, timings)
        return replies

    @torch.inference_mode()
    def record(self, recorder: GraphRecorder) -> bool:
        """Record all parts in the shapes that the present conversations can meet; returns whether any was missing.

        If so the conversations must begin anew. Layers that come over the bus cannot be recorded: they come in turns.
        """
        spans, width = self._generator.cache.spans, self._width
        parts = {name: part for span in spans for name, part in self._parts(span, width).items()}
        if self._generator.is_streamed:
            parts = {name: part for name, part in parts.items() if name[0] != "transform"}
        missing = [name for name in parts if name not in self.recordings]
        self._generator.inputs.device["position"].zero_()  # recording runs them, and this one is within every length
        for name in missing:
            self.recordings[name] = recorder(parts[name])
        return bool(missing)

    @property
    def lengths(self) -> list[int]:
        """The lengths in which the ring is read, each with recordings of its own."""
        return self._generator.cache.spans

    def skip_to(self, slot: int, position: int) -> None:
        """Let the next frame of a slot be at another position: what lies between is what the ring holds there."""
        self._slots[slot].position = position

    def outcome(self, slot: int) -> tuple[Tensor, Tensor]:
        """Of the last frame, copied to the host: the 18 tokens that were chosen, and the transformer's output."""
        chosen, output = self._generator.sampled[slot], self._generator.hidden[slot]
        return chosen.to("cpu", copy=True), output.to("cpu", torch.float32, copy=True)

    @property
    def _width(self) -> int:
        return max(slot.sampler.width for slot in self._slots)

    def _parts(self, span: int, width: int) -> dict[tuple[Hashable, ...], Part]:
        """The parts in their order, by names with their shapes."""
        return {
            ("encode",): self._encode,
            ("transform", span, width): partial(self._generator.transform, span, width),
            ("depform", width): partial(self._generator.depform, width),
            ("decode",): self._decode,
        }

    def _run(self, name: tuple[Hashable, ...], part: Part) -> None:
        if recording := self.recordings.get(name):
            recording.replay()
        else:
            part()

    def _encode(self) -> None:
        self._generator.user.copy_(self._codec.encode())

    def _decode(self) -> None:
        sound = self._codec.decode(self._generator.agent)
        torch.cat([sound, self._generator.sampled.to(sound.dtype)], dim=1, out=self._answer)

    def _fetch(self) -> Tensor:
        """The answers [b, 1920 + 18] as a tensor of its own on the host."""
        if not self._cuda:
            return self._answer.to("cpu", copy=True)
        self._fetched.copy_(self._answer, non_blocking=True)
        self._arrived.record(torch.cuda.current_stream(self._device))
        self._arrived.synchronize()
        return self._fetched.clone()


class StageClock:
    """Milliseconds between laps: by the device's own events on CUDA, where calls return before the work is done.

    So they do on MPS, which is waited for at each lap: there are no recordings there, whose launches it would hold up.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._wait = torch.mps.synchronize if device.type == "mps" else None
        self._marks: list[Any] = []  # CUDA events, or milliseconds
        self.lap()

    def lap(self) -> None:
        if self._stream:
            self._marks.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._marks[-1].record(self._stream)
            return
        if self._wait:
            self._wait()
        self._marks.append(1000 * time.perf_counter())

    def milliseconds(self) -> list[float]:
        """Each stage's duration. On CUDA the last lap's work must be done."""
        return [start.elapsed_time(end) if self._stream else end - start for start, end in pairwise(self._marks)]
