"""The commands about personas: what there is, and those of the user's own."""

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from personaplex_cli.character import Sampling
from personaplex_cli.cli.binding import bound
from personaplex_cli.cli.completion import completer
from personaplex_cli.cli.help import Command, ShownByName, with_default
from personaplex_cli.cli.replays import EXAMPLE
from personaplex_cli.cli.talk import starter, who_speaks
from personaplex_cli.cli.terminal import agreed, check_can_edit, edit_file, left_out, say, show_list, show_text
from personaplex_cli.errors import UsageError
from personaplex_cli.events import Event, Finished, Note, ignore
from personaplex_cli.library import catalog
from personaplex_cli.options import CharacterOptions, ModelFilesOptions, ModelOptions, OutputOptions, RemoteOptions
from personaplex_cli.screen.screens import ProgressScreen
from personaplex_cli.screen.tables import show_findings

TAIL = 4.0  # seconds of silence after a question, in which it is answered
MAX_TEXT = 1_000_000  # characters
Name = Annotated[str, typer.Argument(help="A name from `personaplex personas`.", autocompletion=completer("persona"))]

personas_app = typer.Typer(
    cls=ShownByName, help="List the personas, or write, check and try your own.", invoke_without_command=True
)


@personas_app.callback()
def personas(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False
) -> None:
    if context.invoked_subcommand is None:
        found = catalog.personas(left_out)
        listed = [(persona.name, persona.description, persona.voice) for persona in found]
        show_list(["name", "description", "voice"], listed, as_json)


@personas_app.command("show", cls=Command)
def show_persona(name: Name) -> None:
    """Show one persona: its voice and its whole prompt."""
    persona = catalog.find_persona(name)
    head = ": ".join(filter(None, (persona.name, persona.description)))
    show_text(f"{head}\nvoice: {persona.voice}\nfile: {persona.path}\n\n{persona.prompt}")


def new_persona(
    *,
    name: Annotated[str, typer.Argument(help="What to call the persona.")],
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help=with_default("Its text; @FILE reads it.", "stdin, or your editor"),
            show_default=False,
        ),
    ] = None,
    voice: Annotated[
        str,
        typer.Option(
            "-v", "--voice", help="Its voice: a name, or a sample of speech.", autocompletion=completer("voice")
        ),
    ] = catalog.DEFAULT_VOICE,
    description: Annotated[str, typer.Option("--description", help="A few words for the list.")] = "",
    model: ModelFilesOptions,
) -> None:
    """Write a persona of your own, and check it. In a terminal without --prompt your $EDITOR opens."""
    from personaplex_cli.lookup import read_prompt
    from personaplex_cli.programs import personas as program

    path, speaks = program.new_path(name), program.voice_for(voice)
    if prompt is not None:
        text: str | None = read_prompt(prompt)
    else:
        text = None if sys.stdin.isatty() else sys.stdin.read(MAX_TEXT)
    if text is None:
        check_can_edit(f"Run it in one, or give its text: personaplex personas new {name} --prompt TEXT")
        program.write(path, program.template(speaks, description))
        if not _edited(path, is_new=True):
            raise UsageError("Nothing was written.", f"Or give its text: personaplex personas new {name} --prompt TEXT")
    elif text.strip():
        program.write(path, program.described(text, speaks, description))
    else:
        raise UsageError("There is no text for the persona.", "Give --prompt TEXT, or write it to standard input.")
    _check([path.stem], model, "Added")


personas_app.command("new", cls=Command)(bound(new_persona))


def edit_persona(*, name: Name, model: ModelFilesOptions) -> None:
    """Change a persona in your $EDITOR, and check it. One that ships is copied first: your own wins over it."""
    from personaplex_cli.programs import personas as program

    check_can_edit(f"Run it in one, or read it: personaplex personas show {name}")
    path, copied = program.own_copy(name)
    if copied:
        say(f"Copied to {path}: your own wins over the one that ships.")
    if not _edited(path, is_new=copied):
        say(f"Nothing was changed{', and no copy is kept' if copied else ''}.")
        return
    _check([path.stem], model, "Changed")


