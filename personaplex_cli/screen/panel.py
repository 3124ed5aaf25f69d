"""The live panel at the foot of a terminal: finished turns scroll into the terminal's own history above it.

No alternate screen: what was said stays where the user can scroll to it. The panel itself is gone at the end.
"""

import signal
import threading
from dataclasses import replace
from typing import Any, Self

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from personaplex_cli.events import Event
from personaplex_cli.screen.drawing import View, draw
from personaplex_cli.screen.lines import history_lines
from personaplex_cli.screen.screens import PlainLines, Screen
from personaplex_cli.screen.state import PanelState, Remark
from personaplex_cli.screen.theme import theme_for

STOP: Any = getattr(signal, "SIGTSTP", None)  # Ctrl-Z; Windows has none
ERASED_ROW = (ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))


def screen_for(console: Console, theme: str = "auto", verbose: bool = False) -> Screen:
    """The panel where one can be drawn, plain lines elsewhere."""
    drawable = console.is_terminal and console.is_interactive and not console.is_dumb_terminal
    return Panel(console, theme, verbose) if drawable else PlainLines(console)


class Panel(Screen):
    """Draws events on a terminal between `with` and its end, whenever `refresh` is called."""

    def __init__(self, console: Console, theme: str = "auto", verbose: bool = False) -> None:
        super().__init__()
        self._console = console
        self._theme = theme_for(console, theme)
        self._view = View(verbose=verbose)
        self._state = PanelState()
        self._drawn: list[Text] = []
        self._stopping = False  # Ctrl-Z was pressed
        self._default_stop: Any = None

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
        self._unfold(width)
        self._write_history(width)
        lines = draw(self._state, width, height, self._theme, now, self._view)
        if lines != self._drawn:
            self._drawn = lines
            self._live.update(Group(*lines), refresh=True)

    def __enter__(self) -> Self:
        self._open()
        # Only the main thread may set signals; without this one Ctrl-Z leaves a torn panel and no cursor.
        if STOP and threading.current_thread() is threading.main_thread():
            self._default_stop = signal.signal(STOP, self._on_stop)
        return self

    def __exit__(self, *_: object) -> None:
        if self._default_stop is not None:
            signal.signal(STOP, self._default_stop)
        try:
            super().refresh(self._now)
        finally:
            self._unfold(self._console.width)
            self._live.stop()
        self._state.finish()
        if self._state.files:
            self._state.history.append(Remark(f"Written: {', '.join(self._state.files)}"))
        self._write_history(self._console.width)

    def _take(self, event: Event, now: float) -> None:
        self._state.apply(event, now)

    def _open(self) -> None:
        self._live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._live.start()
        self._drawn = []

    def _write_history(self, width: int) -> None:
        """Put what is finished into the history, above the panel."""
        lines = list[Text]()
        while self._state.history:
            lines += history_lines(self._state.history.popleft(), width, self._theme)
        if lines:
            self._console.print(Group(*lines))

    def _unfold(self, width: int) -> None:
        """Erase the rows that a narrowed terminal made by folding the panel's lines; rich counts only the lines."""
        folded = sum(max(0, line.cell_len - 1) // width for line in self._drawn)
        if folded:
            self._console.control(Control(*ERASED_ROW * folded))
            self._drawn = []

    def _on_stop(self, *_: object) -> None:
        self._stopping = True  # done by refresh, never in the middle of a drawing

    def _stop(self) -> None:
        """Ctrl-Z: leave the terminal clean, sleep until `fg`, draw again."""
        self._stopping = False
        self._live.stop()
        signal.signal(STOP, signal.SIG_DFL)
        signal.raise_signal(STOP)
        signal.signal(STOP, self._on_stop)
        self._open()
