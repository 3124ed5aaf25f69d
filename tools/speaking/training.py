"""A training of so many steps that goes on where it was stopped, and comes out the same if it never was.

What chance decides in a step depends on the seed and the number of the step alone.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

KEEP_EVERY = 200  # steps


def cosine(step: int, steps: int, peak: float, warm_up=50) -> float:
    """The rate of learning: up quickly, then down along a cosine to a fiftieth."""
    return peak * min(1, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    steps: int,
    seed: int,
    out: Path,
    loss_of: Callable[[int, np.random.Generator], tuple[torch.Tensor, str]],
    clip: float,
) -> None:
    """Train `module` and write its weights to `out`.

    `loss_of(step, random)` gives the loss and words for the log. Each of the optimiser's groups has a `peak`.
    """
    torch.set_num_threads(1)
    partial = out.with_suffix(".partial")
    begun = 0
    if partial.exists():
        kept = torch.load(partial, weights_only=True)
        begun = kept["step"]
        module.load_state_dict(kept["module"])
        optimiser.load_state_dict(kept["optimiser"])
    trained = [tensor for group in optimiser.param_groups for tensor in group["params"]]
    average, start = None, time.monotonic()
    for step in range(begun, steps):
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, steps, group["peak"])
        torch.manual_seed(seed * 1_000_003 + step)
        loss, words = loss_of(step, np.random.default_rng([seed, step]))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, clip)
        optimiser.step()
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        if (step + 1) % 25 == 0:
            print(f"{step + 1} of {steps}: {time.monotonic() - start:.0f} s, loss {average:.3f} {words}", flush=True)
        if (step + 1) % KEEP_EVERY == 0:
            state = {"step": step + 1, "module": module.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(state, partial.with_suffix(".new"))
            partial.with_suffix(".new").replace(partial)
    torch.save(module.state_dict(), out)
