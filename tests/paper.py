"""A terminal for tests: what is written on it, row by row."""

import io
import re

from rich.console import Console


class Paper:
    """As much of a terminal as the panel needs: rows, and the codes that move up and erase."""

    def __init__(self) -> None:
        self.rows = [""]
        self.row = self.column = 0
        self.cursor = True
        self.title = ""
        self.kept = ""  # what was erased from the first cell on, which tmux puts into its history
        self.written: list[str] = []  # what each drawing wrote as text

    def write(self, text: str) -> None:
        for code, plain in re.findall(r"(\x1b\][^\x07]*\x07|\x1b\[[?0-9;]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", text):
            if code == "\n":
                self.row, self.column = self.row + 1, 0
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif code == "\r":
                self.column = 0
            elif code.endswith(("A", "B")):
                down = int(code[2:-1]) * (1 if code.endswith("B") else -1)
                assert 0 <= self.row + down < len(self.rows)
                self.row += down
            elif code in ("\x1b[J", "\x1b[K"):
                if (code, self.row, self.column) == ("\x1b[J", 0, 0):
                    self.kept += self.text()
                self.rows[self.row] = self.rows[self.row][: self.column]
                if code == "\x1b[J":
                    del self.rows[self.row + 1 :]
            elif code in ("\x1b[?25l", "\x1b[?25h"):
                self.cursor = code.endswith("h")
            elif code.startswith("\x1b]2;"):
                self.title = code[4:-1]
            elif code == "\x1b[?2026h":
                self.written.append("")
            elif plain:
                row = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = row[: self.column] + plain + row[self.column + len(plain) :]
                self.column += len(plain)
                self.written[-1] += plain + "\n"

    def narrow(self, width: int) -> None:
        """Fold what is too long, as terminals do."""
        folded = [[row[at : at + width] for at in range(0, len(row), width)] or [""] for row in self.rows]
        self.row = sum(map(len, folded[: self.row + 1])) - 1
        self.column = len(folded[-1][-1])
        self.rows = [row for rows in folded for row in rows]

    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self.rows).rstrip()


class Terminal:
    """A console that writes on paper."""

    def __init__(self, width: int = 80, height: int = 24) -> None:
        self.paper = Paper()
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, force_terminal=True, force_interactive=True, width=width, height=height, color_system=None
        )

    def look(self) -> str:
        self.paper.write(self.file.getvalue())
        self.file.seek(0)
        self.file.truncate()
        return self.paper.text()
