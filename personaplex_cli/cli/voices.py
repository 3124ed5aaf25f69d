"""The commands about voices: what there is, and those of the user's own."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated
from unicodedata import normalize

import typer
from rich.console import Console

from personaplex_cli.cli.binding import bound
from personaplex_cli.cli.completion import completer
from personaplex_cli.cli.help import Command, ShownByName
from personaplex_cli.cli.terminal import agreed, left_out, say, show_text, write_json
from personaplex_cli.errors import UsageError
from personaplex_cli.library import catalog, own_voices
from personaplex_cli.library.catalog import Voice
from personaplex_cli.options import SpeakerOptions
from personaplex_cli.screen.tables import show_table

CONSENT = "Has the person who speaks in this recording agreed that you use the voice?"
LISTEN = "Please listen to it: one person should speak, without music. `personaplex voices play {}` plays it."

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Name = Annotated[str, typer.Argument(help="A name from `personaplex voices`.", autocompletion=completer("voice"))]

voices_app = typer.Typer(
    cls=ShownByName, help="List the voices, or add one from a recording.", invoke_without_command=True
)


@voices_app.callback()
def voices(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand is not None:
        return
    found = sorted(catalog.voices(left_out), key=lambda each: not catalog.is_own_voice(each))  # one's own first
    titles = ("name", "description", "persona")
    speakers = catalog.speakers()
    about = [_about(each, speakers) for each in found]
    if as_json:
        write_json(about)
    else:
        show_table(Console(), titles, [[str(each[title]) for title in titles] for each in about])


@voices_app.command("show", cls=Command)
def show_voice(name: Name, as_json: Json = False) -> None:
    """Show one voice: who speaks with it, and of one that you have added where it comes from."""
    about = _about(catalog.find_voice(name), catalog.speakers())
    if as_json:
        write_json([about])
    else:
        show_text("\n".join(f"{key.replace('_', ' ')}: {value}" for key, value in about.items() if value))


@voices_app.command("add", cls=Command)
def add_voice(
    name: Annotated[str, typer.Argument(help="What to call the voice.")],
    sample: Annotated[str, typer.Argument(help="A recording of up to ten minutes; - reads it from stdin.")],
    channel: Annotated[
        str | None,
        typer.Option(
            "--channel",
            help="Which channel to take: left, right or a number. [dim]\\[default: where the voice is][/dim]",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="The speaker has agreed: do not ask.")] = False,
) -> None:
    """Add a voice: the best 10 to 20 seconds of a recording of somebody who has agreed to it.

    It needs no model. The first conversation with the voice makes a `.pt` file of it, which fits that model alone.
    """
    from personaplex_cli.audio.voice_sample import choose_voice_sample
    from personaplex_cli.programs import voices as program

    name = normalize("NFC", name)
    program.check_new(name, sample)
    chosen = choose_voice_sample(sample, channel)
    for each in (f"Taken: {program.part(chosen)}.", *chosen.warnings):
        say(each)
    if not agreed(CONSENT, yes):
        raise UsageError("The voice is not added.", "Ask the speaker first.")
    program.add(name, chosen, sample, f"the speaker agrees, by {'--yes' if yes else 'the answer to the question'}")
    say(LISTEN.format(name))
    show_text(f"Added the voice {name}. Talk with it: personaplex chat --voice {name}.")


def play_voice(*, name: Name, speaker: SpeakerOptions) -> None:
    """Play the sample of a voice on the speaker."""
    from personaplex_cli.programs import voices as program

    program.play(name, speaker)


voices_app.command("play", cls=Command)(bound(play_voice))


@voices_app.command("remove", cls=Command)
def remove_voice(
    name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to remove it.")] = False
) -> None:
    """Remove a voice that you have added, with all that was made of it."""
    from personaplex_cli.programs import voices as program

    folder = program.added_folder(name)
    for persona in catalog.speakers().get(catalog.folded(folder.name), ()):
        say(f"The persona {persona} speaks with it, and could not be used any more.")
    if agreed(f"Remove the voice {folder.name}?", yes):
        own_voices.remove(folder)
        show_text(f"Removed the voice {folder.name}.")
    else:
        say(f"The voice {folder.name} is kept.")


def _about(voice: Voice, speakers: Mapping[str, list[str]]) -> dict[str, str | None]:
    """What is known of a voice, what matters most first; and of one that was added where it comes from."""
    return {
        "name": voice.name,
        "description": voice.description,
        "persona": ", ".join(speakers.get(catalog.folded(voice.name), ())),
        "source": voice.source,
        "licence": voice.licence,
        "path": str(voice.path) if voice.path else None,
        **(asdict(voice.added) if voice.added else {}),
    }
