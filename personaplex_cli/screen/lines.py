"""Text in lines: wrapped between words, a name on the left and the content on the right."""

from collections.abc import Sequence

from rich.cells import cell_len, chop_cells
from rich.text import Text

from personaplex_cli.screen.state import Remark, Turn, clock
from personaplex_cli.screen.theme import Theme

INDENT = 10  # cells before the content: a margin, a name, a gap
TEXT_WIDTH = 100  # cells; longer lines are hard to read


def content_width(width: int) -> int:
    """Cells between the names and the right margin."""
    return width - INDENT - 1


def text_width(width: int) -> int:
    """Cells that sentences may fill."""
    return min(TEXT_WIDTH, content_width(width))


def wrap(text: str, cells: int) -> list[str]:
    """Lines no wider than `cells`, broken between words; a longer word is cut."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= cells:
            lines[-1] = joined
        else:
            lines += chop_cells(word, cells) if cell_len(word) > cells else [word]
    return lines[1:] if not lines[0] and len(lines) > 1 else lines


def named(name: str, content: Text, theme: Theme) -> Text:
    return Text.assemble((f" {name}".ljust(INDENT), theme.quiet), content)


def paragraph(name: str, lines: Sequence[str], theme: Theme, style: str = "") -> list[Text]:
    """Lines with a name before the first one."""
    names = (name, *[""] * (len(lines) - 1))
    return [named(each, Text(line, style), theme) for each, line in zip(names, lines, strict=True)]


def told(entry: Turn | Remark, width: int, theme: Theme) -> list[Text]:
    """A finished turn, or a remark between turns, as it goes into the terminal's history."""
    if isinstance(entry, Remark):
        return [Text(f" {line}", theme.quiet) for line in wrap(theme.readable(entry.text), width - 2)]
    return paragraph(clock(entry.start), wrap(theme.readable(entry.text), text_width(width)), theme)
