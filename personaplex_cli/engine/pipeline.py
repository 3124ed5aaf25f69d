"""A frame, from sound to sound: one copy to the device, four parts there, one copy back, one wait.

    prepare -> encode -> transform -> depform -> decode -> commit

This order stands here and nowhere else. The host prepares what it knows and commits what was chosen (`slot.py`); the
parts between read and write fixed tensors, so that each can be recorded once and replayed (`graphs.py`).
"""

import time
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from personaplex_cli.conversation import Reply
from personaplex_cli.engine.generator import SAMPLED, TokenGenerator
from personaplex_cli.engine.graphs import GraphRecorder, Graphs, Part
from personaplex_cli.engine.slot import Slot
from personaplex_cli.engine.staging import StagingBuffer
from personaplex_cli.events import Timings
from personaplex_cli.samples import FRAME, Samples


class Codec(Protocol):
    """What makes codes of sound and sound of codes: `mimi.MimiCodec`."""

    sound: StagingBuffer

    def encode(self) -> Tensor: ...
    def decode(self, codes: Tensor) -> Tensor: ...


class FramePipeline:
    """Runs one frame after the other through a codec and a `TokenGenerator`, all slots in one batch."""

    def __init__(self, generator: TokenGenerator, codec: Codec, slots: Sequence[Slot]) -> None:
        self._generator = generator
        self._codec = codec
        self._slots = slots
        self._inputs = [
            {name: each[slot] for name, each in generator.inputs.host.items()} for slot in range(len(slots))
        ]
        self._cuda = generator.device.type == "cuda"
        self._clock = StageClock(generator.device)
        self._graphs = Graphs()
        # What the host gets of a frame, in one piece: the agent's sound, then what was chosen.
        self._answer = torch.zeros(len(slots), FRAME + SAMPLED, device=generator.device)
        self._fetched = torch.zeros(len(slots), FRAME + SAMPLED, pin_memory=self._cuda)

    @torch.inference_mode()
    def run(self, heard: Mapping[int, Samples], silent: Collection[int] = ()) -> dict[int, Reply]:
        """Hear a frame [1920] in each of these slots -> the agent's reply to it, [1920], by slot."""
        for slot, frame in heard.items():
            self._codec.sound.host["heard"][slot, 0] = torch.from_numpy(frame)
            self._slots[slot].prepare(self._inputs[slot], slot in silent)
        self._clock.start()
        self._generator.inputs.send()
        self._codec.sound.send()
        width = self._width()
        for name, part in (self._encode_part, self._transform_part(self._span(), width), *self._later_parts(width)):
            self._graphs.run(name, part)
            self._clock.lap()
        answer = self._fetch()
        encode, transform, depform, decode = self._clock.milliseconds()
        timings = Timings(encode, transform + depform, decode, depform)
        replies = {}
        for slot in heard:
            text, tokens = self._slots[slot].commit([round(token) for token in answer[slot, FRAME:].tolist()])
            replies[slot] = Reply(answer[slot, :FRAME].numpy(), text, tokens, timings)
        return replies

    @torch.inference_mode()
    def encode(self, slot: int, sound: Samples) -> Tensor:
        """A frame [1920] -> its codes [8] on the host, outside of any conversation."""
        self._codec.sound.host["heard"][slot, 0] = torch.from_numpy(sound)
        self._codec.sound.send()
        self._graphs.run(*self._encode_part)
        return self._generator.user[slot].cpu()

    @torch.inference_mode()
    def record(self, recorder: GraphRecorder) -> bool:
        """Record all parts in the shapes that the present conversations can meet; returns whether any was missing.

        If so the conversations must begin anew. Layers that come over the bus cannot be recorded: they come in turns.
        """
        width = self._width()
        spans = [] if self._generator.is_streamed else self._generator.cache.spans
        transforms = [self._transform_part(span, width) for span in spans]
        parts = dict([self._encode_part, *transforms, *self._later_parts(width)])
        missing = [name for name in parts if name not in self._graphs]
        for name in missing:
            self._graphs.record(name, parts[name], recorder)
        return bool(missing)

    def forget_recordings(self) -> None:
        """Let all parts simply run again."""
        self._graphs.clear()

    @property
    def recorded(self) -> int:
        """How many recordings there are."""
        return len(self._graphs)

    def _span(self) -> int:
        return self._generator.cache.span_for(max(slot.position for slot in self._slots) + 1)

    def _width(self) -> int:
        return max(slot.sampler.width for slot in self._slots)

    # The parts, by names that tell their shapes.

    @property
    def _encode_part(self) -> tuple[Hashable, Part]:
        return "encode", self._encode

    def _transform_part(self, span: int, width: int) -> tuple[Hashable, Part]:
        return ("transform", span, width), partial(self._generator.transform, span, width)

    def _later_parts(self, width: int) -> list[tuple[Hashable, Part]]:
        return [(("depform", width), partial(self._generator.depform, width)), ("decode", self._decode)]

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
        torch.cuda.current_stream(self._generator.device).synchronize()
        return self._fetched.clone()


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
