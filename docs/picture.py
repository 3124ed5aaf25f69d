"""Draws docs/panel.svg, the picture of the panel in the README: `python docs/picture.py`.

Others: `python docs/picture.py OUT.svg --theme light --size 120x40`.

The picture is scripted. The persona, the words and every figure in it are made up here to show what the panel looks
like; nothing in it was measured.
"""

import argparse
import html
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, Group
from rich.terminal_theme import TerminalTheme

from personaplex_cli.events import Began, Devices, Event, Latency, Note, Phase, Recording, State, Step, Timings
from personaplex_cli.samples import FRAME_SECONDS
from personaplex_cli.screen.drawing import View, draw, name_cells
from personaplex_cli.screen.lines import history_lines
from personaplex_cli.screen.state import PanelState
from personaplex_cli.screen.theme import COLOURS, Colour, theme_for

TITLE = "personaplex chat (a scripted picture, not a measurement)"
TEXT = re.compile(r'x="([\d.]+)" (y="[\d.]+") textLength="([\d.]+)"([^>]*)>((?:&#160;)*)(.*?)((?:&#160;)*)</text>')
INK: dict[str, Colour] = {"dark": (230, 233, 240), "light": (29, 35, 48)}  # of plain text

# Seconds at which the agent begins to say something, and at which the user does and stops.
AGENT = (
    (1.0, "Hello! I am glad you called. What would you like to learn today?"),
    (10.5, "That is a lovely question. Sunlight holds every colour, and air scatters the blue far more than the red."),
    (25.0, "Exactly! At sunset the light travels further through the air, so the blue"),
)
USER = ((6.0, 9.9), (19.5, 24.5), (27.9, 29.2))
WORD = 4  # frames from one word to the next
END = 29.2  # seconds


def script() -> Iterator[tuple[float, Event]]:
    """A believable conversation: events and when they come, in seconds."""
    yield 0.0, State(Phase.LOADING, "personaplex-7b-v1")
    yield 9.0, State(Phase.WARMING_UP)
    yield 13.0, Note("On loudspeakers the agent hears itself: headphones are best.")
    yield 14.0, State(Phase.PRIMING)
    yield 15.0, Began("teacher", "NATF2", "personaplex-7b-v1", "RTX 4090", "bf16", 42, 142, 3000)
    yield 15.0, Devices("MacBook Pro Microphone", "Headphones")
    yield 15.0, Recording("talks/")
    yield 15.0, State(Phase.LIVE)
    words = dict(_words())
    for index in range(round(END / FRAME_SECONDS)):
        at = index * FRAME_SECONDS
        heard = _voice(index, 5.1) if any(start <= at < stop for start, stop in USER) else -72.0
        said = _voice(index, 3.7) if _talking(index, words) else -90.0
        lm = 37.0 + 2.0 * math.sin(index * 1.7)
        yield 15.0 + at, Latency(11.0, 3.0, 40.0, 13.0)
        yield 15.0 + at, Step(index, words.get(index, ""), heard, said, Timings(5.5, lm, 6.5))


def _words() -> Iterator[tuple[int, str]]:
    for start, sentence in AGENT:
        for number, word in enumerate(sentence.split()):
            yield round(start / FRAME_SECONDS) + number * WORD, f" {word}"


def _talking(index: int, words: dict[int, str]) -> bool:
    return any(frame in words for frame in range(index - WORD, index + 1))


def _voice(index: int, pace: float) -> float:
    """The level of a voice, rising and falling with its syllables."""
    return -32.0 + 9.0 * math.sin(index * 2 / pace) + 13.0 * math.sin(index * 2.9)


def picture(name: str = "dark", width: int = 88, height: int = 24) -> str:
    """The picture as SVG, in the theme of that name."""
    console = Console(
        record=True, file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor", no_color=False
    )
    theme, state, now = theme_for(console, name), PanelState(), 0.0
    for now, event in script():
        state.apply(event, now)
    while state.history:
        lines = history_lines(state.history.popleft(), width, name_cells(state, theme), theme)
        console.print(*lines, sep="\n", crop=False, no_wrap=True)
    console.print()
    console.print(Group(*draw(state, width, height, theme, now, View())))
    background = COLOURS[name].background
    assert background, "a theme with colours of its own"
    sky = TerminalTheme(background, INK[name], [INK[name]] * 8)  # the theme of the panel brings the other colours
    return TEXT.sub(_without_margins, console.export_svg(title=TITLE, theme=sky))


def _without_margins(text: re.Match[str]) -> str:
    """A run of text without the spaces around it: some viewers drop them and draw the words in the wrong place."""
    x, y, length, rest, before, words, after = text.groups()
    blank, seen = (cell_len(html.unescape(part)) for part in (before, words))
    cell = float(length) / max(1, blank + seen + cell_len(html.unescape(after)))
    return f'x="{float(x) + blank * cell:.1f}" {y} textLength="{seen * cell:.1f}"{rest}>{words}</text>'


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=Path(__file__).with_name("panel.svg"))
    parser.add_argument("--theme", choices=INK, default="dark")
    parser.add_argument("--size", default="88x24", help="columns and rows of the terminal")
    options = parser.parse_args()
    columns, rows = map(int, options.size.split("x"))
    options.out.write_text(picture(options.theme, columns, rows), encoding="utf-8")
    print(options.out)
