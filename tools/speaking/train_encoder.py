"""Sound -> what it is to the ear: trains Mimi's encoder, noisy in, clean out.

Usage: train_encoder.py UNITS.pt USERS OUT.pt

Trained with fewer filters than the decoder has; export pads it with zeros to the same size.
"""

import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from codec import EAR_FILTERS, FRAME, HEARD, WIDTH, activity, new_mimi, spectrum
from noises import Surroundings, room
from torch import nn
from torch.nn import functional as F
from training import train

STEPS, SEED = 4000, 23
WINDOW, BATCH, SKIP = 18, 6, 1
PEAK = 2e-3


def ear_vectors(clean, ear):
    """Clean sound -> [frames, HEARD]: 4 where there is speech, its coarse spectrum, 0."""
    on = activity(clean)[:, None]
    vectors = np.concatenate([4.0 * on, spectrum(clean) @ ear, np.zeros((len(on), 1))], 1)
    return (vectors * on).astype(np.float32)


def enliven(mimi: nn.Module) -> None:
    """Give weights under which the sound comes through all layers: with the usual ones it is lost on the way."""
    with torch.no_grad():
        for name, tensor in mimi.encoder.named_parameters():
            if name.endswith("bias"):
                tensor.zero_()
            else:
                fan_in = tensor.shape[1] * tensor.shape[2]
                tensor.normal_(0, (1.5 / fan_in) ** 0.5 * (10 if name.startswith("model.0.") else 1))
        mimi.downsample.conv.conv.conv.weight.normal_(0, (1 / (WIDTH * 4)) ** 0.5)


def hear(mimi: nn.Module, sound: torch.Tensor) -> torch.Tensor:
    """Sound [b, n] -> [b, frames, HEARD]"""
    (hidden,) = mimi.encoder_transformer(mimi.encoder(sound[:, None]))
    weight = mimi.quantizer.rvq_first.input_proj.weight[-HEARD:]
    return F.conv1d(mimi.downsample(hidden), weight).transpose(1, 2)


def read_clips(folder: Path) -> list:
    """All recordings in a folder."""
    return [soundfile.read(path, dtype="float32")[0] for path in sorted(folder.glob("*.wav"))]


def faster(clip, pace: float):
    """A clip played faster and so higher."""
    return np.interp(np.arange(0, len(clip) - 1, pace), np.arange(len(clip)), clip).astype(np.float32)


class Listening:
    """Examples of what a microphone hears, with what of it is speech."""

    def __init__(self, clips, agents, ear) -> None:
        self.clips, self.agents, self.ear = clips, agents, ear
        self.around = Surroundings(SEED)

    def example(self, random: np.random.Generator):
        """-> ear vectors [WINDOW, HEARD], sound [WINDOW * FRAME]"""
        n = WINDOW * FRAME
        clean = self._speech(n, random)
        target = ear_vectors(clean, self.ear)
        heard = room(clean, random) if random.random() < 0.4 else clean
        heard = heard * np.float32(10 ** random.uniform(-0.9, 0.4))
        level = float(np.sqrt(np.mean(heard**2)))
        heard = heard + self.around.background(n, random, max(2e-4, 0.4 * level) if level > 1e-4 else 0.2)
        if random.random() < 0.3:
            event = self.around.event(random)
            at = random.integers(-len(event) // 2, n)
            part = event[max(0, -at) : max(0, n - at)]
            heard[max(0, at) : max(0, at) + len(part)] += part
        return target, heard.clip(-1, 1).astype(np.float32)

    def _speech(self, n: int, random: np.random.Generator):
        clean = np.zeros(n, np.float32)
        kind = random.random()
        if kind < 0.15:
            agent = self.agents[random.integers(len(self.agents))]
            at = random.integers(0, len(agent) - n)
            clean += agent[at : at + n]
        elif kind < 0.7:
            clip = self.clips[random.integers(len(self.clips))]
            if random.random() < 0.4:
                clip = faster(clip, random.uniform(0.85, 1.2))
            at = random.integers(-n * 3 // 4, max(1, len(clip) - n // 2))
            piece = clip[max(0, at) : at + n]
            clean[max(0, -at) : max(0, -at) + len(piece)] += piece
        return clean


def main(units: Path, users: Path, out: Path) -> None:
    """Train on random windows of users, agents and noises."""
    data = torch.load(units, weights_only=False)
    torch.manual_seed(SEED)
    mimi = new_mimi(EAR_FILTERS)
    enliven(mimi)
    parts = [mimi.encoder, mimi.encoder_transformer, mimi.downsample, mimi.quantizer.rvq_first.input_proj]
    trained = [tensor for part in parts for tensor in part.parameters()]
    mimi.requires_grad_(False).train()
    for tensor in trained:
        tensor.requires_grad_(True)
    print(sum(tensor.numel() for tensor in trained), "parameters", flush=True)
    listening = Listening(read_clips(users), data["timelines"].numpy(), data["ear"].numpy())
    optimiser = torch.optim.Adam([{"params": trained, "peak": PEAK}], lr=PEAK, betas=(0.9, 0.99))
    wrong = 50.0

    def loss_of(step, random):
        nonlocal wrong
        examples = [listening.example(random) for _ in range(BATCH)]
        target, sound = (torch.from_numpy(np.stack(each)) for each in zip(*examples, strict=True))
        heard, target = hear(mimi, sound)[:, SKIP:], target[:, SKIP:]
        wrong = 0.98 * wrong + 2 * ((heard[..., 0] > 2) != (target[..., 0] > 2)).float().mean().item()
        return (heard - target).square().mean(), f"speech or not: {wrong:.1f} % wrong"

    train(mimi, optimiser, STEPS, SEED, out, loss_of, clip=5.0)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
