"""The commands that list voices and personas."""

from typing import Annotated

import typer

from personaplex_cli.cli.completion import completer
from personaplex_cli.cli.terminal import show_list
from personaplex_cli.library import catalog

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]

personas_app = typer.Typer(help="List the personas.", invoke_without_command=True)


def voices(*, as_json: AsJson = False) -> None:
    """List the voices."""
    listed = [(voice.name, voice.description, str(voice.path or voice.source)) for voice in catalog.voices()]
    show_list(["name", "description", "source"], listed, as_json)


@personas_app.callback()
def personas(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        listed = [(persona.name, persona.description, persona.voice) for persona in catalog.personas()]
        show_list(["name", "description", "voice"], listed, as_json)


@personas_app.command("show")
def show_persona(
    name: Annotated[
        str, typer.Argument(help="A name from `personaplex personas`.", autocompletion=completer("persona"))
    ],
) -> None:
    """Show one persona: its voice and its whole prompt."""
    persona = catalog.find_persona(name)
    print(f"{persona.name}: {persona.description}\nvoice: {persona.voice}\nfile: {persona.path}\n\n{persona.prompt}")
