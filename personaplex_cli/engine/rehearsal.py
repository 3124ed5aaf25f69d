"""The beginning of a conversation, held to see whether recorded frames answer like plain ones.

Each length in which the ring of keys and values is read has recordings of its own, so each gets a scene: the prompt,
then a few frames at the last positions of that length. Sound alone would not show much: an agent that is silent sounds
like a decoder that does nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from personaplex_cli.engine.pipeline import FramePipeline
from personaplex_cli.samples import FRAME, Samples

FRAMES = 8  # of the first scene, which goes on after the prompt
FRAMES_AT_A_LENGTH = 2
SAME_OUTPUT = 0.999  # cosine of the transformer's outputs
SAME_SOUND = 0.02  # of the loudest sample: kernels add up in orders of their own


@dataclass(frozen=True)
class Sample:
    """What one frame came to: the 18 tokens that were chosen, the transformer's output, the sound. On the host."""

    tokens: Tensor
    output: Tensor
    sound: Samples

    @property
    def is_finite(self) -> bool:
        return bool(self.output.isfinite().all() and np.isfinite(self.sound).all())

    def equals(self, other: "Sample") -> bool:
        """Whether the same was chosen, and the rest differs by rounding at most."""
        return self.chose_like(other) and self.thinks_like(other) and self.sounds_like(other)

    def chose_like(self, other: "Sample") -> bool:
        return torch.equal(self.tokens, other.tokens)

    def thinks_like(self, other: "Sample") -> bool:
        one, two = self.output.flatten(), other.output.flatten()
        return torch.equal(one, two) or float(F.cosine_similarity(one, two, dim=0)) >= SAME_OUTPUT

    def sounds_like(self, other: "Sample") -> bool:
        off, loudest = np.abs(self.sound - other.sound).max(), np.abs(self.sound).max()
        return bool(off <= SAME_SOUND * loudest)


Scene = list[Sample]


def rehearse(pipeline: FramePipeline, slot: int, begin: Callable[[], object], every_length: bool) -> list[Scene]:
    """Hold the scenes in this slot, each after a `begin`; without `every_length` only the first one."""
    lengths = pipeline.lengths if every_length else []
    begin()
    scenes = [_scene(pipeline, slot, FRAMES)]
    for length in lengths:
        begin()
        pipeline.skip_to(slot, max(0, length - FRAMES_AT_A_LENGTH))
        scenes.append(_scene(pipeline, slot, FRAMES_AT_A_LENGTH))
    return scenes


def are_finite(scenes: list[Scene]) -> bool:
    return all(each.is_finite for each in chain(*scenes))


def are_equal(scenes: list[Scene], others: list[Scene]) -> bool:
    return all(one.equals(two) for one, two in zip(chain(*scenes), chain(*others), strict=True))


def begin_alike(scenes: list[Scene], others: list[Scene]) -> bool:
    """Whether the first frames of all scenes are alike, on a device whose answers vary: later ones have no common past.

    The outputs must be; what is chosen may differ where two tokens are nearly as likely, but not in most scenes.
    """
    pairs = [(one[0], two[0]) for one, two in zip(scenes, others, strict=True)]
    same = [(one, two) for one, two in pairs if one.chose_like(two)]
    alike = all(one.thinks_like(two) for one, two in pairs) and all(one.sounds_like(two) for one, two in same)
    return alike and 2 * len(same) >= len(pairs)


def _scene(pipeline: FramePipeline, slot: int, frames: int) -> Scene:
    noise = np.random.default_rng(0).normal(0.0, 0.05, (frames, FRAME)).astype(np.float32)
    return [_sample(pipeline, slot, frame) for frame in noise]


def _sample(pipeline: FramePipeline, slot: int, frame: Samples) -> Sample:
    pipeline.run({slot: frame})
    tokens, output, sound = pipeline.outcome(slot)
    return Sample(tokens, output, sound)
