"""The commands that hold conversations: with recordings, with a microphone, over the network.

Each is a function with its options as parameters, which `binding.bound` builds for it. What is slow to import is
imported in the function: `--help` must stay quick.
"""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, TextIO, cast

import typer
from rich.console import Console

from personaplex_cli.character import Character, Sampling
from personaplex_cli.cli.help import with_default
from personaplex_cli.cli.output import Output
from personaplex_cli.cli.terminal import JsonEvents, ProgramStack, write_json
from personaplex_cli.conversation import Engine
from personaplex_cli.errors import UsageError, either, unknown_name
from personaplex_cli.evaluation.benchmark import HIGHER, LOWER, TASKS
from personaplex_cli.events import Listener, Note, Phase, State
from personaplex_cli.options import (
    AccessOptions,
    BatchOptions,
    CharacterOptions,
    ChatOptions,
    ClusterOptions,
    EvalOptions,
    LiveModelOptions,
    LiveSoundCardOptions,
    ModelOptions,
    OutputOptions,
    RemoteOptions,
    ServeOptions,
    TaskCharacterOptions,
)
from personaplex_cli.screen.screens import JsonLines, PlainLines, ProgressScreen, Screen, Screens
from personaplex_cli.screen.tables import show_table
from personaplex_cli.screen.theme import THEMES, theme_for

ONE_BY_ONE = "A server answers recordings one after the other: --batch-size is for a model on this machine."


def run(
    context: typer.Context,
    *,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT", help="Recordings, folders or patterns; - reads from stdin.", show_default=False
        ),
    ] = None,
    listed: Annotated[
        str | None,
        typer.Option("--list", metavar="FILE", help="A file with more names, one per line.", show_default=False),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            help=with_default("A wav, a folder, or - for stdout.", "INPUT.answer.wav"),
            show_default=False,
        ),
    ] = None,
    character: CharacterOptions,
    output: OutputOptions,
    events: Annotated[bool, typer.Option("--json", help="One JSON line per event on stdout.")] = False,
    remote: RemoteOptions,
    model: ModelOptions,
    batch: BatchOptions,
    cluster: ClusterOptions,
    sampling: Sampling,
) -> None:
    """Answer recorded speech: the same conversation as live, frame by frame, with files."""
    from personaplex_cli.programs import cluster as machines
    from personaplex_cli.programs import jobs
    from personaplex_cli.programs import run as program

    if events and out == jobs.STDOUT:
        raise UsageError("Standard output cannot carry both sound and JSON.", "Give -o FILE, or leave out --json.")
    named = [*(inputs or ()), *(jobs.read_list(listed) if listed else ())]
    who = who_speaks(character, sampling, remote)
    start = starter(context, remote, model, who, paced=True, slots=batch.slots)
    prompt_file = (character.prompt or "")[1:] if (character.prompt or "").startswith("@") else None
    planned = jobs.plan(named, out, output, [each for each in (character.voice, prompt_file, listed) if each])
    if cluster.ray is not None:
        machines.check(planned, remote)
    with ProgressScreen(Console(stderr=True)) as screen:
        json_lines = JsonEvents()
        listen = json_lines if events else screen.show
        work = program.check(planned, out, output, listen)
        if output.asr and cluster.ray is None:  # downloaded before the model loads: better to fail now
            from personaplex_cli.library.whisper_files import find_whisper  # only here: it is slow to import

            find_whisper(output.asr, listen)
        try:
            if work.todo and cluster.ray is not None:
                machines.answer_all(cluster.ray, start, who, work, output, listen)
            elif work.todo:
                with closing(start(listen)) as engine:
                    program.answer_all(engine, who, work, output, listen)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(*work.kept) from stop
    jobs.conclude(work)
    json_lines.conclude()


def eval(
    context: typer.Context,
    *,
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="A data set: ROOT/1/input.wav and so on.", show_default=False)
    ],
    task: Annotated[
        str,
        typer.Option("--task", help=f"{either(TASKS)}.", show_default=False),
    ] = "",
    options: EvalOptions,
    as_json: Annotated[bool, typer.Option("--json", help="What eval.json has, on standard output.")] = False,
    character: TaskCharacterOptions,
    model: ModelOptions,
    batch: BatchOptions,
    sampling: Sampling,
) -> None:
    """Measure turn-taking with Full-Duplex-Bench: answer its recordings, and score these answers or anyone's."""
    from personaplex_cli.programs import evaluate as program

    evaluation = program.prepare(root, task, options)
    with ProgressScreen(Console(stderr=True)) as screen:
        failed = []
        if options.run:
            remote = RemoteOptions()
            who = who_speaks(character.for_task(evaluation.task.prompt), sampling, remote)
            start = starter(context, remote, model, who, paced=True, slots=batch.slots)
            work = evaluation.look_at(screen.show)
            try:
                if work.todo:
                    with closing(start(screen.show)) as engine:
                        evaluation.answer(engine, who, work, screen.show)
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(*work.kept) from stop
            failed = work.failures
        evaluation.score(screen.show, failed)
        evaluation.write(screen.show)
    report = evaluation.report()
    if as_json:
        write_json(report)
    else:
        console = Console()
        glyphs = theme_for(console).glyphs
        marks = {LOWER: glyphs.lower, HIGHER: glyphs.higher}
        titles = ["figure", "here", "published", "diff.", "by"]
        show_table(console, titles, program.rows(evaluation.task, evaluation.published, report["summary"], marks))
    evaluation.conclude()


