"""Draws docs/panel.svg, the picture of the panel in the README: `python docs/picture.py`.

The picture is scripted. The persona, the words and every figure in it are made up here to show what the panel looks
like; nothing in it was measured.
"""

import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from personaplex_cli.events import Began, Event, Glitch, Latency, Note, State, Step, Timings
from personaplex_cli.samples import FRAME_SECONDS
from personaplex_cli.screen.lines import told
from personaplex_cli.screen.panel import render
from personaplex_cli.screen.state import PanelState
from personaplex_cli.screen.theme import theme_for

TITLE = "personaplex chat (a scripted picture, not a measurement)"
WIDTH, HEIGHT = 88, 30
SKY = TerminalTheme(
    (22, 24, 34),
    (214, 218, 232),
    [(22, 24, 34), (247, 118, 142), (158, 206, 106), (224, 175, 104), (122, 162, 247), (187, 154, 247), (125, 207, 255)]
    + [(192, 202, 245)],
)

# Seconds at which the agent begins to say something, and at which the user does and stops.
AGENT = (
    (1.0, "Hello! I am glad you called. What would you like to learn about today?"),
    (10.5, "That is a lovely question. Sunlight holds every colour, and air scatters the blue far more than the red."),
    (22.5, "Exactly! At sunset the light takes a longer way through the air, so the blue is gone before it gets here"),
)
USER = ((6.0, 9.9), (19.5, 22.2), (27.6, 28.4))
WORD = 4  # frames from one word to the next
END = 28.8  # seconds


def script() -> Iterator[tuple[float, Event]]:
    """A believable conversation: events and when they come, in seconds."""
    yield 0.0, State("loading", "personaplex-7b-v1")
    yield 9.0, State("warming up")
    yield 13.0, Note("On loudspeakers the agent hears itself: headphones are best.")
    yield 14.0, State("priming")
    yield 15.0, Began("teacher", "NATF2", "personaplex-7b-v1", "cuda:0", "bf16", 42, 142, 3000)
    yield 15.0, State("live")
    words = dict(_words())
    for index in range(round(END / FRAME_SECONDS)):
        at = index * FRAME_SECONDS
        heard = _voice(index, 5.1) if any(start <= at < stop for start, stop in USER) else -72.0
        said = _voice(index, 3.7) if _talking(index, words) else -90.0
        lm = 37.0 + 2.0 * math.sin(index * 1.7) + (14.0 if index % 97 == 60 else 0.0)
        yield 15.0 + at, Latency(11.0, 3.0, 40.0, 13.0)
        yield 15.0 + at, Step(index, words.get(index, ""), heard, said, Timings(5.5, lm, 6.5))
        if index == 90:
            yield 15.0 + at, Glitch("underrun", 1, "the cushion grew to 40 ms")


def _words() -> Iterator[tuple[int, str]]:
    for start, sentence in AGENT:
        for number, word in enumerate(sentence.split()):
            yield round(start / FRAME_SECONDS) + number * WORD, f" {word}"


def _talking(index: int, words: dict[int, str]) -> bool:
    return any(frame in words for frame in range(index - WORD, index + 1))


def _voice(index: int, pace: float) -> float:
    """The level of a voice, rising and falling with its syllables."""
    return -30.0 + 10.0 * math.sin(index * 2 / pace) + 7.0 * math.sin(index * 2.9)


def picture() -> str:
    """The picture as SVG."""
    console = Console(
        record=True, file=io.StringIO(), width=WIDTH, force_terminal=True, color_system="truecolor", no_color=False
    )
    theme, state, now = theme_for(console, "dark"), PanelState(), 0.0
    for now, event in script():
        state.apply(event, now)
    while state.told:
        console.print(*told(state.told.popleft(), WIDTH, theme), sep="\n")
    console.print()
    console.print(render(state, WIDTH, HEIGHT, theme, now))
    return console.export_svg(title=TITLE, theme=SKY)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("panel.svg"))
    target.write_text(picture(), encoding="utf-8")
    print(target)
