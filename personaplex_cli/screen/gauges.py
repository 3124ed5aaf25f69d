"""Numbers as pictures one line high: bars, lanes, sparklines. Knows only numbers and glyphs."""

from collections.abc import Iterable, Sequence

from rich.text import Text

from personaplex_cli.samples import FRAME_SECONDS
from personaplex_cli.screen.theme import Glyphs, Theme

FLOOR = -60.0  # dBFS: below it a level is drawn as silence
CEILING = -10.0  # dBFS: speech into a well set microphone peaks here


def loudness(level: float) -> float:
    """A level in dBFS as a share of what meters and lanes show, 0 to 1."""
    return min(1.0, max(0.0, (level - FLOOR) / (CEILING - FLOOR)))


def bar(share: float, cells: int, style: str, theme: Theme) -> Text:
    """A thin bar, filled from the left."""
    filled = round(min(1.0, max(0.0, share)) * cells)
    glyphs = theme.glyphs
    return Text.assemble((glyphs.full * filled, style), (glyphs.empty * (cells - filled), theme.quiet))


def lane(levels: Sequence[float], cells: int, glyphs: Glyphs) -> str:
    """The newest frames, one cell each, the newest on the right."""
    top = len(glyphs.lane) - 1
    # Rounded up: whatever is louder than the floor is seen.
    heights = (glyphs.lane[-int(-loudness(level) * top // 1)] for level in list(levels)[-cells:])
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
