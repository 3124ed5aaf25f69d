"""The command that shows recorded talks, or holds them again."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from personaplex_cli.cli.terminal import ProgramStack
from personaplex_cli.errors import either, unknown_name
from personaplex_cli.options import ScreenOptions, SpeakerOptions
from personaplex_cli.screen.keys import Keys
from personaplex_cli.screen.panel import screen_for
from personaplex_cli.screen.screens import JsonLines, Screen
from personaplex_cli.screen.theme import THEMES

EXAMPLE = Path(__file__).parents[1] / "example"


def replay(
    *,
    talk: Annotated[
        Path,
        typer.Argument(metavar="TALK", help="A folder that --record has made, or: example.", show_default=False),
    ],
    speaker: SpeakerOptions,
    options: ScreenOptions,
) -> None:
    """Show a recorded talk at its own speed, without a model: both voices, and the words."""
    from personaplex_cli.programs.replay import Replay
    from personaplex_cli.recorded import read_talk

    recorded = read_talk(EXAMPLE if str(talk) == "example" and not talk.exists() else talk)
    with ProgramStack() as stack:
        keys, screen = shown(stack, options, unused="ms")
        shows = Replay(recorded, speaker, screen.show)
        stack.ends(shows.end)
        shows.run(screen, keys)
    if shows.error:
        raise shows.error


def shown(stack: ProgramStack, options: ScreenOptions, unused: str) -> tuple[Keys, Screen]:
    """The keyboard, and what shows a conversation, both open until the stack ends. Raises UsageError for the theme."""
    if options.theme not in THEMES:
        raise unknown_name("theme", options.theme, THEMES, f"Use {either(THEMES)}.")
    keys = stack.enter_context(Keys())
    screen = JsonLines(sys.stdout) if options.json else screen_for(Console(), keys, options.theme, unused=unused)
    return keys, stack.enter_context(screen)
