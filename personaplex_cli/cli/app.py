"""All commands as one Typer app. A new one is a function with its options as parameters, and its name in `COMMANDS`."""

from typing import Annotated, Any

import typer
import typer.core

from personaplex_cli import __version__
from personaplex_cli.cli.binding import bound, settable
from personaplex_cli.cli.lists import personas_app, voices
from personaplex_cli.cli.machine import bench, devices, doctor, download
from personaplex_cli.cli.talk import chat, run, serve
from personaplex_cli.errors import UsageError
from personaplex_cli.library.settings import config_path, default_map, load_dotenv_file

COMMANDS = (run, chat, serve, bench, devices, doctor, download, voices)  # as help lists them


class Commands(typer.core.TyperGroup):
    """Typer would end the process by itself for these two; `main.program` has more to say."""

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt as error:
            raise Interrupted from error
        except BrokenPipeError as error:
            raise ReaderGone from error


class Interrupted(Exception):
    """The user pressed Ctrl-C."""


class ReaderGone(Exception):
    """The program that reads our output has seen enough."""


app = typer.Typer(
    name="personaplex",
    cls=Commands,
    help="Talk with NVIDIA's PersonaPlex-7B, a model that listens and speaks at the same time.",
    epilog="Exit codes: 0 ok, 1 bug, 2 usage, 3 model, 4 audio, 5 GPU or memory, 6 network, 130 Ctrl-C.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command()(bound(command))
app.add_typer(personas_app, name="personas")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"personaplex {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    try:
        load_dotenv_file()
        context.default_map = default_map(config_path(), settable(context.command))
    except UsageError:
        if context.invoked_subcommand != "doctor":  # which reports it among the rest
            raise
