"""Mimi, as a frame needs it: sound to codes and codes to sound, on fixed tensors with a row for each slot.

    sound -> convolutions -> transformer -> downsampled -> codes -> upsampled -> transformer -> convolutions -> sound

moshi's modules hold the weights, `mimi_layers.py` runs them.
"""

from collections.abc import Generator
from typing import Any

import torch
from moshi.models import MimiModel
from torch import Tensor

from personaplex_cli.engine.mimi_layers import (
    Chain,
    Convolution,
    MimiTransformer,
    Quantiser,
    SlotMemory,
    TransposedConvolution,
    require,
)
from personaplex_cli.engine.staging import StagingBuffer
from personaplex_cli.samples import FRAME, Samples, frame_at, frames_for

FRAMES_AT_ONCE = 8  # of a whole piece of sound


class MimiCodec:
    """The codec, and what it remembers of each slot from frame to frame.

    `sound` is what the host says of a frame: `heard` [b, 1, 1920] float32 is what is encoded next, `live` [b] bool
    which slots take part. Of the others nothing changes, and what comes out for them has no meaning.
    """

    def __init__(self, mimi: MimiModel, device: torch.device, slots: int = 1) -> None:
        """Raises ModelError for a Mimi that is made otherwise than those of Moshi and PersonaPlex."""
        self.mimi = mimi
        self.sound = StagingBuffer(device, heard=((slots, 1, FRAME), torch.float32), live=((slots,), torch.bool))
        self._memory = SlotMemory(self.sound.device["live"])
        self._quantiser = Quantiser(mimi.quantizer)
        self._encoder = Encoder(mimi, self._memory)
        self._decoder = Decoder(mimi, self._memory)

    def reset(self, slot: int | None = None) -> None:
        """Forget what one slot heard and said; None: all."""
        self._memory.forget(slot)

    def encode(self, rows: int) -> Tensor:
        """The codes [rows, 8] of `sound` in the first slots. No other may be live."""
        return self._quantiser.encode(self._encoder(self.sound.device["heard"][:rows]))

    def decode(self, codes: Tensor) -> Tensor:
        """The sound [rows, 1920] of codes [rows, 8] in the first slots."""
        return self._decoder(self._quantiser.decode(codes))[:, 0]

    @torch.inference_mode()
    def codes_of(self, sound: Samples) -> Generator[None, None, Tensor]:
        """The codes [8, frames] of a whole piece of sound, on the host. Yields every few frames.

        It is heard beside the slots, whose frames may be run meanwhile.
        """
        device = self._memory.live.device
        encoder = Encoder(self.mimi, SlotMemory(torch.ones(1, dtype=torch.bool, device=device)))
        codes = []
        for index in range(frames_for(len(sound))):
            frame = torch.from_numpy(frame_at(sound, index)).to(device)
            codes.append(self._quantiser.encode(encoder(frame[None, None])))
            if index % FRAMES_AT_ONCE == FRAMES_AT_ONCE - 1:
                yield
        return torch.cat(codes).T.cpu()


class Encoder:
    """Sound [b, 1, 1920] -> what is quantised of it [b, channels, 1]."""

    def __init__(self, mimi: Any, memory: SlotMemory) -> None:
        self._convolutions = Chain(mimi.encoder.model, FRAME, memory)
        length = self._convolutions.length
        self._transformer = MimiTransformer(mimi.encoder_transformer, length, memory)
        self._downsample = Convolution(mimi.downsample.conv, length, memory)
        require(self._downsample.length == 1, "frames that are not of 1920 samples")

    def __call__(self, sound: Tensor) -> Tensor:
        return self._downsample(self._transformer(self._convolutions(sound)))


class Decoder:
    """What codes stand for [b, channels, 1] -> sound [b, 1, 1920]."""

    def __init__(self, mimi: Any, memory: SlotMemory) -> None:
        self._upsample = TransposedConvolution(mimi.upsample.convtr, 1, memory)
        length = self._upsample.length
        self._transformer = MimiTransformer(mimi.decoder_transformer, length, memory)
        self._convolutions = Chain(mimi.decoder.model, length, memory)
        require(self._convolutions.length == FRAME, "frames that are not of 1920 samples")

    def __call__(self, embedded: Tensor) -> Tensor:
        return self._convolutions(self._transformer(self._upsample(embedded)))
