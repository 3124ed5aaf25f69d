"""What the panel's lines are made of: wrapped text, levels as bars and lanes, the stages of the delay.

A line has a name on the left and its content on the right.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, chop_cells
from rich.text import Text

from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS
from personaplex_cli.screen.state import Remark, clock
from personaplex_cli.screen.theme import Glyphs, Theme
from personaplex_cli.transcript import Turn

INDENT = 10  # cells before the content: a margin, a name, a gap
TEXT_WIDTH = 100  # cells; longer lines are hard to read
FLOOR = -60.0  # dBFS: below it a level is drawn as silence
CEILING = -10.0  # dBFS: speech into a well set microphone peaks here
ENGINE = ("encode", "LM", "decode", "server")  # stages that share the budget of 80 ms
FIGURE = 6  # cells of the milliseconds before each stage of the waterfall

Stages = Sequence[tuple[str, float]]  # names and milliseconds, in the order that sound takes


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


def named(name: str, content: Text | tuple[str, str], theme: Theme) -> Text:
    """A name and its content: a text, or a string and its style."""
    return Text.assemble((f" {name}".ljust(INDENT), theme.quiet), content)


def paragraph(name: str, lines: Sequence[str], theme: Theme, style: str = "") -> list[Text]:
    """Lines with a name before the first one."""
    return [named("" if number else name, (line, style), theme) for number, line in enumerate(lines)]


def history_lines(entry: Turn | Remark, width: int, theme: Theme) -> list[Text]:
    """A finished turn, or a remark between turns, as it goes into the terminal's history."""
    if isinstance(entry, Remark):
        return [Text(f" {line}", theme.quiet) for line in wrap(theme.readable(entry.text), width - 2)]
    text = wrap(theme.readable(entry.text), min(TEXT_WIDTH, width - INDENT - 1))
    return paragraph(clock(entry.start), text, theme)


def loudness(level: float) -> float:
    """A level in dBFS as a share of what meters and lanes show, 0 to 1."""
    return min(1.0, max(0.0, (level - FLOOR) / (CEILING - FLOOR)))


def bar(share: float, cells: int, style: str, theme: Theme) -> Text:
    """A thin bar, filled from the left."""
    filled, glyphs = round(min(1.0, max(0.0, share)) * cells), theme.glyphs
    return Text.assemble((glyphs.full * filled, style), (glyphs.line * (cells - filled), theme.quiet))


def lane(levels: Sequence[float], cells: int, glyphs: Glyphs) -> str:
    """The newest frames, one cell each, the newest on the right."""
    top = len(glyphs.lane) - 1
    # Rounded up: anything louder than the floor is seen.
    heights = (glyphs.lane[math.ceil(loudness(level) * top)] for level in list(levels)[-cells:])
    return "".join(heights).rjust(cells)


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


def chain(stages: Stages, cells: int, theme: Theme) -> list[Text]:
    """All stages end to end, named where there is room, and what they come to."""
    glyphs, whole = theme.glyphs, f"  {total(stages):.0f} ms"
    last = cells - len(whole) - 1
    line = Text().append(glyphs.left, theme.quiet)
    for stage, milliseconds, start, end in spans(stages, last):
        room = end - start - 1
        name = next(each for each in (f" {stage} {milliseconds:.0f} ", f" {stage} ", stage, "") if len(each) <= room)
        before = (room - len(name)) // 2
        after = glyphs.line * (room - len(name) - before) + (glyphs.right if end == last else glyphs.edge)
        line.append(glyphs.line * before, theme.quiet).append(name, theme.agent if stage in ENGINE else "")
        line.append(after, theme.quiet)
    return [named("delay", line.append(whole, theme.strong), theme)]


def waterfall(stages: Stages, cells: int, theme: Theme) -> list[Text]:
    """Each stage on its line, and the budget below the engine's share of them."""
    glyphs, room = theme.glyphs, cells - FIGURE
    head = f"{total(stages):.0f} ms from microphone to speaker"
    more = f"{head}, {FRAME_MS:.0f} of them for a frame to fill"
    rows = [named("delay", (more if len(more) <= cells else head, ""), theme)]
    for stage, milliseconds, start, end in spans(stages, room):
        block = (glyphs.block * (end - start), theme.agent if stage in ENGINE else theme.quiet)
        rows.append(named(stage, Text.assemble(f"{milliseconds:4.0f}  {' ' * start}", block), theme))
    first = next(start for stage, _, start, _ in spans(stages, room) if stage in ENGINE)
    length = max(2, min(round(FRAME_MS * room / total(stages)), room - first))
    budget = f"{FRAME_MS:4.0f}  {' ' * first}{glyphs.left}{glyphs.line * (length - 2)}{glyphs.right}"
    rows.insert(-2, named("budget", (budget, theme.quiet), theme))  # above the cushion and the card
    return rows


def total(stages: Stages) -> float:
    return sum(milliseconds for _, milliseconds in stages)


def spans(stages: Stages, cells: int) -> Iterator[tuple[str, float, int, int]]:
    """Each stage, and where it starts and ends when all of them fill `cells`; each has one cell at least."""
    start, reached = 0, 0.0
    for left, (stage, milliseconds) in zip(range(len(stages))[::-1], stages, strict=True):
        reached += milliseconds
        end = min(max(round(reached / total(stages) * cells), start + 1), cells - left)
        yield stage, milliseconds, start, end
        start = end
