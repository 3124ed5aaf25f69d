"""The keys of a conversation, and what the panel's help says."""

from collections.abc import Collection, Mapping

from rich.text import Text

from personaplex_cli.screen.lines import cut, wrap
from personaplex_cli.screen.theme import Theme

FAVOURITES = "1-9"  # the keys, for those that there are
KEYS = (
    ("m", "mute", "the agent hears silence instead of you"),
    ("s", "stop talking", "the agent is silent until you speak again"),
    ("r", "restart", "the conversation begins again"),
    (FAVOURITES, "switch", "another persona talks with you"),
    ("d", "details", "every stage of the delay, steps, losses"),
    ("?", "help", "this list, shown or hidden"),
    ("q", "quit", "the conversation ends; Ctrl-C does it too"),
)
NAMES = 18  # cells
LEGEND = (
    ("answers in", "from microphone to speaker, all included"),
    ("remembers", "how much of the talk the model still knows"),
    ("forgets in", "with --no-renew: when it forgets who it is"),
    ("lanes", "one cell is 80 ms; now is on the right"),
)

Key = tuple[str, str, str]  # the key, its name, what it does


def usable(favourites: Mapping[str, str], unused: Collection[str]) -> list[Key]:
    """The keys that do something here; `unused` are those that the program has no use for."""
    idle = (*unused, *([] if favourites else [FAVOURITES]))
    return [each for each in KEYS if each[0] not in idle]


def help_lines(favourites: Mapping[str, str], unused: Collection[str], width: int, theme: Theme) -> list[Text]:
    """The keys, the words of the panel, and who is on which key."""
    rows = [(f" {key}  {name}", theme.strong, meaning) for key, name, meaning in usable(favourites, unused)]
    legend = LEGEND[1:] if "m" in unused else LEGEND  # without a microphone nothing is on its way from there
    rows += [(f" {name}", theme.quiet, meaning) for name, meaning in legend]
    room = width - NAMES
    drawn = [
        Text.assemble((name.ljust(NAMES), style), cut(meaning, room, theme.glyphs)) for name, style, meaning in rows
    ]
    who = f" {theme.glyphs.dot} ".join(f"{key} {theme.readable(name)}" for key, name in favourites.items())
    return [*drawn, *(Text(f" {line}", theme.quiet) for line in wrap(who, width - 2) if line)]
