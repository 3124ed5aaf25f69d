"""What the microphone hears in many talks, as the encoder hears it.

Usage: tracks.py UNITS.pt USERS ENCODER.pt OUT.pt
"""

import sys
from pathlib import Path

import numpy as np
import torch
from codec import EAR_FILTERS, FRAME, HEARD, RATE, activity, new_mimi
from noises import Surroundings, room
from train_encoder import faster, hear, read_clips

LENGTH, COUNT, SEED = 360, 160, 37
AT_ONCE = 4


def pause(random: np.random.Generator) -> float:
    """Seconds until the user goes on."""
    kind = random.random()
    if kind < 0.2:
        return random.uniform(0.1, 0.3)  # within a sentence
    return random.uniform(1.2, 7) if kind < 0.85 else random.uniform(8, 16)


def track(clips, around: Surroundings, random: np.random.Generator):
    """-> sound of LENGTH frames, which of them are speech"""
    n = LENGTH * FRAME
    clean = np.zeros(n, np.float32)
    gain, pace = 10 ** random.uniform(-0.7, 0.3), random.uniform(0.85, 1.2)
    at = int(RATE * random.choice([random.uniform(0, 2), random.uniform(3, 9)]))
    if random.random() < 0.15:
        at = n  # nobody speaks
    while at < n:
        clip = faster(clips[random.integers(len(clips))], pace) * gain * random.uniform(0.8, 1.2)
        part = clip[: n - at]
        clean[at : at + len(part)] += part
        at += len(clip) + int(RATE * pause(random))
    active = activity(clean)
    heard = room(clean, random) if random.random() < 0.4 else clean
    level = 0.09 * gain if active.any() else 0.5
    heard = heard + around.background(n, random, 0.35 * level)
    for _ in range(random.choice([0, 0, 2, 4, 6])):
        event = around.event(random)
        at = random.integers(0, n - len(event))
        heard[at : at + len(event)] += event
    return heard.clip(-1, 1).astype(np.float32), active


def nearest(vectors: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """[..., HEARD] -> 0 for silence, 1.. for a class."""
    return torch.cdist(vectors, torch.cat([torch.zeros(1, HEARD), classes])).argmin(-1)


def main(units: Path, users: Path, encoder: Path, out: Path) -> None:
    """Write {"heard": [COUNT, LENGTH] classes, "active": whether it is speech}."""
    torch.set_num_threads(1)
    data = torch.load(units, weights_only=False)
    mimi = new_mimi(EAR_FILTERS)
    mimi.load_state_dict(torch.load(encoder, weights_only=True))
    mimi.eval()
    clips, around = read_clips(users), Surroundings(SEED)
    heard, active = [], []
    for number in range(0, COUNT, AT_ONCE):
        random = np.random.default_rng([SEED, number])
        sounds, speech = zip(*[track(clips, around, random) for _ in range(AT_ONCE)], strict=True)
        with torch.inference_mode():
            heard.append(nearest(hear(mimi, torch.from_numpy(np.stack(sounds))), data["classes"]))
        active.append(torch.from_numpy(np.stack(speech)))
    found, true = torch.cat(heard), torch.cat(active)
    torch.save({"heard": found, "active": true}, out)
    of_speech, of_rest = (100 * (found > 0)[each].float().mean().item() for each in (true, ~true))
    print(f"frames taken for speech: {of_speech:.1f} % of speech, {of_rest:.1f} % of the rest")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
