"""The commands that hold a conversation: with recordings, with a microphone, over the network."""

import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from personaplex_cli.character import Character, Sampling
from personaplex_cli.cli.terminal import ProgramStack, stderr, write_json_line
from personaplex_cli.errors import UsageError, unknown_name
from personaplex_cli.events import Listener
from personaplex_cli.options import (
    AccessOptions,
    CharacterOptions,
    LiveModelOptions,
    LiveSoundCardOptions,
    ModelOptions,
    OutputOptions,
    RecordOptions,
    RemoteOptions,
    ScreenOptions,
    ServeOptions,
)
from personaplex_cli.screen.screens import ProgressScreen

if TYPE_CHECKING:
    from personaplex_cli.conversation import Engine


def run(
    *,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Recordings; - reads a wav from stdin.")],
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="A wav, a folder, or - for stdout.", show_default="INPUT.answer.wav"),
    ] = None,
    character: CharacterOptions,
    output: OutputOptions,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per event on stdout.")] = False,
    remote: RemoteOptions,
    model: ModelOptions,
    sampling: Sampling,
) -> None:
    """Answer recorded speech: the same conversation as live, frame by frame, with files."""
    from personaplex_cli.lookup import find_character
    from personaplex_cli.programs import run as program

    if as_json and out == program.STDOUT:
        raise UsageError("Standard output cannot carry both sound and JSON.", "Give -o FILE, or leave out --json.")
    who = find_character(character, sampling)
    check_address(remote)
    jobs = program.plan(inputs, out)
    program.check(jobs)
    with ProgressScreen(stderr()) as screen:
        listen = write_json_line if as_json else screen.show
        with closing(start(remote, model, who, listen, paced=True)) as engine:
            program.answer(engine, who, jobs, output, listen)


def chat(
    *,
    character: CharacterOptions,
    kept: RecordOptions,
    card: LiveSoundCardOptions,
    shown: ScreenOptions,
    remote: RemoteOptions,
    model: LiveModelOptions,
    sampling: Sampling,
) -> None:
    """Talk: microphone and speaker, both at once, like a phone call."""
    from personaplex_cli.lookup import find_character
    from personaplex_cli.programs.chat import Chat
    from personaplex_cli.screen.keys import Keys
    from personaplex_cli.screen.panel import screen_for
    from personaplex_cli.screen.screens import JsonLines, PlainLines, Screens
    from personaplex_cli.screen.theme import THEMES

    if shown.theme not in THEMES:
        raise unknown_name("theme", shown.theme, THEMES, f"Use {', '.join(THEMES)}.")
    who = find_character(character, sampling)
    check_address(remote)
    with ProgramStack() as stack:
        screens = [JsonLines(sys.stdout) if shown.json else screen_for(Console(), shown.theme, shown.verbose)]
        if shown.log_file:
            screens.append(PlainLines(Console(file=stack.enter_context(_log(shown.log_file)))))
        screen = stack.enter_context(Screens(screens))
        keys = stack.enter_context(Keys())
        talk = Chat(partial(start, remote, model, who, screen.show), who, card, kept.record, screen.show)
        stack.ends(talk.end)
        talk.run(screen, keys)
    if talk.error:
        raise talk.error


def serve(*, access: AccessOptions, terms: ServeOptions, model: LiveModelOptions) -> None:
    """Serve conversations over the network: to Moshi's clients, robots, scripts and web pages."""
    from personaplex_cli.server.app import App

    with ProgramStack() as stack:
        screen = stack.enter_context(ProgressScreen(stderr()))
        server = App(model, terms, access, screen.show)
        stack.ends(lambda: server.ended)
        server.run()


def start(
    remote: RemoteOptions, model: ModelOptions, character: Character, listen: Listener, paced: bool = False
) -> "Engine":
    """The engine that answers: on a server, or here, where loading may take minutes. Raises what stopped it."""
    if remote.server:
        from personaplex_cli.client.engine import connect

        return connect(remote, listen, paced)
    from personaplex_cli.loader.load import load

    return load(model, listen, character)


def check_address(remote: RemoteOptions) -> None:
    """Raises UsageError for what is no address of a server: better before anything opens."""
    if remote.server:
        from personaplex_cli.client.address import server_url

        server_url(remote.server)


def _log(path: Path) -> IO[str]:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}).", "Choose another --log-file.") from error
