"""The command line: it parses, calls the program behind each command, and turns errors into words and exit codes.

No logic lives here, and nothing slow is imported before a command needs it.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.markup import escape

from personaplex_cli import __version__
from personaplex_cli.character import Sampling
from personaplex_cli.cli.binding import (
    ACCESS,
    SCREEN,
    SOUND,
    AsJson,
    AudioTemperature,
    AudioTopK,
    Device,
    DeviceRate,
    Force,
    Greedy,
    InputDevice,
    Insecure,
    Model,
    Offload,
    OutputDevice,
    PersonaName,
    Precision,
    PromptText,
    Revision,
    Seed,
    ServerUrl,
    TextTemperature,
    TextTopK,
    Token,
    VoiceName,
    option,
)
from personaplex_cli.errors import PersonaplexError, UsageError, unknown_name
from personaplex_cli.events import Event, Listener, Note, as_json
from personaplex_cli.library.catalog import DEFAULT_PERSONA, find_persona
from personaplex_cli.library.catalog import personas as all_personas
from personaplex_cli.library.catalog import voices as all_voices
from personaplex_cli.library.settings import config_path, default_map, load_dotenv_file
from personaplex_cli.library.weights import DEFAULT_MODEL
from personaplex_cli.samples import SILENT_FRAME
from personaplex_cli.screen.progress import ProgressScreen
from personaplex_cli.screen.tables import show_table

if TYPE_CHECKING:
    from personaplex_cli.audio.devices import CardChoice
    from personaplex_cli.client.address import Server
    from personaplex_cli.conversation import Agent
    from personaplex_cli.lookup import Character, Machine

INTERRUPTED = 130


class Commands(typer.core.TyperGroup):
    """Typer would end the process by itself for these two; `program` has more to say."""

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
    """Whoever read our output has seen enough."""


app = typer.Typer(
    name="personaplex",
    cls=Commands,
    help="TokenGenerator with NVIDIA's PersonaPlex-7B, a model that listens and speaks at the same time.",
    epilog="Exit codes: 0 ok, 1 bug, 2 usage, 3 model, 4 audio, 5 GPU or memory, 6 network, 130 Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
personas_app = typer.Typer(help="The personas there are.", invoke_without_command=True)
app.add_typer(personas_app, name="personas")


DEFAULTS = Sampling()


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
        context.default_map = default_map(config_path(), _settable(context.command))
    except UsageError:
        if context.invoked_subcommand != "doctor":  # who tells it among the rest
            raise


@app.command()
def run(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Recordings; - reads a wav from stdin.")],
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="A wav, a folder, or - for stdout.", show_default="INPUT.answer.wav"),
    ] = None,
    voice: VoiceName = None,
    persona: PersonaName = DEFAULT_PERSONA,
    prompt: PromptText = None,
    stereo: Annotated[bool, typer.Option("--stereo", help="Write you on the left, the agent on the right.")] = False,
    transcript: Annotated[bool, typer.Option(help="Write the words with their times beside the wav (.json).")] = True,
    srt: Annotated[bool, typer.Option("--srt", help="Write subtitles beside the wav (.srt).")] = False,
    tail: Annotated[float, option("tail", help="Seconds of silence to listen to after the recording.")] = 0.0,
    as_json_lines: Annotated[bool, typer.Option("--json", help="One JSON line per event on stdout.")] = False,
    server: ServerUrl = None,
    token: Token = None,
    insecure: Insecure = False,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    device: Device = "auto",
    precision: Precision = "auto",
    cpu_offload: Offload = False,
    seed: Seed = None,
    greedy: Greedy = False,
    audio_temperature: AudioTemperature = DEFAULTS.audio_temperature,
    audio_top_k: AudioTopK = DEFAULTS.audio_top_k,
    text_temperature: TextTemperature = DEFAULTS.text_temperature,
    text_top_k: TextTopK = DEFAULTS.text_top_k,
) -> None:
    """Answer recorded speech: the same conversation as live, frame by frame, with files."""
    from personaplex_cli.lookup import Machine, choose_character, fresh_seed
    from personaplex_cli.programs import run as program

    if as_json_lines and out == program.STDOUT:
        raise UsageError("Standard output cannot carry both sound and JSON.", "Give -o FILE, or leave --json.")
    chosen = fresh_seed() if seed is None else seed
    sampling = Sampling(audio_temperature, audio_top_k, text_temperature, text_top_k, greedy, chosen)
    character = choose_character(persona, prompt, voice, sampling)
    place = _server(server, token, insecure)
    keeping = program.OutputOptions(stereo, transcript, srt, tail)
    jobs = program.plan(inputs, out)
    program.check(jobs)
    machine = Machine(model, revision, device, precision, cpu_offload)
    with ProgressScreen(_stderr()) as screen:
        listen: Listener = _write_json_line if as_json_lines else screen.show
        with closing(_agent(place, machine, character, seed, listen, paced=True)) as agent:
            agent.start()
            program.answer(agent, jobs, keeping, listen)


@app.command()
def chat(
    voice: VoiceName = None,
    persona: PersonaName = DEFAULT_PERSONA,
    prompt: PromptText = None,
    record: Annotated[
        Path | None,
        option("record", help="Folder in which to keep both voices and the words.", show_default="nothing is kept"),
    ] = None,
    input_device: InputDevice = None,
    output_device: OutputDevice = None,
    device_rate: DeviceRate = None,
    echo_cancel: Annotated[
        bool,
        option(
            "echo_cancel",
            "--echo-cancel/--no-echo-cancel",
            group=SOUND,
            help="For loudspeakers: take the agent's voice out of the microphone.",
        ),
    ] = False,
    theme: Annotated[str, option("theme", group=SCREEN, help="auto, light, dark or none.")] = "auto",
    verbose: Annotated[bool, typer.Option("--verbose", rich_help_panel=SCREEN, help="Show more log lines.")] = False,
    log_file: Annotated[
        Path | None,
        option(
            "log_file",
            group=SCREEN,
            help="File that gets states, notes, losses and turns as lines.",
            show_default="none",
        ),
    ] = None,
    as_json_lines: Annotated[
        bool, typer.Option("--json", rich_help_panel=SCREEN, help="One JSON line per event on stdout, no panel.")
    ] = False,
    server: ServerUrl = None,
    token: Token = None,
    insecure: Insecure = False,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    device: Device = "auto",
    precision: Precision = "auto",
    cpu_offload: Offload = False,
    force: Force = False,
    seed: Seed = None,
    greedy: Greedy = False,
    audio_temperature: AudioTemperature = DEFAULTS.audio_temperature,
    audio_top_k: AudioTopK = DEFAULTS.audio_top_k,
    text_temperature: TextTemperature = DEFAULTS.text_temperature,
    text_top_k: TextTopK = DEFAULTS.text_top_k,
) -> None:
    """TokenGenerator: microphone and speaker, both at once, like a phone call."""
    from personaplex_cli.audio.devices import CardChoice
    from personaplex_cli.lookup import Machine, choose_character, fresh_seed
    from personaplex_cli.programs.chat import Chat
    from personaplex_cli.screen.keys import Keys
    from personaplex_cli.screen.panel import screen_for
    from personaplex_cli.screen.plain import JsonLines, PlainLines
    from personaplex_cli.screen.screen import Screens
    from personaplex_cli.screen.theme import THEMES

    if theme not in THEMES:
        raise unknown_name("theme", theme, THEMES, f"Use {', '.join(THEMES)}.")
    chosen = fresh_seed() if seed is None else seed
    sampling = Sampling(audio_temperature, audio_top_k, text_temperature, text_top_k, greedy, chosen)
    character = choose_character(persona, prompt, voice, sampling)
    place = _server(server, token, insecure)
    machine = Machine(model, revision, device, precision, cpu_offload, live=not force)
    choice = CardChoice(input_device, output_device, device_rate, echo_cancel)
    ended = True
    try:
        with ExitStack() as open_things:
            screens = [JsonLines(sys.stdout) if as_json_lines else screen_for(Console(), theme, verbose)]
            if log_file:
                screens.append(PlainLines(Console(file=open_things.enter_context(_log(log_file)))))
            screen = open_things.enter_context(Screens(screens))
            keys = open_things.enter_context(Keys())
            talk = Chat(_agent(place, machine, character, seed, screen.show), choice, record, screen.show)
            ended = False
            try:
                talk.run(screen, keys)
            finally:
                ended = talk.end()
    finally:
        if not ended:
            _end_at_once()
    if talk.error:
        raise talk.error


@app.command()
def serve(
    host: Annotated[str, option("host", help="The address to listen at; 0.0.0.0 for everybody.")] = "127.0.0.1",
    port: Annotated[int, option("port", help="0 takes any that is free.", min=0, max=65535)] = 8998,
    voice: VoiceName = None,
    persona: PersonaName = DEFAULT_PERSONA,
    queue: Annotated[int, option("queue", help="How many may wait while one talks.", min=0, max=1000)] = 0,
    max_minutes: Annotated[
        float | None, option("max_minutes", help="How long one may talk.", min=0.01, show_default="no limit")
    ] = None,
    record: Annotated[
        Path | None,
        option("record", help="Folder in which to keep every conversation.", show_default="nothing is kept"),
    ] = None,
    token: Annotated[
        str | None, option("token", group=ACCESS, help="What clients must know to get in.", show_default="none")
    ] = None,
    ssl_cert: Annotated[
        Path | None, option("ssl_cert", group=ACCESS, help="Certificate, for https and wss.", show_default="none")
    ] = None,
    ssl_key: Annotated[
        Path | None, option("ssl_key", group=ACCESS, help="The certificate's key.", show_default="none")
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            "--origin",
            rich_help_panel=ACCESS,
            help="Another web page that may connect, as https://HOST; several times.",
            show_default="only our own",
        ),
    ] = None,
    static: Annotated[
        Path | None,
        option("static", group=ACCESS, help="Folder of another web client.", show_default="our own page"),
    ] = None,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    device: Device = "auto",
    precision: Precision = "auto",
    cpu_offload: Offload = False,
    force: Force = False,
) -> None:
    """Let others talk over the network: programs that speak Moshi's protocol, robots, web pages."""
    from personaplex_cli.lookup import Machine
    from personaplex_cli.server.app import Access, Server
    from personaplex_cli.server.house import Terms

    machine = Machine(model, revision, device, precision, cpu_offload, live=not force)
    terms = Terms(persona, voice, queue, max_minutes, record)
    door = Access(host, port, token, ssl_cert, ssl_key, tuple(origin or ()), static)
    ended = True
    try:
        with ProgressScreen(_stderr()) as screen:
            server = Server(machine, terms, door, screen.show)
            try:
                server.run()
            finally:
                ended = server.ended
    finally:
        if not ended:
            _end_at_once()


