"""Who speaks: a persona's text, a voice, and how tokens are chosen.

Numbers, text and sound only, so that any engine can be asked for it; `lookup.py` finds one by names and options.
"""

import re
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from personaplex_cli.errors import UsageError
from personaplex_cli.options import chosen
from personaplex_cli.samples import Samples

RANGES = {
    "audio_temperature": ("a number", 0, 5),
    "text_temperature": ("a number", 0, 5),
    "audio_top_k": ("a whole number", 1, 2048),
    "text_top_k": ("a whole number", 1, 2048),
    "seed": ("a whole number", 0, 2**63 - 1),  # 63 bits
}
BLANK = re.compile(r"(?<!\S)(?:\.\.\.|…)(?!\w)|<(?!system>)[^<>\s][^<>\n]{0,79}>|\b(?:NAME|KIND)\b")
MAX_PROMPT = 100_000  # characters: several times what any context has room for


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. A temperature of 0 (or `greedy`) always takes the likeliest token; the same `seed` makes
    the same talk, and without one each talk draws its own.

    The defaults are the reference's. Raises UsageError for values out of range.
    """

    panel = "Sampling"
    seed: int | None = chosen(None, "Makes the answer repeatable.", "random")
    greedy: bool = chosen(False, "Always take the most likely token.")
    audio_temperature: float = chosen(0.8, "0 to 5.")
    audio_top_k: int = chosen(250, "1 to 2048.")
    text_temperature: float = chosen(0.7, "0 to 5.")
    text_top_k: int = chosen(25, "1 to 2048.")

    def __post_init__(self) -> None:
        for name, (kind, low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"The {name.replace('_', ' ')} is {value}.", f"Give {kind} from {low} to {high}.")


def fresh_seed() -> int:
    """A seed for a talk that no one asked to be repeatable; `Began` has it, so that it can be repeated."""
    return secrets.randbelow(2**31)


@dataclass(frozen=True, eq=False)
class OwnVoice:
    """A voice that the user has added: a sample of speech, [n] as in `Character`, and the folder in which a model keeps
    what it makes of it."""

    sample: Samples
    folder: Path


Sound = str | Path | Samples | OwnVoice


@dataclass(frozen=True, eq=False)
class Character:
    """Who speaks and how. `persona` and `voice` are names, `prompt` is the text (may be empty).

    `sound` is how the voice sounds: the name of a file in the model's voices archive, such as "NATF2.pt"; the path of
    a `.pt` file saved by the reference; a sample of speech, [n] at 24 kHz mono, already at the right loudness; or a
    voice of the user's own.

    Raises UsageError for a prompt that no model could read.
    """

    persona: str
    prompt: str
    voice: str
    sound: Sound
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        if len(self.prompt) > MAX_PROMPT:
            raise UsageError(f"The prompt has {len(self.prompt):,} characters.", f"Give at most {MAX_PROMPT:,}.")
        try:
            self.prompt.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"The prompt is not text: its character {error.start + 1} cannot be written as UTF-8.",
                "Write it as UTF-8, or give --prompt @FILE.",
            ) from error

    @property
    def blanks(self) -> str:
        """What of a template nobody has filled in, such as "..." or "<name>", with commas; mostly nothing."""
        return ", ".join(dict.fromkeys(BLANK.findall(self.prompt)))

    def seeded(self) -> "Character":
        """The same with a seed of its own, if it has none: so that what begins again is the same talk."""
        seed = fresh_seed() if self.sampling.seed is None else self.sampling.seed
        return replace(self, sampling=replace(self.sampling, seed=seed))
