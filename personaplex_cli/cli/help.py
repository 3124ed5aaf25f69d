"""What `--help` looks like: examples last, values by plain words, no types of Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer.core

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
        "personaplex personas try ada",
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
    """`personas teacher` is `personas show teacher`."""

    def get_params(self, ctx: Any) -> Any:
        return plain(super().get_params(ctx))

    def resolve_command(self, context: Any, arguments: list[str]) -> Any:
        known = self.get_command(context, arguments[0])
        return super().resolve_command(context, arguments if known else ["show", *arguments])


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
