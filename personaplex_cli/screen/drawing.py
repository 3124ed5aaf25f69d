"""The panel: who speaks, what is said, what is heard, how quickly. Draws a PanelState and changes nothing.

Every line has a name on the left and its content on the right. What does not fit in height is left out, the least
important part first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from personaplex_cli.events import Phase
from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS
from personaplex_cli.screen.lines import (
    bar,
    chain,
    content_width,
    lane,
    loudness,
    named,
    paragraph,
    ruler,
    sparkline,
    text_width,
    waterfall,
    wrap,
)
from personaplex_cli.screen.state import PanelState, clock, counted, download_speed, downloaded
from personaplex_cli.screen.theme import Theme

PHASES = (Phase.DOWNLOADING, Phase.LOADING, Phase.WARMING_UP, Phase.PRIMING, Phase.LIVE)
PHASES_ELSEWHERE = (Phase.CONNECTING, Phase.WARMING_UP, Phase.LIVE)
DETAILS_HEIGHT = 19  # lines; on a lower panel the stages stay on one line
NARROW = 72  # cells; below it bars and words are shorter
FADING = 30  # seconds before the persona is lost that the panel begins to warn

KEYS = (
    ("m", "mute", "the agent hears silence instead of you"),
    ("s", "stop talking", "the agent is silent until you speak again"),
    ("r", "restart", "the conversation begins again"),
    ("d", "details", "every stage of the delay on its own line"),
    ("?", "help", "this list, shown or hidden"),
    ("q", "quit", "the conversation ends; Ctrl-C does it too"),
)
LEGEND = (
    ("lanes", "one cell is 80 ms; now is on the right"),
    ("delay", "microphone to speaker, frame included"),
    ("step", "time that 80 ms of sound take the model"),
)


@dataclass(frozen=True)
class View:
    """What the user chose to see."""

    details: bool = False
    help: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class Part:
    """Lines that are shown together or not at all; the lowest rank stays longest."""

    rank: int
    lines: list[Text]


GAP = Part(99, [Text()])


def draw(state: PanelState, width: int, height: int, theme: Theme, now: float, view: View) -> list[Text]:
    """The panel on a terminal of this size: fewer lines than `height`, none wider than `width`."""
    pen = Pen(state, width, theme, now, view)
    # Some of the history stays in view, unless the user asked for more of the panel.
    room = height - (1 if view.details or view.help else max(1, height // 5))
    lines = fit(pen.conversation(room) if state.who or state.frames else pen.beginning(), room)
    for line in lines:
        line.truncate(width, overflow="crop")
    return lines


def fit(parts: Sequence[Part], height: int) -> list[Text]:
    """As many parts as fit, in their order."""
    kept = [part for part in parts if part.lines]
    while sum(len(part.lines) for part in kept) > height and len(kept) > 1:
        del kept[max(range(len(kept)), key=lambda index: kept[index].rank)]
    return [line.copy() for part in kept for line in part.lines][:height]


class Pen:
    """Draws each part of one state at one width."""

    def __init__(self, state: PanelState, width: int, theme: Theme, now: float, view: View) -> None:
        self.state = state
        self.width = width
        self.room = content_width(width)
        self.meter_cells = 10 if width >= NARROW else 6
        self.lane_cells = self.room - self.meter_cells - 2
        self.theme = theme
        self.now = now
        self.view = view
        self.dot = f" {theme.glyphs.dot} "

    def beginning(self) -> list[Part]:
        """What is seen until the conversation begins."""
        return [
            Part(0, [self.head()[0]]),
            GAP,
            Part(2, self.phases()),
            Part(1, self.download()),
            Part(4, self.log(8 if self.view.verbose else 4)),
            *([GAP, Part(5, self.help())] if self.view.help else []),
            GAP,
            Part(3, [self.keys()]),
        ]

    def conversation(self, height: int) -> list[Part]:
        """What is seen from then on."""
        head, rest = self.head()
        stages, delays = waterfall if self.view.details and height >= DETAILS_HEIGHT else chain, self.state.delays
        figures = [
            Part(4, stages(delays, self.width, self.theme) if delays else []),
            Part(5, [self.steps()]),
            Part(7, [self.sound()]),
            Part(6, self.context()),
            Part(8, self.log(8 if self.view.verbose else 2)),
        ]
        return [
            Part(0, [head]),
            Part(9, [named("", Text(rest, self.theme.quiet), self.theme)] if rest else []),
            GAP,
            Part(1, self.speech(max(1, min(4, height // 6)))),
            GAP,
            Part(2, self.lanes()),
            Part(10, [self.ruler()]),
            GAP,
            *([Part(4, self.help())] if self.view.help else figures),
            GAP,
            Part(3, [self.keys()]),
        ]

    def head(self) -> tuple[Text, str]:
        """A rule with the state on the left and who speaks on the right; and what of that did not fit."""
        line, who = self.status(), self.who()
        space = self.width - line.cell_len - 4
        count = max(n for n in range(len(who) + 1) if n == 0 or cell_len(self.dot.join(who[:n])) <= space)
        names = f" {self.dot.join(who[:count])} " if count else ""
        rule, theme = self.theme.glyphs.rule, self.theme
        line.append(rule * max(1, self.width - line.cell_len - cell_len(names) - 2), theme.quiet)
        line.append(names).append(rule, theme.quiet)
        return line, self.dot.join(who[count:])

    def status(self) -> Text:
        state, theme, glyphs = self.state, self.theme, self.theme.glyphs
        marks: dict[Phase | None, str] = {Phase.LIVE: glyphs.live, Phase.ENDED: glyphs.ended}
        marks |= {Phase.RECONNECTING: glyphs.lost, Phase.DISCONNECTED: glyphs.lost}
        name = state.phase.capitalize() if state.phase else "Starting"
        live = state.phase == Phase.LIVE
        seconds = state.seconds if live else self.now - state.since if state.phase else 0.0
        return Text.assemble(
            (f"{glyphs.rule} ", theme.quiet),
            (f"{marks.get(state.phase, glyphs.working)} {name}", theme.good if live else theme.strong),
            f" {clock(seconds)} ",
            (f"{theme.readable(state.detail)} " if state.detail else "", theme.quiet),
        )

    def who(self) -> list[str]:
        who = self.state.who
        facts = (who.persona, who.voice, who.model, who.device, who.precision) if who else ()
        return [self.theme.readable(fact) for fact in facts if fact]

    def phases(self) -> list[Text]:
        """The way to live: what is done and how long it took, what goes on, what is still to come."""
        state, theme, glyphs = self.state, self.theme, self.theme.glyphs
        phases = PHASES_ELSEWHERE if Phase.CONNECTING in (state.phase, *state.passed) else PHASES
        if state.phase not in phases:
            return []
        ahead = phases[phases.index(state.phase) + 1 :]
        words = [(f"{glyphs.done} {name} {seconds:.0f} s", theme.quiet) for name, seconds in state.passed.items()]
        words += [(f"{glyphs.working} {state.phase}", theme.strong), *((name, theme.quiet) for name in ahead)]
        while sum(len(word) + 2 for word, _ in words) - 2 > self.room:
            del words[0]  # the oldest is missed least
        return [named("", Text("  ").join(Text(word, style) for word, style in words), theme)]

    def download(self) -> list[Text]:
        state, theme = self.state, self.theme
        if state.phase != Phase.DOWNLOADING or not state.arrivals:
            return []
        newest = state.arrivals[-1][1]
        share = newest.done / newest.total if newest.total > 0 else 0.0
        figures = downloaded(newest)
        if speed := download_speed(state.arrivals):
            figures += f"{self.dot}{speed / 1e6:.0f} MB/s{self.dot}{clock((newest.total - newest.done) / speed)} left"
        line = bar(share, max(4, self.room - len(figures) - 2), theme.good, theme)
        return [named("", line.append(f"  {figures}"), theme)]

    def speech(self, lines: int) -> list[Text]:
        """The newest lines of what the agent is saying; always `lines` of them, so that nothing below moves."""
        state, theme, turns = self.state, self.theme, self.state.turns
        if not turns.text:
            words = "silent until you speak" if state.hushed else "listening" if state.phase == Phase.LIVE else ""
            return [named("agent", Text(words, theme.quiet), theme), *[Text()] * (lines - 1)]
        text = wrap(theme.readable(turns.text), text_width(self.width) - 1)
        text[-1] += theme.glyphs.cursor
        newest = paragraph(clock(turns.start), text, theme)[-lines:]
        return newest + [Text()] * (lines - len(newest))

    def lanes(self) -> list[Text]:
        """Two levels and two timelines, a cell per frame, so that interruptions are seen."""
        state, theme = self.state, self.theme
        return [
            self.speaker("you", state.heard, theme.you, "muted" if state.muted else ""),
            self.speaker("agent", state.said, theme.agent, "hushed" if state.hushed else ""),
        ]

    def speaker(self, name: str, levels: Sequence[float], style: str, instead: str) -> Text:
        theme, live = self.theme, self.state.phase == Phase.LIVE
        # The loudest of a quarter second: a meter that jumps 12 times a second cannot be read.
        newest = max(list(levels)[-3:], default=-100.0) if live else -100.0
        meter = bar(loudness(newest), self.meter_cells, style, theme)
        if instead:
            meter = Text().append(instead.ljust(self.meter_cells), theme.warning)
        return named(name, meter.append("  ").append(lane(levels, self.lane_cells, theme.glyphs), style), theme)

    def ruler(self) -> Text:
        seconds = ruler(self.lane_cells, self.theme.glyphs).rjust(self.room)
        return named("", Text(seconds, self.theme.quiet), self.theme)

    def steps(self) -> Text:
        """The last minute of step times; p50, p95 and misses of the whole conversation.

        Of a server that does not report its steps only the time to it and back is known.
        """
        steps, theme = self.state.steps, self.theme
        if not steps.count and "network" in self.state.stages:
            return named("network", Text(f"{self.state.stages['network']:.0f} ms to the server and back"), theme)
        budget = f" of {FRAME_MS:.0f} ms" if self.width >= NARROW else ""
        figures = f"  p50 {steps.percentile(50)}{self.dot}p95 {steps.percentile(95)}{budget}{self.dot}"
        missed = f"{steps.misses} missed"
        cells = max(4, self.room - len(figures) - len(missed))
        line = Text().append(sparkline(steps.last_minute(cells), FRAME_MS, theme.glyphs).rjust(cells), theme.agent)
        return named("step", line.append(figures).append(missed, theme.warning if steps.misses else ""), theme)

    def sound(self) -> Text:
        """What was lost or filled in; rare kinds only when there were any."""
        state, theme, line = self.state, self.theme, Text()
        kinds = {"underrun": 0, "dropped": 0, **state.glitches}
        for kind, total in kinds.items():
            words = counted(total, kind) if kind in ("underrun", "overflow") else f"{total} {theme.readable(kind)}"
            line.append(words, theme.warning if total else "").append(self.dot)
        queue = f"queue {state.stages['queue']:.0f} ms" if "queue" in state.stages else "queue unknown"
        return named("sound", line.append(queue), theme)

    def context(self) -> list[Text]:
        """How much of the model's memory is taken, and when the persona, its oldest part, is pushed out."""
        state, theme = self.state, self.theme
        if not state.who or not state.who.context:
            return []
        total = state.who.context
        left = (total - state.used) * FRAME_SECONDS
        words = f"persona fades in {clock(left)}" if left > 0 else "the persona has faded: r restarts"
        figures = f"  {state.used} of {total} frames{self.dot}{words}"
        figures = figures if len(figures) + 6 <= self.room else f"  {words}"
        style = theme.warning if left < FADING else ""
        line = bar(state.used / max(1, total), max(4, self.room - len(figures)), style or theme.quiet, theme)
        return [named("context", line.append(figures, style), theme)]

    def log(self, count: int) -> list[Text]:
        """The newest notes; long ones are cut unless the view is verbose."""
        theme, lines = self.theme, list[str]()
        for text in list(self.state.log)[-count:]:
            wrapped = wrap(theme.readable(text), self.room - len(theme.glyphs.more))
            if len(wrapped) > 1 and not self.view.verbose:
                wrapped = [wrapped[0] + theme.glyphs.more]
            lines += wrapped
        return paragraph("notes", lines[-count:], theme, theme.quiet) if lines else []

    def keys(self) -> Text:
        """The keys that do something now, by their names; shorter or fewer where there is no room."""
        state, theme = self.state, self.theme
        names = {key: name for key, name, _ in KEYS if state.who or key in "?q"}
        if state.who:
            names["m"] = "unmute" if state.muted else names["m"]
            names["s"] = "let talk" if state.hushed else "stop" if self.width < NARROW else names["s"]
        for key in "drsm":
            if sum(len(name) + 4 for name in names.values()) > self.width:
                names.pop(key, None)
        line = Text(" ")
        for key, name in names.items():
            line.append(key, theme.strong).append(f" {name}  ", theme.quiet)
        return line

    def help(self) -> list[Text]:
        rows = [(f"{key}  {name}", meaning) for key, name, meaning in KEYS]
        theme, column = self.theme, 18
        lines = [Text.assemble((f" {name}".ljust(column), theme.strong), meaning) for name, meaning in rows]
        return lines + [Text.assemble((f" {name}".ljust(column), theme.quiet), meaning) for name, meaning in LEGEND]
