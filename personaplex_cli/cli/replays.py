"""The commands for who watches: recorded talks, shown or held again, and two personas who talk with each other."""

import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from personaplex_cli.character import Sampling
from personaplex_cli.cli.completion import completer
from personaplex_cli.cli.help import with_default
from personaplex_cli.cli.terminal import JsonEvents, ProgramStack, say
from personaplex_cli.conversation import Engine
from personaplex_cli.errors import either, unknown_name
from personaplex_cli.events import Phase, State
from personaplex_cli.files import check_folder
from personaplex_cli.options import (
    CharacterOptions,
    DuetOptions,
    LiveModelOptions,
    ModelOptions,
    ScreenOptions,
    SpeakerOptions,
)
from personaplex_cli.samples import FRAME_SECONDS
from personaplex_cli.screen.keys import Keys
from personaplex_cli.screen.panel import screen_for
from personaplex_cli.screen.screens import JsonLines, ProgressScreen, Screen
from personaplex_cli.screen.theme import THEMES

if TYPE_CHECKING:
    from personaplex_cli.recorded import RecordedTalk

EXAMPLE = Path(__file__).parents[1] / "example"


def replay(
    *,
    talk: Annotated[
        Path,
        typer.Argument(metavar="TALK", help="A folder that --record has made, or: example.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help=with_default("With a model: the folder in which both answers get a folder of their own.", "replays/"),
            show_default=False,
        ),
    ] = None,
    speaker: SpeakerOptions,
    options: ScreenOptions,
    changes: Annotated[Mapping[str, Any], CharacterOptions, ModelOptions, Sampling],
) -> None:
    """Show a recorded talk at its own speed: both voices and the words, without a model.

    With other settings, or with --out, a model hears the same user again, and both answers are laid side by side.
    --persona speaks in place of all who spoke, with its own voice unless --voice is given.
    A server elsewhere answers the same user by: personaplex run TALK/conversation.wav --server HOST
    """
    if changes or out:
        _hold_again(talk, out or Path("replays"), options, changes)
    else:
        _show(talk, speaker, options)


def _recorded(talk: Path) -> "RecordedTalk":
    from personaplex_cli.recorded import read_talk

    return read_talk(EXAMPLE if str(talk) == "example" and not talk.exists() else talk)


def _hold_again(talk: Path, out: Path, options: ScreenOptions, changes: Mapping[str, Any]) -> None:
    from personaplex_cli.programs.again import characters, hold_again, model_options

    recorded = _recorded(talk)
    check_folder(out)
    who, model = characters(recorded, changes), model_options(recorded, changes)
    with ProgressScreen(Console(stderr=True)) as screen:
        json_lines = JsonEvents()
        listen = json_lines if options.json else screen.show
        listen(State(Phase.STARTING, "PyTorch"))
        from personaplex_cli.loader.load import load

        with closing(load(model, listen, who[0])) as engine:
            hold_again(engine, recorded, who, out, listen)
    json_lines.conclude()


def _show(talk: Path, speaker: SpeakerOptions, options: ScreenOptions) -> None:
    from personaplex_cli.programs.replay import Replay

    recorded = _recorded(talk)
    with ProgramStack() as stack:
        keys, screen = shown(stack, options, unused="ms")
        if options.json and not sys.stdout.isatty():
            seconds = recorded.frames * FRAME_SECONDS
            say(f"Playing {seconds:.0f} s at its own speed.")
        shows = Replay(recorded, speaker, screen.show)
        stack.ends(shows.end)
        shows.run(screen, keys)
    if shows.error:
        raise shows.error


def _persona(help: str) -> Any:
    return typer.Argument(metavar="PERSONA", help=help, show_default=False, autocompletion=completer("persona"))


def duet(
    *,
    left: Annotated[str, _persona("Who is on the left.")],
    right: Annotated[str, _persona("Who is on the right.")],
    options: DuetOptions,
    speaker: SpeakerOptions,
    screen_options: ScreenOptions,
    model: LiveModelOptions,
    sampling: Sampling,
) -> None:
    """Have two personas talk with each other, and listen.

    Each has its own voice. The one on the right takes the seed after that of the left one: so that two
    identical personas do not say the same.
    """
    from personaplex_cli.lookup import find_character
    from personaplex_cli.programs.duet import SLOTS, Duet

    first = find_character(CharacterOptions(persona=left), sampling).seeded()
    seed = ((first.sampling.seed or 0) + 1) % 2**63
    second = find_character(CharacterOptions(persona=right), replace(sampling, seed=seed))
    with ProgramStack() as stack:
        keys, screen = shown(stack, screen_options, unused="msr")

        def start() -> Engine:
            screen.show(State(Phase.STARTING, "PyTorch"))
            from personaplex_cli.loader.load import load

            return load(model, screen.show, first, SLOTS)

        talk = Duet(start, first, second, options, speaker, screen.show)
        stack.ends(talk.end)
        talk.run(screen, keys)
    if talk.error:
        raise talk.error


def shown(stack: ProgramStack, options: ScreenOptions, unused: str) -> tuple[Keys, Screen]:
    """The keyboard, and what shows a conversation, both open until the stack ends. Raises UsageError for the theme."""
    if options.theme not in THEMES:
        raise unknown_name("theme", options.theme, THEMES, f"Use {either(THEMES)}.")
    keys = stack.enter_context(Keys())
    screen = JsonLines(sys.stdout) if options.json else screen_for(Console(), keys, options.theme, unused=unused)
    return keys, stack.enter_context(screen)