@app.command()
def bench(
    recording: Annotated[
        Path | None, typer.Argument(metavar="[INPUT]", help="What is heard.", show_default="silence")
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames of 80 ms to measure.", min=1, max=100_000)] = 250,
    context_fill: Annotated[
        int, typer.Option(help="Positions of context that are filled before measuring.", min=0, max=100_000)
    ] = 0,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="The real sizes without any download: speed only.")
    ] = False,
    voice: VoiceName = None,
    persona: PersonaName = DEFAULT_PERSONA,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    device: Device = "auto",
    precision: Precision = "auto",
    cpu_offload: Offload = False,
) -> None:
    """Measure how fast this machine answers: a table on stderr, one JSON line on stdout."""
    from personaplex_cli.audio.recording import read_recording
    from personaplex_cli.lookup import Machine, choose_character, random_start, start_engine
    from personaplex_cli.programs import bench as program

    character = choose_character(persona, None, voice, Sampling(seed=0))
    work = program.Work(read_recording(recording) if recording else SILENT_FRAME, frames, context_fill)
    machine = Machine(model, revision, device, precision, cpu_offload)
    with ProgressScreen(_stderr()) as screen:
        began = time.perf_counter()
        if random_weights:
            engine, spoken = random_start(machine, character, screen.show)
        else:
            engine, files = start_engine(machine, screen.show)
            spoken = character.prompt(files)
        report = program.measure(engine, spoken, work, time.perf_counter() - began, screen.show)
    report["model"] = "random weights of the 7B's sizes" if random_weights else model
    show_table(_stderr(), ["ms", "p50", "p95", "p99.9", "max"], program.rows(report))
    print(json.dumps(report))