def chat(
    context: typer.Context,
    *,
    character: CharacterOptions,
    card: LiveSoundCardOptions,
    options: ChatOptions,
    remote: RemoteOptions,
    model: LiveModelOptions,
    sampling: Sampling,
) -> None:
    """Talk: microphone and speaker, both at once, like a phone call.

    `personaplex talk` is the same.
    """
    from personaplex_cli.programs.chat import Chat
    from personaplex_cli.programs.favourites import find_favourites, read_ahead
    from personaplex_cli.screen.keys import Keys
    from personaplex_cli.screen.panel import screen_for

    if options.theme not in THEMES:
        raise unknown_name("theme", options.theme, THEMES, f"Use {either(THEMES)}.")
    who = who_speaks(character, sampling, remote)
    start = starter(context, remote, model, who, paced=False)
    with ProgramStack() as stack:
        keys = stack.enter_context(Keys())
        shown = JsonLines(sys.stdout) if options.json else screen_for(Console(), keys, options.theme, options.verbose)
        screens: list[Screen] = [shown]
        if options.log_file:
            log = Output(stack.enter_context(_log(options.log_file)), lambda error: shown.show(_lost_log(error)))
            screens.append(PlainLines(Console(file=cast(TextIO, log))))
        screen = stack.enter_context(Screens(screens))
        favourites = find_favourites(options.favourites, who.sampling, screen.show, _check_of(remote))

        def start_ready() -> Engine:
            engine = start(screen.show)
            if not remote.server:
                read_ahead(engine, favourites, screen.show)
            return engine

        talk = Chat(start_ready, who, card, options.record, screen.show, favourites, options.asr)
        stack.ends(talk.end)
        talk.run(screen, keys)
    if talk.error:
        raise talk.error


def serve(*, access: AccessOptions, options: ServeOptions, model: LiveModelOptions, batch: BatchOptions) -> None:
    """Serve conversations over the network: to Moshi's clients, robots, scripts and web pages."""
    from personaplex_cli.server.app import App

    with ProgramStack() as stack:
        screen = stack.enter_context(ProgressScreen(Console(stderr=True)))
        server = App(model, options, access, screen.show, batch.slots)
        stack.ends(lambda: server.ended)
        server.run()


def who_speaks(options: CharacterOptions, sampling: Sampling, remote: RemoteOptions) -> Character:
    """Who speaks. A model here gives all conversations of a program the same seed; a server draws its own."""
    from personaplex_cli.lookup import find_character

    character = find_character(options, sampling)
    return character if remote.server else character.seeded()


def starter(
    context: typer.Context,
    remote: RemoteOptions,
    model: ModelOptions,
    who: Character,
    paced: bool,
    slots: int | None = 1,
) -> Callable[[Listener], Engine]:
    """What starts the engine that answers: on a server, or here, where loading may take minutes.

    Raises UsageError at once for a server that cannot be: better before anything opens.
    """
    if remote.server:
        from personaplex_cli.cli.trust import bound_to_source
        from personaplex_cli.client.engine import connect

        remote, notes = bound_to_source(context, remote)
        connect(remote)  # dials nothing yet

        def connect_there(listen: Listener) -> Engine:
            for each in [*notes, *([ONE_BY_ONE] if slots != 1 else [])]:
                listen(Note(each))
            return connect(remote, listen, paced)

        return connect_there

    def load_here(listen: Listener) -> Engine:
        listen(State(Phase.STARTING, "PyTorch"))
        from personaplex_cli.loader.load import load

        return load(model, listen, who, slots)

    return load_here


def _check_of(remote: RemoteOptions) -> Callable[[Character], object]:
    """What raises UsageError for a character that no server can be asked for, if there is one."""
    if not remote.server:
        return lambda character: None
    from personaplex_cli.client.engine import request_for

    return request_for


def _lost_log(error: OSError) -> Note:
    return Note(f"The log file cannot be written any more ({error.strerror}). The talk goes on.")


def _log(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}).", "Choose another --log-file.") from error
