"""The panel: who speaks, what is said, what is heard, how quickly. Draws a PanelState and changes nothing.

Every line has a name on the left and its content on the right. What does not fit in height is left out, the least
important part first.
"""

from dataclasses import dataclass
from operator import itemgetter

from rich.cells import cell_len
from rich.text import Text

from personaplex_cli.events import Phase
from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS
from personaplex_cli.screen import lines
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


# The rank of lines that are shown together or not at all, and the lines; the lowest rank stays longest.
Part = tuple[int, list[Text]]
GAP: Part = (99, [Text()])


def draw(state: PanelState, width: int, height: int, theme: Theme, now: float, view: View) -> list[Text]:
    """The panel on a terminal of this size: fewer lines than `height`, none wider than `width`."""
    pen = Pen(state, width, theme, now, view)
    # Some of the history stays in view, unless the user asked for more of the panel.
    room = height - (1 if view.details or view.help else max(1, height // 5))
    middle = pen.conversation(room) if state.who or state.frames else pen.beginning()
    parts = [part for part in (*pen.head(), GAP, *middle, GAP, (3, [pen.keys()])) if part[1]]
    while len(parts) > 1 and sum(len(drawn) for _, drawn in parts) > room:
        parts.remove(max(parts, key=itemgetter(0)))
    panel = [line for _, drawn in parts for line in drawn][:room]
    for line in panel:
        line.truncate(width, overflow="crop")
    return panel


class Pen:
    """Draws each part of one state at one width."""

    def __init__(self, state: PanelState, width: int, theme: Theme, now: float, view: View) -> None:
        self.state = state
        self.width = width
        self.room = width - lines.INDENT - 1  # cells between the names and the right margin
        self.theme = theme
        self.now = now
        self.view = view
        self.dot = f" {theme.glyphs.dot} "

    def beginning(self) -> list[Part]:
        """What is seen until the conversation begins."""
        shown = [(2, self.phases()), (1, self.download()), (4, self.log(4))]
        return [*shown, GAP, (5, self.help())] if self.view.help else shown

    def conversation(self, height: int) -> list[Part]:
        """What is seen from then on."""
        stages = lines.waterfall if self.view.details and height >= DETAILS_HEIGHT else lines.chain
        figures = [
            (4, stages(self.state.delays, self.room, self.theme) if self.state.delays else []),
            (5, [self.steps()]),
            (7, [self.sound()]),
            (6, self.context()),
            (8, self.log(2)),
        ]
        shown = [(4, self.help())] if self.view.help else figures
        return [(1, self.speech(max(1, min(4, height // 6)))), GAP, *self.lanes(), GAP, *shown]

    def head(self) -> list[Part]:
        """A rule with the state on the left and who speaks on the right; below it what of that did not fit."""
        line, who, theme = self.status(), self.state.who, self.theme
        facts = (who.persona, who.voice, who.model, who.device, who.precision) if who else ()
        names = [theme.readable(fact) for fact in facts if fact]
        space = self.width - line.cell_len - 4
        count = max(n for n in range(len(names) + 1) if n == 0 or cell_len(self.dot.join(names[:n])) <= space)
        shown, rest = (self.dot.join(part) for part in (names[:count], names[count:]))
        shown = f" {shown} " if shown else ""
        line.append(theme.glyphs.line * max(1, self.width - line.cell_len - cell_len(shown) - 2), theme.quiet)
        line.append(shown).append(theme.glyphs.line, theme.quiet)
        return [(0, [line]), (9, [lines.named("", (rest, theme.quiet), theme)] if rest else [])]

    def status(self) -> Text:
        state, theme, glyphs = self.state, self.theme, self.theme.glyphs
        marks: dict[Phase | None, str] = {Phase.LIVE: glyphs.live, Phase.ENDED: glyphs.ended}
        marks |= {Phase.RECONNECTING: glyphs.lost, Phase.DISCONNECTED: glyphs.lost}
        name = state.phase.capitalize() if state.phase else "Starting"
        live = state.phase == Phase.LIVE
        seconds = state.seconds if live else self.now - state.since if state.phase else 0.0
        return Text.assemble(
            (f"{glyphs.line} ", theme.quiet),
            (f"{marks.get(state.phase, glyphs.working)} {name}", theme.good if live else theme.strong),
            f" {clock(seconds)} ",
            (f"{theme.readable(state.detail)} " if state.detail else "", theme.quiet),
        )

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
        return [lines.named("", Text("  ").join(Text(word, style) for word, style in words), theme)]

    def download(self) -> list[Text]:
        state = self.state
        if state.phase != Phase.DOWNLOADING or not state.arrivals:
            return []
        newest = state.arrivals[-1][1]
        figures = f"  {downloaded(newest)}"
        if speed := download_speed(state.arrivals):
            figures += f"{self.dot}{speed / 1e6:.0f} MB/s{self.dot}{clock((newest.total - newest.done) / speed)} left"
        return [self.gauge("", newest.done / max(1, newest.total), self.theme.good, figures)]

    def speech(self, height: int) -> list[Text]:
        """The newest lines of what the agent is saying; always `height` of them, so that nothing below moves."""
        state, theme, turns = self.state, self.theme, self.state.turns
        if turns.text:
            text = lines.wrap(theme.readable(turns.text), min(lines.TEXT_WIDTH, self.room) - 1)
            text[-1] += theme.glyphs.cursor
            newest = lines.paragraph(clock(turns.start), text, theme)[-height:]
        else:
            words = "silent until you speak" if state.hushed else "listening" if state.phase == Phase.LIVE else ""
            newest = [lines.named("agent", (words, theme.quiet), theme)]
        return newest + [Text()] * (height - len(newest))

    def lanes(self) -> list[Part]:
        """Two levels and two timelines, a cell per frame, so that interruptions are seen; below them the seconds."""
        state, theme, drawn = self.state, self.theme, list[Text]()
        meter_cells = 10 if self.width >= NARROW else 6
        lane_cells = self.room - meter_cells - 2
        for name, levels, style, instead in (
            ("you", state.heard, theme.you, "muted" if state.muted else ""),
            ("agent", state.said, theme.agent, "hushed" if state.hushed else ""),
        ):
            # The loudest of a quarter second: a meter that jumps 12 times a second cannot be read.
            newest = list(levels)[-3:] if state.phase == Phase.LIVE else []
            meter = lines.bar(lines.loudness(max(newest, default=lines.FLOOR)), meter_cells, style, theme)
            if instead:
                meter = Text().append(instead.ljust(meter_cells), theme.warning)
            lane = lines.lane(levels, lane_cells, theme.glyphs)
            drawn.append(lines.named(name, meter.append("  ").append(lane, style), theme))
        seconds = lines.ruler(lane_cells, theme.glyphs).rjust(self.room)
        return [(2, drawn), (10, [lines.named("", (seconds, theme.quiet), theme)])]

    def steps(self) -> Text:
        """The last minute of step times; p50, p95 and misses of the whole conversation.

        Of a server that does not report its steps only the time to it and back is known.
        """
        steps, stages, theme = self.state.steps, self.state.stages, self.theme
        if not steps.count and "network" in stages:
            return lines.named("network", (f"{stages['network']:.0f} ms to the server and back", ""), theme)
        budget = f" of {FRAME_MS:.0f} ms" if self.width >= NARROW else ""
        figures = f"  p50 {steps.percentile(50)}{self.dot}p95 {steps.percentile(95)}{budget}{self.dot}"
        missed = (f"{steps.misses} missed", theme.warning if steps.misses else "")
        cells = max(4, self.room - len(figures) - len(missed[0]))
        minute = lines.sparkline(steps.last_minute(cells), FRAME_MS, theme.glyphs).rjust(cells)
        return lines.named("step", Text.assemble((minute, theme.agent), figures, missed), theme)

    def sound(self) -> Text:
        """What was lost or filled in; rare kinds only when there were any."""
        state, theme, line = self.state, self.theme, Text()
        for kind, total in {"underrun": 0, "dropped": 0, **state.glitches}.items():
            words = counted(total, kind) if kind in ("underrun", "overflow") else f"{total} {theme.readable(kind)}"
            line.append(words, theme.warning if total else "").append(self.dot)
        queue = f"queue {state.stages['queue']:.0f} ms" if "queue" in state.stages else "queue unknown"
        return lines.named("sound", line.append(queue), theme)

    def context(self) -> list[Text]:
        """How much of the model's memory is taken, and when the persona, its oldest part, is pushed out."""
        used, total = self.state.used, self.state.who.context if self.state.who else 0
        if not total:
            return []
        left = (total - used) * FRAME_SECONDS
        words = f"persona fades in {clock(left)}" if left > 0 else "the persona has faded: r restarts"
        figures = f"  {used} of {total} frames{self.dot}{words}"
        figures = figures if len(figures) + 6 <= self.room else f"  {words}"
        warning = self.theme.warning if left < FADING else ""
        return [self.gauge("context", used / total, warning or self.theme.quiet, figures, warning)]

    def gauge(self, name: str, share: float, style: str, figures: str, figures_style: str = "") -> Text:
        """A bar with figures after it, together as long as the line."""
        bar = lines.bar(share, max(4, self.room - len(figures)), style, self.theme)
        return lines.named(name, bar.append(figures, figures_style), self.theme)

    def log(self, count: int) -> list[Text]:
        """The newest notes, `count` lines of them; a verbose view has 8 and does not cut the long ones."""
        theme, verbose, notes = self.theme, self.view.verbose, list[str]()
        count = 8 if verbose else count
        for text in list(self.state.log)[-count:]:
            first, *rest = lines.wrap(theme.readable(text), self.room - len(theme.glyphs.more))
            notes += [first, *rest] if verbose or not rest else [first + theme.glyphs.more]
        return lines.paragraph("notes", notes[-count:], theme, theme.quiet)

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
        rows = [(f" {key}  {name}", self.theme.strong, meaning) for key, name, meaning in KEYS]
        rows += [(f" {name}", self.theme.quiet, meaning) for name, meaning in LEGEND]
        return [Text.assemble((name.ljust(18), style), meaning) for name, style, meaning in rows]
