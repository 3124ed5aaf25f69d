"""The live panel at the foot of a terminal: finished turns scroll into the terminal's own history above it.

What was said stays where the user can scroll to it. The panel itself is gone at the end.
"""

import io
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr
from dataclasses import replace
from typing import Any, Self

from rich.console import Console
from rich.text import Text

from personaplex_cli.events import Event, Note
from personaplex_cli.screen.drawing import View, draw
from personaplex_cli.screen.keys import Keys
from personaplex_cli.screen.lines import history_lines, name_cells
from personaplex_cli.screen.region import Region
from personaplex_cli.screen.screens import PlainLines, Screen
from personaplex_cli.screen.state import PanelState, Remark, written
from personaplex_cli.screen.theme import Theme, theme_for

STOP: Any = getattr(signal, "SIGTSTP", None)  # Ctrl-Z; Windows has none
ASKING_SECONDS = 0.15  # for the terminal to name its background; an answer that comes later is thrown away


def screen_for(console: Console, keys: Keys, theme: str = "auto", verbose: bool = False, unused: str = "") -> Screen:
    """The panel where one can be drawn, plain lines elsewhere, such as in the background of another program.

    `unused` are keys that the program has no use for.
    """
    drawable = console.is_terminal and console.is_interactive and not console.is_dumb_terminal
    if not drawable or console.legacy_windows or keys.in_background:
        return PlainLines(console)
    background = None if console.no_color or theme == "none" else keys.background(ASKING_SECONDS)
    return Panel(console, theme_for(console, theme, background), View(verbose=verbose, keys=keys.usable, unused=unused))


class Panel(Screen):
    """Draws events on a terminal between `with` and its end, whenever `refresh` is called."""

    def __init__(self, console: Console, theme: Theme, view: View) -> None:
        super().__init__()
        self._console = console
        self._theme = theme
        self._view = view
        self._state = PanelState()
        self._region = Region(console)
        self._open = ExitStack()
        self._stopping = False  # Ctrl-Z was pressed

    def press(self, key: str) -> bool:
        """Take `d` (details) and `?` (help)."""
        if key == "d":
            self._view = replace(self._view, details=not self._view.details, help=False)
        elif key == "?":
            self._view = replace(self._view, help=not self._view.help)
        return key in ("d", "?")

    def refresh(self, now: float) -> None:
        """Draw what has happened since the last time; nothing is written when nothing changed."""
        if self._stopping:
            self._stop()
        super().refresh(now)
        width, height = self._console.size
        if self._state.who:
            self._region.name(f"personaplex {self._theme.readable(self._state.who.persona)}")
        self._region.draw(draw(self._state, width, height, self._theme, now, self._view), self._history(width))

    def __enter__(self) -> Self:
        self._region.open()
        self._open.callback(self._region.close)
        # What libraries write there would tear the panel: it becomes notes.
        self._open.enter_context(redirect_stderr(_Notes(lambda line: self.show(Note(line)))))
        # Only the main thread may set signals; without this one Ctrl-Z leaves a torn panel and no cursor.
        if STOP and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(STOP, self._on_stop)
            self._open.callback(signal.signal, STOP, self._before)
        return self

    def __exit__(self, *_: object) -> None:
        with self._open:
            super().refresh(self._now)
            self._state.finish()
            if self._state.files:
                self._state.history.append(Remark(written(self._state.files)))
            self._region.draw([], self._history(self._console.width))

    def _take(self, event: Event, now: float) -> None:
        self._state.apply(event, now)

    def _history(self, width: int) -> list[Text]:
        """What is finished, and belongs above the panel from now on."""
        state, entries = self._state, list(self._state.history)
        state.history.clear()
        spoke = (entry.speaker for entry in entries if not isinstance(entry, Remark))
        names = name_cells(self._theme, state.you, state.agent, *spoke)
        return [line for entry in entries for line in history_lines(entry, width, names, self._theme)]

    def _on_stop(self, *_: object) -> None:
        self._stopping = True  # done by refresh, never in the middle of a drawing

    def _stop(self) -> None:
        """Ctrl-Z: leave the terminal clean, sleep until `fg`, draw again."""
        self._stopping = False
        self._region.close()
        signal.signal(STOP, self._before)
        signal.raise_signal(STOP)
        signal.signal(STOP, self._on_stop)
        self._region.open()


class _Notes(io.TextIOBase):
    """A stream whose lines are notes."""

    encoding = "utf-8"

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                self._note(line)
        return len(text)

    def fileno(self) -> int:
        return sys.__stderr__.fileno() if sys.__stderr__ else super().fileno()  # for what needs a real file