personas_app.command("edit", cls=Command)(bound(edit_persona))


def check_personas(
    *,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Which ones; your own, if none is named.",
            show_default=False,
            autocompletion=completer("persona"),
        ),
    ] = None,
    model: ModelFilesOptions,
) -> None:
    """Count how much of the model's memory a persona takes, and see whether its prompt and voice will do.

    The exit code is 0 if a conversation can be held with each, warnings or not, else that of the first that is wrong.
    """
    from personaplex_cli.programs import personas as program

    if not names and not (names := [path.stem for path in program.own()]):
        say("There are no personas of your own yet: `personaplex personas new NAME` writes one.")
        return
    _check(names, model)


personas_app.command("check", cls=Command)(bound(check_personas))


def try_persona(
    context: typer.Context,
    *,
    name: Name,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION", help="A recording to answer, instead of the built-in one.", show_default=False
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help=with_default("A wav for the answer.", "none"), show_default=False),
    ] = None,
    remote: RemoteOptions,
    model: ModelOptions,
) -> None:
    """Let a persona answer a recorded question, and print what it said."""
    from personaplex_cli.programs import jobs
    from personaplex_cli.programs import run as program

    who = who_speaks(CharacterOptions(persona=name), Sampling(), remote)
    start = starter(context, remote, model, who, paced=True)
    asked = question or str(EXAMPLE / "conversation.opus")  # both sides of a talk; the user is on the left
    output = OutputOptions(transcript=False, tail=TAIL if question else 0.0, channel=None if question else "left")
    said: list[str] = []
    with TemporaryDirectory() as scratch, ProgressScreen(Console(stderr=True)) as screen:

        def listen(event: Event) -> None:
            if isinstance(event, Finished):
                said.append(event.text)
            else:
                screen.show(event)

        target = out or str(Path(scratch) / "answer.wav")
        work = program.check(jobs.plan([asked], target, output), target, output, listen if question else ignore)
        with closing(start(listen)) as engine:
            program.answer_all(engine, who, work, output, listen)
        jobs.conclude(work)
        if out:
            screen.show(Note(f"Written: {out}"))
    show_text("\n".join(said))


personas_app.command("try", cls=Command)(bound(try_persona))


@personas_app.command("remove", cls=Command)
def remove_persona(
    name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to remove it.")] = False
) -> None:
    """Remove a persona of your own."""
    from personaplex_cli.programs import personas as program

    path = program.own_path(name)
    if not agreed(f"Remove the persona {path.stem}?", yes):
        raise UsageError(f"The persona {path.stem} is kept.")
    program.remove(path)
    show_text(f"Removed the persona {path.stem}.")


def _edited(path: Path, is_new: bool) -> bool:
    """Whether the user changed the file. A new one that was not is removed."""
    before = path.read_bytes()
    try:
        edit_file(path)
    finally:
        changed = path.is_file() and path.read_bytes() != before
        if is_new and not changed:
            path.unlink(missing_ok=True)
    return changed


def _check(names: Sequence[str], model: ModelFilesOptions, done: str = "") -> None:
    """Show what there is to say of these personas, and what was `done` to the one; ends the program if one is wrong."""
    from personaplex_cli.loader.prompt_size import scale_of
    from personaplex_cli.programs import personas as program

    notes: list[Event] = []
    findings = program.check(names, scale_of(model.model, model.revision, notes.append))
    code = program.exit_code(findings)
    show_findings(Console(), findings)
    with ProgressScreen(Console(stderr=True)) as screen:
        for note in notes:
            screen.show(note)
    if done:
        remedy = f"Change it: personaplex personas edit {names[0]}."
        talk = f"Talk with it: personaplex chat --persona {names[0]}."
        show_text(f"{done} the persona {names[0]}. {remedy if code else talk}")
    if code:
        raise typer.Exit(code)
