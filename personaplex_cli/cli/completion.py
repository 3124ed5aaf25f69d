"""What the shell offers after an option, by the option's name. It never fails; with nothing to offer shells name files.

Imports nothing slow, so that a press of Tab is answered at once.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from personaplex_cli.library.catalog import personas, voices
from personaplex_cli.options import DEFAULT_MODEL, DEMO

Offers = list[tuple[str, str]]  # what may be typed, and what it is


def _voices() -> Offers:
    return [(voice.name, voice.description) for voice in voices()]


def _personas() -> Offers:
    return [(persona.name, persona.description) for persona in personas()]


def _models() -> Offers:
    """The demo, the usual one, and what else lies in Hugging Face's cache with voices."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    repos = {path.parents[2].name for path in cache.glob("models--*--*/snapshots/*/voices.tgz")}
    names = sorted("/".join(repo.split("--", 2)[1:]) for repo in repos)
    return [(name, "") for name in dict.fromkeys([DEMO, DEFAULT_MODEL, *names])]


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


def _words(text: str) -> Offers:
    return [(word, "") for word in text.split()]


OFFERS: Mapping[str, Callable[[], Offers]] = {
    "voice": _voices,
    "persona": _personas,
    "model": _models,
    "input_device": partial(_sound_devices, "inputs"),
    "output_device": partial(_sound_devices, "outputs"),
    "device": partial(_words, "auto cuda mps cpu"),
    "precision": partial(_words, "auto bf16 fp16 fp32 int8 int4"),
    "theme": partial(_words, "auto light dark none"),
}


def completer(option: str) -> Callable[[], Offers] | None:
    """What Typer calls for the option of that name, and filters by what is typed; None for one without offers."""

    def complete() -> Offers:
        with suppress(Exception):
            return OFFERS[option]()
        return []

    return complete if option in OFFERS else None
