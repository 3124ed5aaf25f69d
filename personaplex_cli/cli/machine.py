"""The commands about this machine and what is on it: its speed, sound devices, health, models, voices, personas."""

import json
import os
import sys
from dataclasses import asdict, replace
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import typer.core
from rich.console import Console

from personaplex_cli.character import Sampling
from personaplex_cli.cli.binding import settable
from personaplex_cli.cli.terminal import complain, say, show_text, write_json
from personaplex_cli.events import Note
from personaplex_cli.options import (
    DEFAULT_MODEL,
    AsrOptions,
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
from personaplex_cli.screen.tables import show_findings, show_table, show_verdict

MAX_TOKEN = 1000  # characters
if TYPE_CHECKING:
    from personaplex_cli.engine.engine import LocalEngine

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


def bench(
    *,
    recording: Annotated[
        Path | None,
        typer.Argument(
            metavar="INPUT", help="A recording for the model to hear, instead of silence.", show_default=False
        ),
    ] = None,
    options: BenchOptions,
    who: VoiceOptions,
    model: ModelOptions,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line on standard output.")] = False,
) -> None:
    """Measure how fast this machine answers: a table and a verdict, and a JSON line where stdout is no terminal."""
    from personaplex_cli.audio.recording import read_recording
    from personaplex_cli.lookup import find_character
    from personaplex_cli.programs import bench as program

    character = find_character(CharacterOptions(who.voice, who.persona), Sampling(seed=0))
    sound = read_recording(recording) if recording else SILENT_FRAME
    with ProgressScreen(Console(stderr=True)) as screen:
        from personaplex_cli.loader.load import NOISE_VOICE, load_cold, load_random

        if options.random_weights:
            character = replace(character, sound=NOISE_VOICE)
        load = load_random if options.random_weights else load_cold

        def start(slots: int) -> "LocalEngine":
            return load(model, screen.show, slots=slots)

        report = program.measure(start, character, sound, options, screen.show)
    report["model"] = "random weights of the 7B's sizes" if options.random_weights else model.model
    rows = [[name, *(f"{value:.2f}" for value in stage.values())] for name, stage in report["milliseconds"].items()]
    lines = as_json or not sys.stdout.isatty()
    console = Console(stderr=lines)
    show_table(console, ["ms", "p50", "p95", "p99.9", "max"], rows)
    if report["batches"]:
        figures = ("size", "p50", "p95", "in_real_time")
        batches = [[f"{each[name]:.{int(name != 'size')}f}" for name in figures] for each in report["batches"]]
        show_table(console, ["at once", "p50", "p95", "in real time"], batches)
    show_verdict(console, *program.verdict(report))
    if lines:
        print(json.dumps(report))


def devices(
    *,
    test: Annotated[bool, typer.Option("--test", help="Play a tone and show the level of the microphone.")] = False,
    card: SoundCardOptions,
    as_json: Json = False,
) -> None:
    """List this machine's sound devices; * marks the system's own choice."""
    from personaplex_cli.audio.devices import check_devices
    from personaplex_cli.audio.devices import devices as all_devices
    from personaplex_cli.audio.soundcard import try_card

    if test:
        check_devices(card)
        with ProgressScreen(Console(stderr=True)) as screen:
            screen.show(Note("You should hear a tone, and see the bar move when you speak."))
            loudest = max(map(screen.level, try_card(card, screen.show, seconds=5.0)))
        print(f"The microphone's loudest moment was {loudest:.0f} dBFS.")
        return
    listed = all_devices()
    if not listed:
        complain("This machine has no sound devices.")
    if as_json:
        write_json([asdict(each) for each in listed])
        return
    rows = []
    for each in listed:
        inputs = f"{each.inputs}{'*' * each.is_default_input}"
        outputs = f"{each.outputs}{'*' * each.is_default_output}"
        rows.append([str(each.index), each.name, each.host_api, inputs, outputs, str(each.default_rate)])
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

    with ProgressScreen(Console(stderr=True)) as screen:
        findings = program.examine(model, card, settable(context.find_root().command), sound, screen.show)
    findings = program.by_urgency(findings)
    kind, sentence = program.verdict(findings, model.model_name)
    if as_json:
        write_json(program.report(findings) | {"verdict": sentence})
    else:
        show_findings(Console(), findings)
        # A line on stdout is a finding; where no person reads it, the verdict goes beside it.
        show_verdict(Console(stderr=not sys.stdout.isatty()), kind, sentence)
    raise typer.Exit(program.exit_code(findings))


def download(*, model: ModelFilesOptions, words: AsrOptions) -> None:
    """Fetch the model once; everything else then works without a network. Damaged files are downloaded again."""
    from personaplex_cli.library.weights import voice_names
    from personaplex_cli.library.whisper_files import find_whisper
    from personaplex_cli.loader.find import find_files

    with ProgressScreen(Console(stderr=True)) as screen:
        try:
            if words.asr:
                find_whisper(words.asr, screen.show)
            files = find_files(model.model, model.revision, screen.show, verify=True)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("What has arrived is kept; the next download continues there.") from stop
        screen.show(Note(f"The model is here, with {len(voice_names(files))} voices."))
    print(files.folder)


def login() -> None:
    """Store your Hugging Face token, which the model's licence asks for: in one step, as `hf auth login` does.

    The token is asked for and not shown, or read from standard input. Make one at https://huggingface.co/settings/tokens.
    """
    from personaplex_cli.library.login import login as log_in

    is_terminal = sys.stdin.isatty()
    token = getpass("Hugging Face token (it is not shown): ") if is_terminal else sys.stdin.readline(MAX_TOKEN)
    name, obstacle = log_in(token, DEFAULT_MODEL)
    show_text(f"Logged in at Hugging Face as {name}.")
    if any(map(os.environ.get, ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))):
        say("HF_TOKEN is set, and is used instead of the token that was just stored.")
    if obstacle:
        complain(str(obstacle), obstacle.hint)
