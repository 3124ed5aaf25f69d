"""Colours and characters of the screen. What a colour says, a word or a shape says too.

Colours are the terminal's own sixteen wherever the background is unknown: they were chosen to be read on it.
"""

import os
from dataclasses import dataclass, replace

from rich.console import Console


@dataclass(frozen=True)
class Glyphs:
    """The characters that draw."""

    lane: str = " ▁▂▃▄▅▆▇"  # from silence to loud; never the whole height, so that the two lanes stay apart
    spark: str = "▁▂▃▄▅▆▇█"  # the last one is a step over its budget
    full: str = "━"
    line: str = "─"
    left: str = "├"
    edge: str = "┼"
    right: str = "┤"
    block: str = "█"
    live: str = "●"
    working: str = "○"
    lost: str = "↻"
    ended: str = "■"
    done: str = "✓"
    dot: str = "·"
    tick: str = "╵"
    cursor: str = "▌"
    more: str = "…"


ASCII = Glyphs(" .:-=+*#", "_.:-=+*!", "=", "-", "|", "|", "|", "#", "*", "o", "~", "x", "+", "-", "'", "_", "...")


@dataclass(frozen=True)
class Theme:
    """Styles by what they mean, and the glyphs that the terminal can show."""

    you: str = ""
    agent: str = ""
    good: str = "bold"
    warning: str = "bold"
    quiet: str = "dim"
    strong: str = "bold"
    glyphs: Glyphs = Glyphs()
    encoding: str = "utf-8"

    def readable(self, text: str) -> str:
        """`text` on one line, without anything that the terminal would obey or could not encode."""
        line = "".join(each if each.isprintable() else " " for each in text)
        return line.encode(self.encoding, "replace").decode(self.encoding)


COLOURS = {
    "auto": Theme("cyan", "magenta", "bold green", "bold red"),
    "light": Theme("#005f87", "#875f00", "bold #2f6f00", "bold #b00020", "#6c6c6c"),
    "dark": Theme("#7dcfff", "#e0af68", "bold #9ece6a", "bold #f7768e", "#8088a0"),
    "none": Theme(),
}
THEMES = tuple(COLOURS)


def theme_for(console: Console, name: str = "auto") -> Theme:
    """The theme of that name (see THEMES), with what this console can show. NO_COLOR wins over every name."""
    # The background as COLORFGBG has it, such as `15;0` (white on black); few terminals set it.
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    if name == "auto" and background.isdecimal():
        name = "light" if int(background) in (7, 15) else "dark"
    colours = COLOURS["none" if console.no_color else name]
    return replace(colours, glyphs=ASCII if console.options.ascii_only else Glyphs(), encoding=console.encoding)
