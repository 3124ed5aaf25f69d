"""What the shell offers after an option, by the option's name. It never fails; with nothing to offer shells name files.

Imports nothing slow, so that a press of Tab is answered at once.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from personaplex_cli.errors import UsageError
from personaplex_cli.library.catalog import Persona, Voice, personas, voices
from personaplex_cli.options import DEFAULT_MODEL, DEMO, WORDS
from personaplex_cli.screen.theme import THEMES

Offers = list[str] | list[tuple[str, str]]  # what may be typed, perhaps with what it is


def _named(listed: Callable[[Callable[[UsageError], None]], Iterable[Persona | Voice]]) -> Offers:
    return [(each.name, each.description) for each in listed(lambda error: None)]


def _models() -> Offers:
    """The demo, the usual one, and what else lies in Hugging Face's cache with voices."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    repos = {path.parents[2].name for path in cache.glob("models--*--*/snapshots/*/voices.tgz")}
    names = sorted("/".join(repo.split("--", 2)[1:]) for repo in repos)
    return list(dict.fromkeys([DEMO, DEFAULT_MODEL, *names]))


def _sound_devices(side: str) -> Offers:
    """The first word of a device's name if that tells it from all others, else its index: no shell has to quote it."""
    from personaplex_cli.audio.devices import devices, quiet_portaudio

    with quiet_portaudio():
        usable = [each for each in devices() if getattr(each, side)]
    offers = []
    for each in usable:
        word = re.match(r"[\w.-]*", each.name)[0]  # type: ignore[index]
        alone = word and sum(word.lower() in f"{other.name}, {other.host_api}".lower() for other in usable) == 1
        offers.append((word if alone else str(each.index), f"{each.name}, {each.host_api}"))
    return offers


OFFERS: Mapping[str, Callable[[], Offers]] = {
    "voice": partial(_named, voices),
    "persona": partial(_named, personas),
    "model": _models,
    "input_device": partial(_sound_devices, "inputs"),
    "output_device": partial(_sound_devices, "outputs"),
    "device": "auto cuda mps cpu".split,
    "precision": "auto bf16 fp16 fp32 int8 int4".split,
    "words": partial(list, WORDS),
    "theme": partial(list, THEMES),
}


def completer(option: str) -> Callable[[], Offers] | None:
    """What Typer calls for the option of that name, and filters by what is typed; None for one without offers."""

    def complete() -> Offers:
        with suppress(Exception):
            return OFFERS[option]()
        return []

    return complete if option in OFFERS else None
