"""Who speaks: a persona's text, a voice, and how tokens are chosen.

Numbers, text and sound only, so that any engine can be asked for it; `lookup.py` finds one by names and options.
"""

import math
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from personaplex_cli.errors import UsageError
from personaplex_cli.options import chosen
from personaplex_cli.samples import Samples

SEED_LIMIT = 2**63  # torch takes seeds of 63 bits


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. A temperature of 0 (or `greedy`) always takes the likeliest token; the same `seed` makes
    the same talk, and without one each talk draws its own.

    The defaults are the reference's. Raises UsageError for values out of range.
    """

    panel: ClassVar[str] = "Sampling"
    seed: int | None = chosen(None, "Makes the answer repeatable.", "random")
    greedy: bool = chosen(False, "Always take the most likely token.")
    audio_temperature: float = chosen(0.8, "0 to 5.")
    audio_top_k: int = chosen(250, "1 to 2048.")
    text_temperature: float = chosen(0.7, "0 to 5.")
    text_top_k: int = chosen(25, "1 to 2048.")

    def __post_init__(self) -> None:
        for name in ("audio_temperature", "text_temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= 5):
                raise UsageError(f"The {name.replace('_', ' ')} is {value}.", "Give a number from 0 to 5.")
        for name in ("audio_top_k", "text_top_k"):
            value = getattr(self, name)
            if not 1 <= value <= 2048:
                raise UsageError(f"The {name.replace('_', ' ')} is {value}.", "Give a whole number from 1 to 2048.")
        if self.seed is not None and not 0 <= self.seed < SEED_LIMIT:
            raise UsageError(f"The seed is {self.seed}.", f"Give a whole number from 0 to {SEED_LIMIT - 1}.")


def fresh_seed() -> int:
    """A seed for a talk that no one asked to be repeatable; `Began` has it, so that it can be repeated."""
    return secrets.randbelow(2**31)


@dataclass(frozen=True, eq=False)
class Character:
    """Who speaks and how. `persona` and `voice` are names, `prompt` is the text (may be empty).

    `sound` is how the voice sounds: the name of a file in the model's voices archive, such as "NATF2.pt"; the path of
    a `.pt` file saved by the reference; or a sample of speech, [n] at 24 kHz mono, already at the right loudness.
    """

    persona: str
    prompt: str
    voice: str
    sound: str | Path | Samples
    sampling: Sampling = Sampling()

    def seeded(self) -> "Character":
        """The same with a seed of its own, if it has none: so that what begins again is the same talk."""
        if self.sampling.seed is not None:
            return self
        return replace(self, sampling=replace(self.sampling, seed=fresh_seed()))
