"""Mimi, as a frame needs it: sound to codes and codes to sound, on fixed tensors with a row for each slot."""

from typing import Any

import torch
from moshi.models import MimiModel
from moshi.modules.streaming import StreamingModule
from moshi.utils.compile import no_cuda_graph
from torch import Tensor

from personaplex_cli.engine.staging import StagingBuffer
from personaplex_cli.samples import FRAME


class MimiCodec:
    """The codec, and what it remembers from frame to frame. `sound` [b, 1, 1920] float32 is what is encoded next."""

    def __init__(self, mimi: MimiModel, device: torch.device, slots: int = 1) -> None:
        mimi.streaming_forever(slots)
        self.mimi = mimi
        self.sound = StagingBuffer(device, heard=((slots, 1, FRAME), torch.float32), live=((slots,), torch.bool))
        # All tensors that Mimi remembers from frame to frame: the object that holds each, its name in it, itself.
        states: list[Any] = [each._streaming_state for each in mimi.modules() if isinstance(each, StreamingModule)]
        named = [(state, name, value) for state in states for name, value in vars(state).items()]
        self._state = [each for each in named if isinstance(each[2], Tensor)]

    def reset(self, slot: int | None = None) -> None:
        """Forget what was heard and said."""
        mask = torch.ones(len(self.sound.host["live"]), dtype=torch.bool)
        if slot is not None:
            mask.fill_(False)
            mask[slot] = True
        self.mimi.reset_streaming(reset_mask=mask.to(self.sound.device["live"].device))

    def codes_of(self, sound: Any) -> Any:
        import copy

        mimi = copy.deepcopy(self.mimi)
        one = MimiCodec(mimi, self.sound.device["live"].device, 1)
        one.sound.host["live"].fill_(True)
        codes = []
        from personaplex_cli.samples import frame_at, frames_for

        for index in range(frames_for(len(sound))):
            one.sound.host["heard"][0, 0] = torch.from_numpy(frame_at(sound, index))
            codes.append(one.encode(1)[0])
            yield
        return torch.stack(codes, dim=1)

    def encode(self, rows: int) -> Tensor:
        """The codes [b, 8] of `sound`."""
        for state, _, _ in self._state:
            if hasattr(state, "exec_mask"):
                state.exec_mask.copy_(self.sound.device["live"])
        with no_cuda_graph():  # moshi would record Mimi by itself, in smaller pieces
            codes: Tensor = self.mimi.encode(self.sound.device["heard"])
        self._stay_where_you_were()
        return codes[:rows, :, 0]

    def decode(self, codes: Tensor) -> Tensor:
        """The sound [b, 1920] of codes [b, 8]."""
        slots, rows = len(self.sound.host["live"]), len(codes)
        codes = torch.cat([codes, codes.new_zeros(slots - rows, 8)])
        with no_cuda_graph():
            sound: Tensor = self.mimi.decode(codes[:, :, None])
        return sound[:rows, 0]

    def _stay_where_you_were(self) -> None:
        """Mimi replaces a few tensors of its state by new ones: put their values back to where they were."""
        for state, name, tensor in self._state:
            if (new := getattr(state, name)) is not tensor:
                tensor.copy_(new)
                setattr(state, name, tensor)