@app.command()
def devices(
    test: Annotated[bool, typer.Option("--test", help="Play a tone and show the level of the microphone.")] = False,
    input_device: InputDevice = None,
    output_device: OutputDevice = None,
    device_rate: DeviceRate = None,
    as_json: AsJson = False,
) -> None:
    """The sound devices of this machine; * marks the system's own choice."""
    from personaplex_cli.audio import devices as room

    if test:
        _test_card(room.CardChoice(input_device, output_device, device_rate))
        return
    listed = room.devices()
    if not listed:
        _complain("This machine has no sound devices.", "", debug=False)
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


@app.command()
def doctor(
    context: typer.Context,
    sound: Annotated[
        bool, typer.Option("--sound", help="Play chirps, and hear how late and how loud they return.")
    ] = False,
    input_device: InputDevice = None,
    output_device: OutputDevice = None,
    device_rate: DeviceRate = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, fit for a bug report.")] = False,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """What is right and wrong on this machine. Nothing is downloaded or changed.

    The exit code is 0 if `chat` could work here, else that of the first thing that is wrong.
    """
    from personaplex_cli.audio.devices import CardChoice
    from personaplex_cli.lookup import Machine
    from personaplex_cli.programs import doctor as program
    from personaplex_cli.screen.findings import show_findings

    assert context.parent is not None
    options = program.Options(_settable(context.parent.command))
    machine = Machine(model, revision, device, precision, cpu_offload=False)
    choice = CardChoice(input_device, output_device, device_rate)
    with ProgressScreen(_stderr()) as screen:
        findings = program.examine(machine, choice, options, sound, screen.show)
    if as_json:
        print(json.dumps(program.report(findings), ensure_ascii=False, indent=1))
    else:
        show_findings(Console(), program.rows(findings))
    raise typer.Exit(program.exit_code(findings))


@app.command()
def download(model: Model = DEFAULT_MODEL, revision: Revision = None) -> None:
    """Fetch the model once; everything else then works without a network."""
    from personaplex_cli.library.weights import voice_names
    from personaplex_cli.lookup import find_files

    with ProgressScreen(_stderr()) as screen:
        files = find_files(model, revision, screen.show)
        screen.show(Note(f"The model is here, with {len(voice_names(files))} voices."))
    print(files.folder)


@app.command()
def voices(as_json: AsJson = False) -> None:
    """The voices there are."""
    listed = [(voice.name, voice.description, str(voice.path or voice.source)) for voice in all_voices()]
    _show(["name", "description", "source"], listed, as_json)


@personas_app.callback()
def personas(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        listed = [(persona.name, persona.description, persona.voice) for persona in all_personas()]
        _show(["name", "description", "voice"], listed, as_json)


@personas_app.command("show")
def show_persona(name: Annotated[str, typer.Argument(help="A name from `personaplex personas`.")]) -> None:
    """One persona: its voice and its whole prompt."""
    persona = find_persona(name)
    print(f"{persona.name}: {persona.description}\nvoice: {persona.voice}\nfile: {persona.path}\n\n{persona.prompt}")


def main() -> None:
    """The program `personaplex`."""
    sys.exit(program(sys.argv[1:]))


def program(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code. Every error ends here, as words on stderr."""
    debug = "--debug" in arguments
    try:
        result = app(args=list(arguments), prog_name="personaplex", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except PersonaplexError as error:
        _complain(str(error), error.hint, debug)
        return error.exit_code
    except (Interrupted, KeyboardInterrupt):
        _complain("Stopped. What was finished is kept.", "", debug=False)
        return INTERRUPTED
    except (ReaderGone, BrokenPipeError):
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # Typer's own: a wrong option or argument
            error.show(sys.stderr)
            return int(error.exit_code)
        _complain(f"This is a bug: {type(error).__name__}: {error}", "See it whole with `personaplex --debug`.", debug)
        return PersonaplexError.exit_code


def _server(url: str | None, token: str | None, insecure: bool) -> "Server | None":
    """The server to talk with; None for a model here."""
    if not url:
        return None
    from personaplex_cli.client.address import Server, server_url

    return Server(server_url(url), token, insecure)


def _agent(
    place: "Server | None",
    machine: "Machine",
    character: "Character",
    seed: int | None,
    listen: Listener,
    paced: bool = False,
) -> "Agent":
    """Whoever answers: on a server, or here. `seed` is the one that the user wants, if there is one."""
    if place is None:
        from personaplex_cli.lookup import LocalAgent

        return LocalAgent(machine, character, listen)
    from personaplex_cli.client.engine import RemoteAgent

    return RemoteAgent(place, character, seed, listen, paced)


def _end_at_once() -> None:
    """A thread still loads and hears nothing, or Ctrl-C came again. The terminal is as it was, nothing half written."""
    _complain("Stopped.", "", debug=False)
    os._exit(INTERRUPTED if sys.exc_info()[0] else 0)


def _complain(what: str, hint: str, debug: bool) -> None:
    console = _stderr()
    if debug:
        console.print_exception()
    console.print(f"[bold red]{escape(what)}[/]", highlight=False, soft_wrap=True)
    if hint:
        console.print(escape(hint), highlight=False, soft_wrap=True)


def _log(path: Path) -> IO[str]:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}).", "Choose another --log-file.") from error


def _test_card(choice: "CardChoice") -> None:
    """A tone on the speaker, a bar for the microphone, for five seconds."""
    from personaplex_cli.audio.soundcard import try_card

    with ProgressScreen(_stderr()) as screen:
        screen.show(Note("You should hear a tone, and see the bar move when you speak."))
        loudest = max(map(screen.level, try_card(choice, screen.show, seconds=5.0)))
    print(f"The microphone's loudest moment was {loudest:.0f} dBFS.")


def _stderr() -> Console:
    return Console(stderr=True)


def _write_json_line(event: Event) -> None:
    print(json.dumps(as_json(event), ensure_ascii=False), flush=True)


def _show(titles: Sequence[str], rows: Sequence[Sequence[str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps([dict(zip(titles, row, strict=True)) for row in rows], ensure_ascii=False, indent=1))
    else:
        show_table(Console(), titles, rows)


def _settable(group: Any) -> dict[str, set[str]]:
    """The options of each command that config.toml may set: those that an environment variable may set too."""
    return {
        name: {each.name for each in command.params if getattr(each, "envvar", None)}
        for name, command in group.commands.items()
    }
