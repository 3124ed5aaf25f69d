"""What the panel's lines are made of: wrapped text, levels as bars and lanes, the stages of the delay."""

import math
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console
from rich.text import Text

from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS
from personaplex_cli.screen.advice import Stages, total
from personaplex_cli.screen.state import BREAK, Remark, clock
from personaplex_cli.screen.theme import Glyphs, Theme
from personaplex_cli.screen.user_turns import UserTurn
from personaplex_cli.transcript import Turn

NAME = 12  # cells that the name of a speaker takes at most
TEXT_WIDTH = 100  # cells; longer lines are hard to read
FLOOR = -60.0  # dBFS: below it a level is drawn as silence
CEILING = -10.0  # dBFS: speech into a well set microphone peaks here
ENGINE = ("encode", "LM", "decode", "server")  # stages that share the budget of 80 ms
FIGURE = 6  # cells of the milliseconds before each stage of the waterfall
SHADES = 8  # of a lane, from old to new
MARK = 24  # cells of a user's turn in the history


def wrap(text: str, cells: int) -> list[str]:
    """Lines no wider than `cells`, one at least, broken between words; a longer word is cut."""
    lines, cells = [""], max(1, cells)
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= cells:
            lines[-1] = joined
        else:
            lines += chop_cells(word, cells) if cell_len(word) > cells else [word]
    return lines[1:] if not lines[0] and len(lines) > 1 else lines


def in_lines(text: str, console: Console) -> str:
    """A sentence as it is printed: on a terminal in lines that end between words, elsewhere as one.

    A longer word stays whole: it may be a path or a command, to be copied.
    """
    cells = console.width if console.is_terminal else sys.maxsize
    return textwrap.fill(text, cells, break_long_words=False, break_on_hyphens=False)


def shortened(text: str, cells: int, glyphs: Glyphs) -> str:
    """The text, or its beginning and a mark that something is left out."""
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, max(0, cells - len(glyphs.more))).rstrip() + glyphs.more[: max(0, cells)]


def cut(text: str, cells: int, glyphs: Glyphs) -> str:
    """The text, or the words of its beginning and a mark that something is left out."""
    return text if cell_len(text) <= cells else wrap(text, cells - len(glyphs.more))[0] + glyphs.more


def name_cells(theme: Theme, *names: str) -> int:
    """Cells that the longest of these speakers' names takes."""
    return min(NAME, max(cell_len(theme.readable(name)) for name in names))


def speaker(name: str, cells: int, theme: Theme) -> str:
    """The name of who speaks, on the right of so many cells."""
    short = shortened(theme.readable(name), cells, theme.glyphs)
    return " " * (cells - cell_len(short)) + short


def history_lines(entry: Turn | UserTurn | Remark, width: int, names: int, theme: Theme) -> list[Text]:
    """A finished turn, or a remark between turns, as it goes into the terminal's history; names take `names` cells."""
    if isinstance(entry, Remark):
        return [Text(f"  {line}", theme.quiet) for line in wrap(theme.readable(entry.text), width - 3)]
    style = theme.you if isinstance(entry, UserTurn) else theme.agent
    name = f"{speaker(entry.speaker, names, theme)}  "
    head = Text.assemble((f"  {clock(entry.start)}  ", theme.faint), (name, style))
    if isinstance(entry, UserTurn) and not entry.text:
        spoke = f"  {entry.seconds:.1f} s"
        cells = max(1, min(MARK, width - head.cell_len - len(spoke)))
        return [head.append(lane(_peaks(entry.levels, cells), theme.glyphs), style).append(spoke, theme.quiet)]
    first, *rest = wrap(theme.readable(entry.text), max(8, min(TEXT_WIDTH, width - head.cell_len) - 1))
    indent = " " * head.cell_len
    return [head.append(first), *(Text(indent + line) for line in rest)]


def _peaks(levels: Sequence[float], cells: int) -> list[float]:
    """The loudest frame of each of at most so many stretches, two frames or more each."""
    stretch = max(2, math.ceil(len(levels) / cells))
    return [max(levels[at : at + stretch]) for at in range(0, len(levels), stretch)]


def loudness(level: float) -> float:
    """A level in dBFS as a share of what meters and lanes show, 0 to 1."""
    return min(1.0, max(0.0, (level - FLOOR) / (CEILING - FLOOR)))


def bar(share: float, cells: int, style: str, theme: Theme) -> Text:
    """A thin bar, filled from the left."""
    filled, glyphs = round(min(1.0, max(0.0, share)) * cells), theme.glyphs
    return Text.assemble((glyphs.full * filled, style), (glyphs.line * (cells - filled), theme.faint))


