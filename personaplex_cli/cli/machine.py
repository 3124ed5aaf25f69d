"""The commands about this machine: how fast it is, its sound devices, what is wrong, the model on its disk."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from personaplex_cli.character import Sampling
from personaplex_cli.cli.binding import settable
from personaplex_cli.cli.lists import AsJson
from personaplex_cli.cli.terminal import complain, stderr
from personaplex_cli.events import Note
from personaplex_cli.options import (
    BenchOptions,
    CharacterOptions,
    DeviceOptions,
    ModelFilesOptions,
    ModelOptions,
    SoundCardOptions,
    VoiceOptions,
)
from personaplex_cli.samples import SILENT_FRAME
from personaplex_cli.screen.screens import ProgressScreen
from personaplex_cli.screen.tables import show_table


def bench(
    *,
    recording: Annotated[
        Path | None,
        typer.Argument(metavar="[INPUT]", help="A recording for the model to hear.", show_default="silence"),
    ] = None,
    work: BenchOptions,
    who: VoiceOptions,
    model: ModelOptions,
) -> None:
    """Measure how fast this machine answers: a table on stderr, one JSON line on stdout."""
    from personaplex_cli.audio.recording import read_recording
    from personaplex_cli.lookup import find_character
    from personaplex_cli.programs import bench as program

    character = find_character(CharacterOptions(who.voice, who.persona), Sampling(seed=0))
    sound = read_recording(recording) if recording else SILENT_FRAME
    with ProgressScreen(stderr()) as screen:
        from personaplex_cli.loader.load import NOISE_VOICE, load_cold, load_random

        if work.random_weights:
            character, start = replace(character, sound=NOISE_VOICE), partial(load_random, model, screen.show)
        else:
            start = partial(load_cold, model, screen.show)
        report = program.measure(start, character, sound, work, screen.show)
    report["model"] = "random weights of the 7B's sizes" if work.random_weights else model.model
    rows = [(name, *(f"{value:.2f}" for value in stage.values())) for name, stage in report["milliseconds"].items()]
    show_table(stderr(), ["ms", "p50", "p95", "p99.9", "max"], rows)
    print(json.dumps(report))


def devices(
    *,
    test: Annotated[bool, typer.Option("--test", help="Play a tone and show the level of the microphone.")] = False,
    card: SoundCardOptions,
    as_json: AsJson = False,
) -> None:
    """List this machine's sound devices; * marks the system's own choice."""
    from personaplex_cli.audio.devices import devices as all_devices

    if test:
        _test(card)
        return
    listed = all_devices()
    if not listed:
        complain("This machine has no sound devices.")
    if as_json:
        print(json.dumps([asdict(each) for each in listed], ensure_ascii=False, indent=1))
        return
    rows = [
        (
            str(each.index),
            each.name,
            each.host_api,
            f"{each.inputs}{'*' if each.is_default_input else ''}",
            f"{each.outputs}{'*' if each.is_default_output else ''}",
            str(each.default_rate),
        )
        for each in listed
    ]
    show_table(Console(), ["index", "name", "system", "inputs", "outputs", "rate"], rows)


def doctor(
    context: typer.Context,
    *,
    sound: Annotated[
        bool, typer.Option("--sound", help="Play chirps, and hear how late and how loud they return.")
    ] = False,
    card: SoundCardOptions,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, fit for a bug report.")] = False,
    model: DeviceOptions,
) -> None:
    """Check what works on this machine and what does not. Nothing is downloaded or changed.

    The exit code is 0 if `chat` could work here, else that of the first thing that is wrong.
    """
    from personaplex_cli.programs import doctor as program
    from personaplex_cli.screen.tables import show_findings

    assert context.parent is not None
    with ProgressScreen(stderr()) as screen:
        findings = program.examine(model, card, settable(context.parent.command), sound, screen.show)
    if as_json:
        print(json.dumps(program.report(findings), ensure_ascii=False, indent=1))
    else:
        show_findings(Console(), findings)
    raise typer.Exit(program.exit_code(findings))


def download(*, model: ModelFilesOptions) -> None:
    """Fetch the model once; everything else then works without a network."""
    from personaplex_cli.library.weights import voice_names
    from personaplex_cli.loader.find import find_files

    with ProgressScreen(stderr()) as screen:
        files = find_files(model.model, model.revision, screen.show)
        screen.show(Note(f"The model is here, with {len(voice_names(files))} voices."))
    print(files.folder)


def _test(card: SoundCardOptions) -> None:
    """A tone on the speaker, a bar for the microphone, for five seconds."""
    from personaplex_cli.audio.soundcard import try_card

    with ProgressScreen(stderr()) as screen:
        screen.show(Note("You should hear a tone, and see the bar move when you speak."))
        loudest = max(map(screen.level, try_card(card, screen.show, seconds=5.0)))
    print(f"The microphone's loudest moment was {loudest:.0f} dBFS.")
