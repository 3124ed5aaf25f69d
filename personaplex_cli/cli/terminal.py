"""What all commands do to the terminal: errors and tables on it, and the way out when a thread is busy."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from personaplex_cli.events import Event, as_json
from personaplex_cli.screen.tables import show_table

INTERRUPTED = 130


def stderr() -> Console:
    return Console(stderr=True)


def complain(what: str, hint: str = "", debug: bool = False) -> None:
    console = stderr()
    if debug:
        console.print_exception()
    console.print(f"[bold red]{escape(what)}[/]", highlight=False, soft_wrap=True)
    if hint:
        console.print(escape(hint), highlight=False, soft_wrap=True)


def write_json_line(event: Event) -> None:
    print(json.dumps(as_json(event), ensure_ascii=False), flush=True)


def show_list(titles: Sequence[str], rows: Sequence[Sequence[str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps([dict(zip(titles, row, strict=True)) for row in rows], ensure_ascii=False, indent=1))
    else:
        show_table(Console(), titles, rows)


class ProgramStack(ExitStack):
    """An ExitStack for a program with a thread that may be deaf because it loads.

    What `ends` was given is called first, while the screen is still there. If that did not end the thread, or Ctrl-C
    came again meanwhile, the process ends once all is closed: the terminal is as it was, nothing is half written.
    """

    _ended = True

    def ends(self, end: Callable[[], bool]) -> None:
        """`end` ends the program; it returns False if a thread goes on."""
        self._ended = False
        self.callback(self._end, end)

    def _end(self, end: Callable[[], bool]) -> None:
        self._ended = end()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> bool | None:
        try:
            return super().__exit__(kind, error, at)
        finally:
            if not self._ended:
                complain("Stopped.")
                os._exit(INTERRUPTED if sys.exc_info()[0] else 0)
