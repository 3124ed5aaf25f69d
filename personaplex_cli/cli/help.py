"""What `--help` looks like: examples last, values by plain words, no types of Python."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer.core

from personaplex_cli.errors import CLOSE, UsageError, either
from personaplex_cli.library.catalog import PERSONAS, VOICES, folded

PLACEHOLDERS = {int: "N", float: "N", Path: "PATH", str: "TEXT"}
EXAMPLES = {
    "chat": (
        "personaplex chat",
        "personaplex chat --voice NATF2 --persona teacher --record talks/",
        'personaplex chat --prompt "You enjoy having a good conversation." --voice my.wav',
        "personaplex chat --server gpu.example.org",
        "personaplex chat --model demo",
    ),
    "run": (
        "personaplex run question.wav -o answer.wav",
        "personaplex run recordings/ -o answers/ --skip-existing --srt",
        "personaplex run recordings/ -o answers/ --batch-size auto --ray local",
        "ffmpeg -i talk.mp4 -f wav - | personaplex run - -o answer.wav",
    ),
    "serve": (
        "personaplex serve",
        "personaplex serve --batch-size 8 --queue 4",
        "personaplex serve --host 0.0.0.0 --token SECRET --ssl-cert cert.pem --ssl-key key.pem --queue 3",
    ),
    "eval": (
        "personaplex eval candor_turn_taking/ --task smooth_turn_taking --batch-size auto",
        "personaplex eval icc_backchannel/ --task backchannel --plot backchannel.png",
        "personaplex eval outputs-of-others/ --task pause_handling --no-run --json",
    ),
    "replay": (
        "personaplex replay example",
        "personaplex replay talks/2026-01-31_14-05-09",
        "personaplex replay talks/2026-01-31_14-05-09 --voice NATM1 --seed 4 -o again/",
    ),
    "duet": (
        "personaplex duet teacher astronaut",
        "personaplex duet chef chef --minutes 60 --fast --record talks/",
    ),
    "download": ("personaplex download",),
    "login": ("personaplex login", "personaplex login < token.txt"),
    "doctor": ("personaplex doctor", "personaplex doctor --sound", "personaplex doctor --json > report.json"),
    "devices": ("personaplex devices", "personaplex devices --test --input-device Yeti"),
    "bench": (
        "personaplex bench",
        "personaplex bench --random-weights --precision int8 --context-fill 2900",
        "personaplex bench --batch-size 1,2,4",
    ),
    "voices": (
        "personaplex voices",
        "personaplex voices add ada recording.wav",
        "personaplex voices play ada",
        "personaplex voices remove ada",
    ),
    "personas": (
        "personaplex personas",
        "personaplex personas teacher",
        "personaplex personas new ada --voice NATF1",
        "personaplex personas check ada",
        "personaplex personas try ada --model demo",
    ),
}


def examples(command: str) -> str:
    """The foot of a command's help."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  {line}" for line in EXAMPLES[command])])


def with_default(help: str, shown: str | None) -> str:
    """A help text that ends with what holds when the option is not given."""
    return f"{help} [dim]\\[default: {shown}][/dim]" if shown else help


class Command(typer.core.TyperCommand):
    """A command whose help speaks plainly."""

    def get_params(self, ctx: Any) -> Any:
        return plain(super().get_params(ctx))


class ShownByName(typer.core.TyperGroup):
    """`personas teacher` is `personas show teacher`; what is clearly no name is a command that does not exist."""

    def get_params(self, ctx: Any) -> Any:
        return plain(super().get_params(ctx))

    def resolve_command(self, context: Any, arguments: list[str]) -> Any:
        word, *rest = arguments
        if self.get_command(context, word):
            return super().resolve_command(context, arguments)
        commands = [each for each in self.list_commands(context) if abbreviates(word, each)]
        near = commands or get_close_matches(word, self.list_commands(context), cutoff=CLOSE)
        is_name = folded(word) in (VOICES if self.name == "voices" else PERSONAS).files(lambda error: None)
        if (rest and not rest[0].startswith("-")) or (near and not is_name):
            remedy = f"Did you mean {either(near)}?" if near else f"See `personaplex {self.name} --help`."
            raise UsageError(f"There is no command {word!r}.", remedy)
        return super().resolve_command(context, ["show", *arguments])


def abbreviates(short: str, word: str) -> bool:
    """Whether it is the word with letters left out, the first one kept: rm for remove."""
    rest = iter(word)
    return short[:1] == word[:1] and len(short) > 1 and all(letter in rest for letter in short)


def plain(parameters: Sequence[Any]) -> Sequence[Any]:
    """The parameters, with a placeholder for each value and none for a flag. The name of an argument says enough."""
    for each in parameters:
        if each.param_type_name == "argument":
            each.display_type_rich = lambda ctx: None
        elif each.is_flag:
            each.metavar = ""
        elif each.metavar is None:
            each.metavar = PLACEHOLDERS.get(each.type_descriptor.annotation, "TEXT")
    return parameters
