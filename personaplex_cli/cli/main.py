"""The program: all commands as one Typer app, and errors turned into words and exit codes.

No logic lives in `cli/`, and nothing slow is imported before a command needs it.
"""

import sys
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console

from personaplex_cli import __version__
from personaplex_cli.cli.binding import bound, nested, settable
from personaplex_cli.cli.help import Command, examples, plain
from personaplex_cli.cli.machine import bench, devices, doctor, download, login
from personaplex_cli.cli.output import ReaderLeft, drop, watched_streams
from personaplex_cli.cli.personas import personas_app
from personaplex_cli.cli.replays import duet, replay
from personaplex_cli.cli.talk import chat, eval, run, serve
from personaplex_cli.cli.terminal import end_as_by_ctrl_c, report, say, show_text, traces
from personaplex_cli.cli.voices import voices_app
from personaplex_cli.errors import PersonaplexError, UsageError
from personaplex_cli.library.settings import check_home, config_path, default_map, load_dotenv_file, working_folder

ALIASES = {"talk": "chat"}


class Stopped(Exception):
    """Ctrl-C, or a reader of our output that has seen enough, as the cause."""


class Commands(typer.core.TyperGroup):
    """All commands, also by the names in ALIASES."""

    def get_params(self, ctx: Any) -> Any:
        return plain(super().get_params(ctx))

    def resolve_command(self, context: Any, arguments: list[str]) -> Any:
        name, *rest = arguments
        return super().resolve_command(context, [ALIASES.get(name, name), *rest])

    def invoke(self, context: Any) -> Any:
        # Typer would end the process by itself for these two; `program` has more to say.
        try:
            return super().invoke(context)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise Stopped from error


app = typer.Typer(
    cls=Commands,
    help="Talk with NVIDIA's PersonaPlex-7B, a model that listens and speaks at the same time.",
    epilog="Exit codes: 0 ok, 1 bug, 2 usage, 3 model, 4 audio, 5 GPU or memory, 6 network, 130 Ctrl-C, 143 SIGTERM.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS: dict[str, tuple[Callable[..., None], ...]] = {  # as help lists them
    "Talk": (chat, run, serve, replay, duet, eval),
    "Set up": (login, download, doctor, devices, bench),
}
for panel, commands in PANELS.items():
    for command in commands:
        name = command.__name__
        app.command(cls=Command, epilog=examples(name), rich_help_panel=panel)(bound(command))
app.add_typer(voices_app, name="voices", epilog=examples("voices"), rich_help_panel="Choose")
app.add_typer(personas_app, name="personas", epilog=examples("personas"), rich_help_panel="Choose")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"personaplex {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[
        bool, typer.Option("-V", "--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    working_folder()
    check_home()
    try:
        context.obj = dotenv = load_dotenv_file()
        if dotenv.refused and context.invoked_subcommand != "doctor":  # which reports it among the rest
            say(f"{dotenv.path} may not set {', '.join(dotenv.refused)}; set it in the environment, if you want it.")
        if dotenv.unclear:
            lines = f"line{'s' * (len(dotenv.unclear) > 1)} {', '.join(map(str, dotenv.unclear[:10]))}"
            say(f"{dotenv.path} sets nothing in {lines}: write NAME=value.")
        context.default_map = nested(default_map(config_path(), settable(context.command)))
    except UsageError:
        if context.invoked_subcommand != "doctor":
            raise


def main() -> None:
    end_as_by_ctrl_c()
    sys.exit(program(sys.argv[1:]))


def program(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code. Every error ends here, as words on stderr."""
    debug = "--debug" in arguments
    with watched_streams(), traces(debug):
        return _exit_code(arguments, debug)


def _exit_code(arguments: Sequence[str], debug: bool) -> int:
    try:
        result = app(args=list(arguments), prog_name="personaplex", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except ReaderLeft:
        return 0
    except PersonaplexError as error:
        return report(error, debug)
    except (Stopped, KeyboardInterrupt, BrokenPipeError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, KeyboardInterrupt):
            return report(cause)
        drop(sys.stdout)
        return 0
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # Typer's own: a wrong option or argument
            said = StringIO()  # it quotes what was typed, or what a pattern found
            error.show(said)
            show_text(said.getvalue(), Console(stderr=True))
            return int(error.exit_code)
        return report(error, debug)
