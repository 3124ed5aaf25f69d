"""Rows at the foot of a terminal, drawn in place: what is finished scrolls away above them, they stay.

Only rows that changed are written, and all of a drawing at once (synchronized output, mode 2026: terminals that know it
show no half-drawn state, others ignore it). No alternate screen: the history stays where the user can scroll to it.
"""

from collections.abc import Sequence

from rich.console import Console, Group
from rich.text import Text

BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
ERASE_BELOW, ERASE_RIGHT = "\x1b[J", "\x1b[K"
SAVE_TITLE, RESTORE_TITLE = "\x1b[22;0t", "\x1b[23;0t"


class Region:
    """The rows that are drawn now; the cursor rests at the end of the last one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[str] = []  # as they were written, with their colours
        self._cells: list[int] = []  # their widths
        self._width = 0  # of the terminal, when they were
        self._titled = console.is_terminal and not console.is_dumb_terminal
        self._title = ""

    def open(self) -> None:
        self._write(HIDE_CURSOR + (SAVE_TITLE if self._titled else ""))

    def close(self) -> None:
        """Take the rows away; the cursor is where they began."""
        self._write(BEGIN + self._erased() + SHOW_CURSOR + (RESTORE_TITLE if self._titled else "") + END)
        self._rows, self._cells, self._title = [], [], ""

    def name(self, title: str) -> None:
        """The title of the terminal's window."""
        if self._titled and title != self._title:
            self._title = title
            self._write(f"\x1b]2;{title}\x07")

    def draw(self, lines: Sequence[Text], above: Sequence[Text] = ()) -> None:
        """Show these lines, none wider than the terminal, and put `above` into the history before them."""
        width, rows = self._console.width, self._rendered(lines)
        if above or len(rows) != len(self._rows) or width != self._width:
            history = "".join(f"{row}\n" for row in self._rendered(above))
            self._write(BEGIN + self._erased() + history + "\n".join(rows) + END)
        elif rows != self._rows:
            self._write(BEGIN + self._changed(rows, [line.cell_len for line in lines]) + END)
        self._rows, self._cells, self._width = rows, [line.cell_len for line in lines], width

    def _changed(self, rows: list[str], cells: list[int]) -> str:
        """What turns the rows that are there into these, as many."""
        written, at = "", len(rows) - 1
        for number, row in enumerate(rows):
            if row != self._rows[number]:
                # At the end of a full row the cursor hangs over its last cell: erasing there would take that away.
                rest = ERASE_RIGHT if cells[number] < self._cells[number] else ""
                written += _moved(number - at) + "\r" + row + rest
                at = number
        return written + _moved(len(rows) - 1 - at)

    def _erased(self) -> str:
        """The cursor at the beginning of the first row, nothing from there on.

        A terminal that was made narrower has folded the rows that do not fit any more. They go one by one from below:
        tmux keeps in its history what is erased from the screen's first cell on.
        """
        width = max(1, self._console.width)
        folded = sum(max(1, -(-cells // width)) for cells in self._cells)
        return "\r" + ERASE_BELOW + (_moved(-1) + ERASE_RIGHT) * (folded - 1)

    def _rendered(self, lines: Sequence[Text]) -> list[str]:
        if not lines:
            return []
        with self._console.capture() as capture:
            self._console.print(Group(*lines), no_wrap=True, crop=False, overflow="ignore")
        return capture.get().removesuffix("\n").split("\n")

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


def _moved(rows: int) -> str:
    """The cursor, that many rows down; up if negative."""
    return f"\x1b[{rows}B" if rows > 0 else f"\x1b[{-rows}A" if rows < 0 else ""
