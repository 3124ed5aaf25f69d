"""What all commands do to the terminal: errors and lists on it, and the way out when a thread is busy."""

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from personaplex_cli.errors import OutputError, PersonaplexError, UsageError
from personaplex_cli.events import Event, Note, as_json
from personaplex_cli.screen.lines import in_lines
from personaplex_cli.screen.screens import ProgressScreen
from personaplex_cli.screen.tables import show_table
from personaplex_cli.screen.theme import theme_for

INTERRUPTED = 128 + signal.SIGINT  # by Ctrl-C; other signals have their own number, as shells count them
_ended_by: list[int] = []  # signals that had to become Ctrl-C


def complain(what: str, hint: str = "", debug: bool = False) -> None:
    console = Console(stderr=True)
    readable = theme_for(console, "none").readable  # a server, a hub or a file may have chosen some of the words
    with suppress(OSError):  # the window was closed
        if debug:
            show_text(traceback.format_exc(), console)
        console.print(Text(in_lines(readable(what), console), "bold red"), soft_wrap=True)
        if hint:
            console.print(Text(in_lines(readable(hint), console)), soft_wrap=True)


def report(error: BaseException, debug: bool = False) -> int:
    """Say what ended the program; returns the exit code."""
    match error:
        case PersonaplexError():
            complain(str(error), error.hint, debug)
            return error.exit_code
        case KeyboardInterrupt():
            complain(" ".join(["Stopped.", *map(str, error.args)]))
            return 128 + _ended_by[-1] if _ended_by else INTERRUPTED
    hint = "Run it with `personaplex --debug` to see where it comes from."
    complain(f"This is a bug: {type(error).__name__}: {error}", hint, debug)
    return PersonaplexError.exit_code


@contextmanager
def traces(shown: bool) -> Iterator[None]:
    """Show on stderr where the errors come from that a program survives, such as one client's of a server."""
    log, handler = logging.getLogger("personaplex_cli"), logging.StreamHandler()
    handler.setFormatter(_Readable())
    if shown:
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


class _Readable(logging.Formatter):
    """Some of the words may be a client's."""

    def format(self, record: logging.LogRecord) -> str:
        return _readable(super().format(record), Console(stderr=True))


def left_out(error: UsageError) -> None:
    """One broken file spoils no list: it is named on stderr, and its own name refuses it."""
    complain(f"Left out: {error}", error.hint)


def agreed(question: str, yes: bool) -> bool:
    """The answer to a question: `yes` of a script that knows it, else the user's, who is asked until it is one.

    Raises UsageError where there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Cannot ask without a terminal.", "If the answer is yes, give --yes.")
    while True:
        print(f"{theme_for(Console(), 'none').readable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline().strip().lower()
        if answer in ("y", "yes"):
            return True
        if answer in ("", "n", "no"):
            return False


def check_can_edit(remedy: str) -> None:
    """Raise UsageError where an editor could not be seen, or not be written in."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("Cannot open an editor without a terminal.", remedy)


def edit_file(path: Path) -> None:
    """Open a file in the user's editor, and wait until that ends. Raises UsageError if it fails."""
    usual = "notepad" if sys.platform == "win32" else "vi"
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR") or usual
    remedy = "Set EDITOR to one that works here."
    try:
        editor = subprocess.Popen([*shlex.split(named), str(path)])
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"The editor {named!r} cannot be started ({why}).", remedy) from error
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # from now on Ctrl-C is the editor's
    try:
        code = editor.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    if code:
        raise UsageError(f"The editor {named!r} has failed (exit code {code}).", remedy)


def say(text: str) -> None:
    """A sentence beside what a command prints."""
    with ProgressScreen(Console(stderr=True)) as screen:
        screen.show(Note(text))


def show_text(text: str, console: Console | None = None) -> None:
    """A text that somebody wrote, on stdout unless another console is given."""
    console = console or Console()
    print(_readable(text, console), file=console.file)


def _readable(text: str, console: Console) -> str:
    return "\n".join(map(theme_for(console, "none").readable, text.splitlines()))


def write_json(value: Any, indent: int | None = 1) -> None:
    # ASCII: any encoding of the stream can carry it, and odd names too, none of which drives a terminal.
    print(json.dumps(value, indent=indent), flush=True)


class JsonEvents:
    """A listener that writes events as lines of JSON. Where they cannot be written the work goes on: `lost` says so."""

    def __init__(self) -> None:
        self.lost: OutputError | None = None

    def __call__(self, event: Event) -> None:
        try:
            write_json(as_json(event), indent=None)
        except OutputError as error:
            self.lost = error

    def conclude(self) -> None:
        """Raise what was lost."""
        if self.lost:
            raise self.lost


def show_list(titles: Sequence[str], rows: Sequence[Sequence[str]], as_json: bool) -> None:
    if as_json:
        write_json([dict(zip(titles, row, strict=True)) for row in rows])
    else:
        show_table(Console(), titles, rows)


def end_as_by_ctrl_c() -> None:
    """Have SIGTERM, and SIGHUP of a window that is closed, take the way of Ctrl-C, which cleans up.

    What the parent ignores (nohup) stays ignored. Of a program that a script starts in the background that is SIGINT.
    """

    def end(number: int, _: object) -> None:
        _ended_by.append(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    for name in ("SIGTERM", "SIGHUP"):  # not all on Windows
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


class ProgramStack(ExitStack):
    """An ExitStack for a program with a thread that may be deaf because it loads.

    What `ends` was given is called first, while the screen is still there. If that did not end the thread, or Ctrl-C
    came again meanwhile, the process ends once all is closed: the terminal is as it was, nothing is half written.
    A window that is closed is reported by the system and by the shell: meanwhile the second report changes nothing.
    """

    _ended = True

    def ends(self, end: Callable[[], bool]) -> None:
        """`end` ends the program; it returns False if a thread goes on."""

        def stop() -> None:
            self._ended = end()

        self._ended = False
        self.callback(stop)

    def __exit__(self, *error: Any) -> bool | None:
        hang_up = getattr(signal, "SIGHUP", None)  # not on Windows
        before = signal.signal(hang_up, signal.SIG_IGN) if hang_up else None
        try:
            return super().__exit__(*error)
        finally:
            if not self._ended:
                leave(sys.exc_info()[1])
            if hang_up:
                signal.signal(hang_up, before)


def leave(failure: BaseException | None) -> NoReturn:
    """End the process although a thread goes on. Whatever comes meanwhile, such as a signal, changes nothing."""
    code = 0 if failure is None else PersonaplexError.exit_code
    try:
        if failure is None:
            complain("Stopped.")
        else:
            code = report(failure, "--debug" in sys.argv)
    finally:
        os._exit(code)
