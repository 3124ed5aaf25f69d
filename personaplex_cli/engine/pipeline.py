"""A frame, from sound to sound: one copy to the device, four parts there, one copy back, one wait.

    prepare -> encode -> transform -> depform -> decode -> commit

This order stands here and nowhere else. The host prepares what it knows, right after the frame before, and commits what
was chosen (`slot.py`); the parts between read and write fixed tensors, so that each can be recorded once and replayed
(`graphs.py`).
"""

import time
from collections.abc import Collection, Generator, Hashable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count, pairwise, product, takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personaplex_cli.character import Sampling
from personaplex_cli.conversation import Reply
from personaplex_cli.engine.generator import SAMPLED, TokenGenerator
from personaplex_cli.engine.graphs import CapturedGraph, GraphRecorder, Part
from personaplex_cli.engine.mimi import MimiCodec
from personaplex_cli.engine.prefill import AT_ONCE, read_prompt
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import Layout
from personaplex_cli.engine.sampling import GumbelSampler
from personaplex_cli.engine.slot import Slot
from personaplex_cli.errors import ModelError
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
        self._spoiled: set[int] = set()  # slots that remember what is no number
        # What the host gets of a frame, in one piece: the agent's sound, what was chosen, whether it was numbers.
        self._answer = torch.zeros(len(slots), FRAME + SAMPLED + 1, device=generator.device)
        self._fetched = torch.zeros(len(slots), FRAME + SAMPLED + 1, pin_memory=self._cuda)
        # Waiting for it leaves the core to the sound card.
        self._arrived: Any = torch.cuda.Event(blocking=True) if self._cuda else None  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def begin(
        self, slot: int, layout: Layout, sampling: Sampling, at_once: int = AT_ONCE
    ) -> Generator[None, None, None]:
        """Let a slot forget any earlier conversation and begin with this prompt; yields between its pieces.

        The other slots may be run then, and only they.
        """
        here, inputs = self._slots[slot], self._inputs[slot]
        sampler = GumbelSampler(sampling, here.spec)
        self._forget(slot)
        here.wait_at(layout.positions, sampler, inputs)  # behind the prompt, where the first frame will be written
        self._generator.inputs.send()
        hidden = yield from read_prompt(self._generator, slot, layout, self._prompts, at_once)
        here.begin(layout, *self._generator.first(slot, hidden, sampler.width))
        self._prepare([slot])

    @torch.inference_mode()
    def leave(self, slot: int) -> None:
        """The conversation in this slot is over: it costs the others no more."""
        self._forget(slot)
        here = self._slots[slot]
        here.wait_at(0, GumbelSampler(Sampling(), here.spec), self._inputs[slot])
        self._generator.inputs.send()

    @torch.inference_mode()
    def run(self, heard: Mapping[int, Samples], silent: Collection[int] = ()) -> dict[int, Reply | Exception]:
        """Hear a frame [1920] in each of these slots -> the agent's reply to it, [1920], by slot.

        What is computed for the other slots meanwhile leaves no trace. A slot whose numbers have run away gets an
        error in place of a reply.
        """
        self._hear(heard, silent)
        rows = self.rows_for(max(heard) + 1)
        span = self._generator.span_for(max(slot.position for slot in self._slots[:rows]) + 1)
        clock = StageClock(self._device)
        self._codec.sound.send()
        for name, part in self._parts(rows, span, self._width).items():
            self._run(name, part)
            clock.lap()
        answer = self._fetch(rows)
        encode, transform, depform, decode = clock.milliseconds()
        timings = Timings(encode, transform + depform, decode, depform)
        replies = {slot: self._reply(slot, answer[slot], timings) for slot in heard}
        self._prepare(heard)
        return replies

    @torch.inference_mode()
    def record(self, recorder: GraphRecorder) -> None:
        """Record all parts in the shapes that the present conversations can meet, as far as they have not been.

        The first time no conversation may be there: recording runs the parts. Later only what chooses tokens can be
        missing, for another width, and that leaves no trace. Layers that come over the bus cannot be recorded: they
        come in turns.
        """
        shapes = product(self.sizes, self._generator.spans)
        parts = {name: part for shape in shapes for name, part in self._parts(*shape, self._width).items()}
        if self._generator.is_streamed:
            parts = {name: part for name, part in parts.items() if name[0] != "transform"}
        if not self.recordings:
            self._generator.inputs.device["position"].zero_()  # within every length
        for name, part in parts.items():
            if name not in self.recordings:
                self.recordings[name] = recorder(part)

    @property
    def sizes(self) -> list[int]:
        """In how many rows a frame may be computed: few, since each has recordings of its own."""
        return [*takewhile(lambda size: size < len(self._slots), (2**power for power in count())), len(self._slots)]

    def rows_for(self, slots: int) -> int:
        """The least of `sizes` with so many slots."""
        return next(size for size in self.sizes if size >= slots)

    @property
    def lengths(self) -> list[int]:
        """The lengths in which the ring may be read: where the way of reading it changes, if it does."""
        return self._generator.cache.spans

    def skip_to(self, slot: int, position: int) -> None:
        """Let the next frame of a slot be at another position: what lies between is what the ring holds there."""
        self._slots[slot].position = position
        self._prepare([slot])

    def outcome(self, slot: int) -> tuple[Tensor, Tensor, Samples]:
        """Of the last frame, copied to the host: the 18 chosen tokens, the transformer's output, the sound."""
        chosen, output, sound = self._generator.sampled, self._generator.hidden, self._answer[slot, :FRAME]
        tokens = chosen[slot].to("cpu", copy=True)
        return tokens, output[slot].to("cpu", torch.float32, copy=True), sound.to("cpu", copy=True).numpy()

    @property
    def _width(self) -> int:
        return self._generator.width_for(max(slot.sampler.width for slot in self._slots))

    def _prepare(self, slots: Iterable[int], silent: bool = False) -> None:
        """Tell the device what is known of these slots' next frames: all but what the users will say in them."""
        for slot in slots:
            self._slots[slot].prepare(self._inputs[slot], silent)
        self._generator.inputs.send()

    def _forget(self, slot: int) -> None:
        """What was heard, and numbers that are none; what else is remembered is out of sight."""
        self._codec.reset(slot)
        if slot in self._spoiled:
            self._generator.cache.clear(slot)
            self._spoiled.discard(slot)

    def _hear(self, heard: Mapping[int, Samples], silent: Collection[int]) -> None:
        """Write what is new: the users' sound, and who is to say nothing."""
        live = self._codec.sound.host["live"].fill_(False)
        for slot, frame in heard.items():
            self._codec.sound.host["heard"][slot, 0] = torch.from_numpy(frame)
            live[slot] = True
        if silent:
            self._prepare([slot for slot in heard if slot in silent], silent=True)

    def _reply(self, slot: int, answer: Tensor, timings: Timings) -> Reply | Exception:
        """What a row [1920 + 18 + 1] of the answers says."""
        sound, sampled, check = np.split(answer.numpy(), [FRAME, FRAME + SAMPLED])
        if not np.isfinite(check).all() or not np.isfinite(sound).all():
            self._spoiled.add(slot)
            what = "The model's numbers have overflowed in this conversation."
            return ModelError(what, "Begin again; if it happens again, use another --precision.")
        text, tokens = self._slots[slot].commit(sampled.astype(int).tolist())
        # A copy: a view would keep the sound of all slots for as long as somebody keeps this.
        return Reply(sound.copy(), text, tokens, timings)

    def _parts(self, rows: int, span: int, width: int) -> dict[tuple[Hashable, ...], Part]:
        """The parts in their order, by names with their shapes."""
        return {
            ("encode", rows): partial(self._encode, rows),
            ("transform", rows, span): partial(self._generator.transform, rows, span),
            ("depform", rows, width): partial(self._generator.depform, rows, width),
            ("decode", rows): partial(self._decode, rows),
        }

    def _run(self, name: tuple[Hashable, ...], part: Part) -> None:
        if recording := self.recordings.get(name):
            recording.replay()
        else:
            part()

    def _encode(self, rows: int) -> None:
        self._generator.user[:rows].copy_(self._codec.encode(rows))

    def _decode(self, rows: int) -> None:
        sound = self._codec.decode(self._generator.agent[:rows])
        # The sum is finite only if all of them are.
        check = self._generator.hidden[:rows].sum(dim=2, dtype=torch.float32)
        chosen = self._generator.sampled[:rows].to(sound.dtype)
        torch.cat([sound, chosen, check], dim=1, out=self._answer[:rows])

    def _fetch(self, rows: int) -> Tensor:
        """The answers [rows, 1920 + 18 + 1] as a tensor of its own on the host."""
        if not self._cuda:
            return self._answer[:rows].to("cpu", copy=True)
        fetched = self._fetched[:rows]
        fetched.copy_(self._answer[:rows], non_blocking=True)
        self._arrived.record(torch.cuda.current_stream(self._device))
        self._arrived.synchronize()
        return fetched.clone()


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
