"""What is asked of an engine before a conversation: who to be, how to sound, how to choose its tokens.

Numbers and text only, so that a remote engine can be asked the same; `model/prompting.py` turns it into frames.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from personaplex_cli.errors import UsageError
from personaplex_cli.samples import Samples

SEED_LIMIT = 2**63  # torch takes seeds of 63 bits


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. A temperature of 0 (or `greedy`) always takes the likeliest token; the same `seed` makes
    the same talk.

    The defaults are the reference's. Raises UsageError for values out of range.
    """

    audio_temperature: float = 0.8
    audio_top_k: int = 250
    text_temperature: float = 0.7
    text_top_k: int = 25
    greedy: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("audio_temperature", "text_temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= 5):
                raise UsageError(f"The {name.replace('_', ' ')} is {value}.", "Give a number from 0 to 5.")
        for name in ("audio_top_k", "text_top_k"):
            value = getattr(self, name)
            if not 1 <= value <= 2048:
                raise UsageError(f"The {name.replace('_', ' ')} is {value}.", "Give a whole number from 1 to 2048.")
        if not 0 <= self.seed < SEED_LIMIT:
            raise UsageError(f"The seed is {self.seed}.", f"Give a whole number from 0 to {SEED_LIMIT - 1}.")


@dataclass(frozen=True)
class Prompt:
    """Who speaks: `text` describes the persona (may be empty), `voice` is how it sounds.

    A voice is the path of a `.pt` file saved by the reference, or a sample of speech: [n] samples of 24 kHz mono,
    already at the right loudness.
    """

    text: str
    voice: Path | Samples
    sampling: Sampling = Sampling()
