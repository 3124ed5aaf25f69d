"""The stages of sound between the microphone and the speaker, as long as they take: on one line, or a line for each."""

from collections.abc import Sequence
from itertools import accumulate

from rich.text import Text

from personaplex_cli.screen.lines import content_width, named
from personaplex_cli.screen.state import BUDGET
from personaplex_cli.screen.theme import Theme

ENGINE = ("encode", "LM", "decode", "server")  # these share the budget of 80 ms
FIGURE = 6  # cells of the milliseconds before each stage of the waterfall

Stages = Sequence[tuple[str, float]]  # names and milliseconds, in the order that sound takes


def chain(stages: Stages, width: int, theme: Theme) -> list[Text]:
    """All stages end to end, named where there is room, and what they come to."""
    if not stages:
        return []
    whole = f"  {total(stages):.0f} ms"
    cells = content_width(width) - len(whole)
    glyphs, line, start = theme.glyphs, Text().append(theme.glyphs.left, theme.quiet), 0
    for (stage, milliseconds), end in zip(stages, places(stages, cells - 1), strict=True):
        room = end - start - 1
        name = next(each for each in (f" {stage} {milliseconds:.0f} ", f" {stage} ", stage, "") if len(each) <= room)
        before = (room - len(name)) // 2
        line.append(glyphs.empty * before, theme.quiet).append(name, theme.agent if stage in ENGINE else "")
        line.append(glyphs.empty * (room - len(name) - before), theme.quiet)
        line.append(glyphs.right if end == cells - 1 else glyphs.edge, theme.quiet)
        start = end
    return [named("delay", line.append(whole, theme.strong), theme)]


def waterfall(stages: Stages, width: int, theme: Theme) -> list[Text]:
    """Each stage on its line, and the budget below the engine's share of them."""
    if not stages:
        return []
    cells = content_width(width) - FIGURE
    head = f"{total(stages):.0f} ms from microphone to speaker"
    if len(included := f"{head}, {BUDGET:.0f} of them for a frame to fill") <= content_width(width):
        head = included
    rows, start = [named("delay", Text(head), theme)], 0
    engine = [stage for stage, _ in stages if stage in ENGINE]
    budget = 0
    for (stage, milliseconds), end in zip(stages, places(stages, cells), strict=True):
        style = theme.agent if stage in ENGINE else theme.quiet
        bar = Text(f"{milliseconds:4.0f}  {' ' * start}").append(theme.glyphs.block * (end - start), style)
        rows.append(named(stage, bar, theme))
        budget = start if stage == engine[0] else budget
        if stage == engine[-1]:
            rows.append(_budget(budget, cells, cells / total(stages), theme))
        start = end
    return rows


def total(stages: Stages) -> float:
    return sum(milliseconds for _, milliseconds in stages)


def places(stages: Stages, cells: int) -> list[int]:
    """Where each stage ends when all of them fill `cells`; each has one cell at least."""
    whole = total(stages)
    ends = [round(end / whole * cells) for end in accumulate(milliseconds for _, milliseconds in stages)]
    for index in range(len(ends)):
        ends[index] = max(ends[index], ends[index - 1] + 1 if index else 1)
    for index in range(len(ends)):
        ends[index] = min(ends[index], cells - (len(ends) - 1 - index))
    return ends


def _budget(start: int, cells: int, scale: float, theme: Theme) -> Text:
    """The time that the engine may take, from where it begins."""
    glyphs, length = theme.glyphs, max(2, min(round(BUDGET * scale), cells - start))
    line = glyphs.left + glyphs.empty * (length - 2) + glyphs.right
    return named("budget", Text(f"{BUDGET:4.0f}  {' ' * start}{line}", theme.quiet), theme)