def meter(share: float, cells: int, style: str, theme: Theme) -> Text:
    """A level, as a row of lamps."""
    lit, glyphs = math.ceil(share * cells), theme.glyphs.meter
    return Text.assemble((glyphs[0] * lit, style), (glyphs[1] * (cells - lit), theme.faint))


def lane(levels: Sequence[float], glyphs: Glyphs) -> str:
    """A cell for each level, a row high."""
    return rows_of_lane(levels, 1, glyphs)[0]


def rows_of_lane(levels: Sequence[float], rows: int, glyphs: Glyphs) -> list[str]:
    """A cell for each level, so many rows high, the top one first. The top is never full: lanes stay apart.

    A line through all rows where another conversation begins.
    """
    steps = len(glyphs.lane) - 1
    # Rounded up: anything louder than the floor is seen.
    heights = [math.ceil(loudness(level) * (rows * steps - 1)) for level in levels]
    return [
        "".join(
            glyphs.side if level == BREAK else glyphs.lane[min(steps, max(0, height - row * steps))]
            for level, height in zip(levels, heights, strict=True)
        )
        for row in reversed(range(rows))
    ]


def faded(row: str, cells: int, style: str, theme: Theme) -> Text:
    """A row of a lane, on the right of so many cells, as new as it is far on the right."""
    line, stretch = Text(" " * (cells - len(row))), math.ceil(cells / SHADES)
    for at in range(0, cells, stretch):
        part = row[max(0, at - cells + len(row)) : max(0, at + stretch - cells + len(row))]
        line.append(part, theme.faded(style, max(0.0, 1 - (at + stretch) / cells)))
    return line


def ruler(cells: int, glyphs: Glyphs) -> str:
    """The seconds under the lanes, counted back from now."""
    marks = [" "] * cells
    for second in range(1, cells):
        label = f"{glyphs.tick}-{second} s"
        place = cells - round(second / FRAME_SECONDS)
        if place < 0 or place + len(label) > cells:
            break
        marks[place : place + len(label)] = label
    return "".join(marks)


def sparkline(values: Iterable[float], budget: float, glyphs: Glyphs) -> str:
    """A cell per value, as high as it is long; only what is over the budget has the last glyph."""
    heights, over = glyphs.spark[:-1], glyphs.spark[-1]
    top = len(heights) - 1
    return "".join(over if value > budget else heights[round(max(0.0, value) / budget * top)] for value in values)


def waterfall(stages: Stages, cells: int, theme: Theme) -> list[tuple[str, Text]]:
    """Each stage by its name, as a block after the ones before it; and the budget, below the engine's share of them."""
    glyphs, room = theme.glyphs, cells - FIGURE
    rows = list[tuple[str, Text]]()
    for stage, milliseconds, start, end in spans(stages, room):
        block = (glyphs.block * (end - start), theme.agent if stage in ENGINE else theme.quiet)
        rows.append((stage, Text.assemble(f"{milliseconds:4.0f}  {' ' * start}", block)))
    first = next(start for stage, _, start, _ in spans(stages, room) if stage in ENGINE)
    length = max(2, min(round(FRAME_MS * room / total(stages)), room - first))
    budget = f"{FRAME_MS:4.0f}  {' ' * first}{glyphs.left}{glyphs.line * (length - 2)}{glyphs.right}"
    rows.insert(-2, ("budget", Text(budget, theme.quiet)))  # above the cushion and the card
    return rows


def spans(stages: Stages, cells: int) -> Iterator[tuple[str, float, int, int]]:
    """Each stage, and where it starts and ends when all of them fill `cells`; each has one cell at least."""
    start, reached = 0, 0.0
    for left, (stage, milliseconds) in zip(range(len(stages))[::-1], stages, strict=True):
        reached += milliseconds
        end = min(max(round(reached / total(stages) * cells), start + 1), cells - left)
        yield stage, milliseconds, start, end
        start = end


def paged(paragraphs: Iterable[Sequence[str]], count: int) -> list[list[str]]:
    """Pages of at most `count` lines, one at least; a paragraph is only divided where it has more lines than that."""
    pages = [list[str]()]
    for paragraph in paragraphs:
        for at in range(0, len(paragraph), count):
            part = paragraph[at : at + count]
            if len(pages[-1]) + len(part) > count:
                pages.append([])
            pages[-1] += part
    return pages
