"""Colours and characters of the screen. What a colour says, a word or a shape says too.

Colours are the terminal's own sixteen wherever the background is unknown: they were chosen to be read on it.
"""

import os
from dataclasses import dataclass, field

from rich.console import Console

THEMES = ("auto", "light", "dark", "none")


@dataclass(frozen=True)
class Glyphs:
    """The characters that draw."""

    lane: str = " ▁▂▃▄▅▆▇"  # from silence to loud; never the whole height, so that the two lanes stay apart
    spark: str = "▁▂▃▄▅▆▇█"  # the last one is a step over its budget
    full: str = "━"
    empty: str = "─"
    rule: str = "─"
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


ASCII = Glyphs(" .:-=+*#", "_.:-=+*!", "=", "-", "-", "|", "|", "|", "#", "*", "o", "~", "x", "+", "-", "'", "_", "...")


@dataclass(frozen=True)
class Theme:
    """Styles by what they mean, and the glyphs that the terminal can show."""

    you: str = ""
    agent: str = ""
    good: str = "bold"
    warning: str = "bold"
    quiet: str = "dim"
    strong: str = "bold"
    glyphs: Glyphs = field(default_factory=Glyphs)
    encoding: str = "utf-8"

    def readable(self, text: str) -> str:
        """`text` on one line, without anything that the terminal would obey or could not encode."""
        line = "".join(each if each.isprintable() else " " for each in text)
        return line.encode(self.encoding, "replace").decode(self.encoding)


COLOURS = {
    "auto": {"you": "cyan", "agent": "magenta", "good": "bold green", "warning": "bold red"},
    "dark": {
        "you": "#7dcfff",
        "agent": "#e0af68",
        "good": "bold #9ece6a",
        "warning": "bold #f7768e",
        "quiet": "#8088a0",
    },
    "light": {
        "you": "#005f87",
        "agent": "#875f00",
        "good": "bold #2f6f00",
        "warning": "bold #b00020",
        "quiet": "#6c6c6c",
    },
    "none": {},
}


def theme_for(console: Console, name: str = "auto") -> Theme:
    """The theme of that name (see THEMES), with what this console can show. NO_COLOR wins over every name."""
    colours = COLOURS["none" if console.no_color else _background() if name == "auto" else name]
    glyphs = ASCII if console.options.ascii_only else Glyphs()
    return Theme(**colours, glyphs=glyphs, encoding=console.encoding)


def _background() -> str:
    """The background as COLORFGBG has it, such as `15;0` (white on black); few terminals set it."""
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    if not background.isdecimal():
        return "auto"
    return "light" if int(background) in (7, 15) else "dark"
