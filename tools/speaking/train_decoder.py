"""Units -> sound: trains Mimi's decoder, the units' vectors and the voices' vectors.

Usage: train_decoder.py UNITS.pt OUT.pt
"""

import sys
from pathlib import Path

import numpy as np
import torch
from codec import FRAME, HEARD, INNER, new_mimi, sound_loss
from speech import VOICES
from torch import nn
from torch.nn import functional as F
from training import train

STEPS, SEED = 5500, 11
WINDOW, BEFORE, BATCH = 11, 3, 8  # frames of a window; those before it that only the first layer sees
PEAK = 2e-3


def mute(mimi: nn.Module) -> None:
    """Silence stays silence: no biases, and the decoder's transformer passes everything through."""
    with torch.no_grad():
        for name, tensor in mimi.decoder.named_parameters():
            if name.endswith("bias"):
                tensor.zero_()
        for name, tensor in mimi.decoder_transformer.named_parameters():
            if "out_proj" in name or "linear2" in name:
                tensor.zero_()


def first_voices() -> torch.Tensor:
    """The voices' vectors before training: alike voices begin alike."""
    voices = VOICES.values()
    about = np.array([[2.0 * v.octave, v.shift / 2.5, np.log(v.formants) / 0.12] for v in voices])
    about -= about.mean(0)
    random = np.random.default_rng(SEED)
    vectors = about @ random.normal(0, 0.35, (3, INNER)) + random.normal(0, 0.1, (len(about), INNER))
    return torch.from_numpy(vectors.astype(np.float32))


class Speaker(nn.Module):
    """The half of a codec that speaks, with the vectors of its codes."""

    def __init__(self, data) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.mimi = new_mimi()
        mute(self.mimi)
        self.units = nn.Parameter(data["start"].clone())
        self.voices = nn.Parameter(first_voices())

    def trained(self) -> list[nn.Parameter]:
        """Of the codec."""
        mimi = self.mimi
        parts = [mimi.quantizer.rvq_first.output_proj, mimi.quantizer.rvq_rest.output_proj, mimi.upsample, mimi.decoder]
        return [tensor for part in parts for name, tensor in part.named_parameters() if not name.endswith("bias")]

    def latent(self, unit: torch.Tensor, voice: torch.Tensor) -> torch.Tensor:
        """Units [b, t] (-1: silence) and voices [b] -> [b, WIDTH, t]"""
        on = (unit >= 0)[..., None]
        one = F.pad(torch.where(on, self.units[unit.clamp(min=0)], 0.0), (0, HEARD))
        two = torch.where(on, self.voices[voice][:, None], 0.0)
        quantizer = self.mimi.quantizer
        said = F.conv1d(one.transpose(1, 2), quantizer.rvq_first.output_proj.weight)
        return said + quantizer.rvq_rest.output_proj(two.transpose(1, 2))

    def forward(self, unit: torch.Tensor, voice: torch.Tensor, skip: int = 0) -> torch.Tensor:
        """-> sound [b, n]; the first `skip` frames are heard by the first layer only."""
        hidden = self.mimi.upsample(self.latent(unit, voice))
        hidden = self.mimi.decoder.model[0](hidden)[:, :, 2 * skip :]
        return self.mimi.decoder.model[1:](hidden)[:, 0]


def main(units: Path, out: Path) -> None:
    """Train on random windows of random voices."""
    data = torch.load(units, weights_only=False)
    speaker = Speaker(data).train()
    trained = speaker.trained()
    speaker.mimi.requires_grad_(False)
    for tensor in trained:
        tensor.requires_grad_(True)
    print(sum(tensor.numel() for tensor in trained), "parameters,", speaker.units.numel(), "in units", flush=True)
    sound, unit = data["timelines"].view(len(VOICES), -1, FRAME), data["unit"]
    groups = [{"params": trained, "peak": PEAK}, {"params": [speaker.units, speaker.voices], "peak": 3 * PEAK}]
    optimiser = torch.optim.Adam(groups, lr=PEAK, betas=(0.8, 0.99))

    def loss_of(step, random):
        at = torch.from_numpy(random.integers(0, len(unit) - WINDOW - BEFORE + 1, BATCH))[:, None]
        at = at + torch.arange(WINDOW + BEFORE)
        voice = torch.from_numpy(random.integers(0, len(sound), BATCH))
        made = speaker(unit[at], voice, BEFORE)[:, FRAME:]
        true = sound[voice[:, None], at[:, BEFORE + 1 :]].reshape(BATCH, -1)
        return sound_loss(made, true), ""

    train(speaker, optimiser, STEPS, SEED, out, loss_of, clip=5.0)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
