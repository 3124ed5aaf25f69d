"""Colours and characters of the screen. What a colour says, a word or a shape says too.

Colours are the terminal's own sixteen wherever the background is unknown: they were chosen to be read on it.
"""

import os
from dataclasses import dataclass, replace

from rich.console import Console

Colour = tuple[int, int, int]  # red, green, blue, each 0 to 255


@dataclass(frozen=True)
class Glyphs:
    """The characters that draw."""

    lane: str = " ▁▂▃▄▅▆▇█"  # from silence to loud
    spark: str = "▁▂▃▄▅▆▇█"  # the last one is a step over its budget
    full: str = "━"
    line: str = "─"
    side: str = "│"
    corners: str = "╭╮╰╯"
    meter: str = "▮▯"
    left: str = "├"
    right: str = "┤"
    block: str = "█"
    margin: str = "▌"  # beside what is being said
    live: str = "●"
    working: str = "○"
    lost: str = "↻"
    ended: str = "■"
    done: str = "✓"
    dot: str = "·"
    tick: str = "╵"
    cursor: str = "▍"
    more: str = "…"
    higher: str = "↑"  # is better
    lower: str = "↓"


ASCII = Glyphs(
    " .:-=+*#@",
    "_.:-=+*!",
    full="=",
    line="-",
    side="|",
    corners="++++",
    meter="#-",
    left="|",
    right="|",
    block="#",
    margin="|",
    live="*",
    working="o",
    lost="~",
    ended="x",
    done="+",
    dot="-",
    tick="'",
    cursor="_",
    more="...",
    higher="(more is better)",
    lower="(less is better)",
)


@dataclass(frozen=True)
class Theme:
    """Styles by what they mean, and the glyphs that the terminal can show."""

    you: str = ""
    agent: str = ""
    good: str = "bold"
    fair: str = "bold"
    warning: str = "bold"
    quiet: str = "dim"
    faint: str = "dim"
    strong: str = "bold"
    background: Colour | None = None
    glyphs: Glyphs = Glyphs()
    encoding: str = "utf-8"

    def readable(self, text: str) -> str:
        """`text` on one line, without anything that the terminal would obey or could not encode."""
        line = "".join(each if each.isprintable() else " " for each in text)
        return line.encode(self.encoding, "replace").decode(self.encoding)

    def faded(self, style: str, age: float) -> str:
        """The style of what is old: from as it is (age 0) almost to the background (1)."""
        if self.background and style.startswith("#"):
            return _hex(_mix(_colour(style), self.background, FADED * age))
        return f"dim {style}".rstrip() if age > 0.5 else style


FADED = 0.7  # share of the background in what is oldest
COLOURS = {
    "auto": Theme("cyan", "magenta", "bold green", "bold yellow", "bold red"),
    "light": Theme(
        *("#0077b6", "#b45f06", "bold #2b8a3e", "bold #8a6d00", "bold #c92a2a", "#626a7c", "#b9bfcc"),
        background=(251, 251, 253),
    ),
    "dark": Theme(
        *("#5cc8ff", "#ffb454", "bold #7fd88f", "bold #ffd166", "bold #ff6b6b", "#8b93a7", "#474e63"),
        background=(17, 20, 28),
    ),
    "none": Theme(),
}
THEMES = tuple(COLOURS)


def theme_for(console: Console, name: str = "auto", background: Colour | None = None) -> Theme:
    """The theme of that name (see THEMES), with what this console can show. NO_COLOR wins over every name.

    `background` is the terminal's, where it is known: `auto` follows it, and what is old fades into it.
    """
    if console.no_color:
        name = "none"
    elif name == "auto" and console.color_system in ("256", "truecolor"):
        name = _name_for(background)
    theme = COLOURS[name]
    if theme.background and background and (_is_light(background) == (name == "light")):
        theme = replace(theme, background=background)
    return replace(theme, glyphs=ASCII if console.options.ascii_only else Glyphs(), encoding=console.encoding)


def _name_for(background: Colour | None) -> str:
    if background:
        return "light" if _is_light(background) else "dark"
    # The background as COLORFGBG has it, such as `15;0` (white on black); few terminals set it.
    told = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    if told.isdecimal():
        return "light" if int(told) in (7, 15) else "dark"
    return "dark" if os.environ.get("COLORTERM") in ("truecolor", "24bit") else "auto"


def _is_light(colour: Colour) -> bool:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue > 127  # the eye's weights (ITU-R BT.601)


def _colour(style: str) -> Colour:
    return int(style[1:3], 16), int(style[3:5], 16), int(style[5:7], 16)


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{each:02x}" for each in colour)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
