"""What the device does in one frame: one copy to it, four parts, one copy back, one wait.

    heard -> encode -> transform -> depform -> decode -> answer

Each part reads and writes fixed tensors, so that it can be recorded once and replayed (`graphs.py`).
"""

from collections.abc import Hashable
from functools import partial
from typing import Any

import torch
from moshi.models import MimiModel
from moshi.modules.streaming import StreamingModule
from moshi.utils.compile import no_cuda_graph
from torch import Tensor

from personaplex_cli.engine.clock import StageClock
from personaplex_cli.engine.generator import CHOSEN, TokenGenerator
from personaplex_cli.engine.graphs import Graphs, Part, Recorder
from personaplex_cli.engine.staging import StagingBuffer
from personaplex_cli.events import Timings
from personaplex_cli.samples import FRAME, Samples


class FramePipeline:
    """Runs one frame after the other through Mimi and a `TokenGenerator`."""

    def __init__(self, talk: TokenGenerator, mimi: MimiModel) -> None:
        mimi.streaming_forever(1)
        self._talk = talk
        self._mimi = mimi
        self._mimi_state = _tensors_of_state(mimi)
        self._cuda = talk.device.type == "cuda"
        self._clock = StageClock(talk.device)
        self._graphs = Graphs()
        self._sound = StagingBuffer(talk.device, heard=((1, 1, FRAME), torch.float32))
        # What the host gets of a frame, in one piece: the agent's sound, then what was chosen.
        self._answer = torch.zeros(FRAME + CHOSEN, device=talk.device)
        self._fetched = torch.zeros(FRAME + CHOSEN, pin_memory=self._cuda)

    def run(self, heard: Samples, silent: bool = False) -> tuple[Samples, int, Timings]:
        """Hear a frame [1920] -> the agent's sound [1920] and text token of it, and what each stage took."""
        talk, clock = self._talk, self._clock
        text = talk.ready(silent)
        clock.start()
        talk.inputs.send()
        self.encode(heard)
        clock.lap()
        for name, part in (self._transform(talk.span), *self._rest()):
            self._graphs.run(name, part)
            clock.lap()
        answer = self._fetch()
        talk.took([round(token) for token in answer[FRAME:].tolist()])
        encode, transform, depform, decode = clock.milliseconds()
        return answer[:FRAME].numpy(), text, Timings(encode, transform + depform, decode, depform)

    def encode(self, heard: Samples) -> Tensor:
        """A frame [1920] -> its codes [8], until the next frame comes."""
        self._sound.host["heard"][0, 0] = torch.from_numpy(heard)
        self._sound.send()
        self._graphs.run("encode", self._encode)
        return self._talk.user

    def record(self, recorder: Recorder) -> bool:
        """Record all parts in the shapes that the present conversation can meet; returns whether any was missing.

        If so the conversation must begin anew. Layers that come over the bus cannot be recorded: they come in turns.
        """
        parts = dict([("encode", self._encode), *self._rest()])
        if not self._talk.is_streamed:
            parts |= dict(map(self._transform, self._talk.spans))
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

    def _transform(self, span: int) -> tuple[Hashable, Part]:
        """The part after encoding, by a name that tells its shape."""
        return ("transform", span, self._talk.width), partial(self._talk.transform, span)

    def _rest(self) -> list[tuple[Hashable, Part]]:
        """The parts after that."""
        return [(("depform", self._talk.width), self._talk.depform), ("decode", self._decode)]

    def _encode(self) -> None:
        with no_cuda_graph():  # moshi would record Mimi by itself, in smaller pieces
            codes: Tensor = self._mimi.encode(self._sound.device["heard"])
        self._talk.user.copy_(codes[0, :, 0])
        self._stay_where_you_were()

    def _decode(self) -> None:
        with no_cuda_graph():
            sound = self._mimi.decode(self._talk.agent.view(1, -1, 1))
        torch.cat([sound[0, 0], self._talk.chosen.to(sound.dtype)], out=self._answer)

    def _stay_where_you_were(self) -> None:
        """Mimi replaces a few tensors of its state by new ones: put their values back to where they were."""
        for state, name, tensor in self._mimi_state:
            if (new := getattr(state, name)) is not tensor:
                tensor.copy_(new)
                setattr(state, name, tensor)

    def _fetch(self) -> Tensor:
        """The answer [1920 + 18] as a tensor of its own on the host."""
        if not self._cuda:
            return self._answer.to("cpu", copy=True)
        self._fetched.copy_(self._answer, non_blocking=True)
        torch.cuda.current_stream(self._talk.device).synchronize()
        return self._fetched.clone()


def _tensors_of_state(mimi: MimiModel) -> list[tuple[Any, str, Tensor]]:
    """All tensors that Mimi remembers from frame to frame: the object that holds each, its name in it, itself."""
    states = [module._streaming_state for module in mimi.modules() if isinstance(module, StreamingModule)]
    return [(state, name, each) for state in states for name, each in vars(state).items() if isinstance(each, Tensor)]
