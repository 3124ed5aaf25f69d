"""The panel: who speaks, what is said, what is heard, how quickly. Draws a PanelState and changes nothing.

The ink belongs to the conversation; how it is made is seen when asked for, or when something is wrong. What does not
fit in height is left out, the least important part first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from rich.cells import cell_len
from rich.text import Text

from personaplex_cli.events import Phase
from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS
from personaplex_cli.screen import lines, manual
from personaplex_cli.screen.advice import FAIR, advice, grade, total
from personaplex_cli.screen.state import PanelState, clock, counted, download_speed, downloaded
from personaplex_cli.screen.theme import Theme

PHASES = (Phase.STARTING, Phase.DOWNLOADING, Phase.LOADING, Phase.WARMING_UP, Phase.PRIMING, Phase.LIVE)
PHASES_ELSEWHERE = (Phase.CONNECTING, Phase.WAITING, Phase.WARMING_UP, Phase.LIVE)
WIDEST = 110  # cells; beyond that the eye has to travel, and a terminal that is made narrower folds what does not fit
WIDE, USUAL, NARROW = (
    96,
    80,
    64,
)  # cells: from here on there is room for all, below here bars and names of devices are left out
NARROWEST = 30  # what a narrower terminal has no room for is cut off
TALL = 18  # rows of the terminal: from here on lanes are two rows high
REMARK_LINES = 2
FOLDER = 8  # cells from which on the folder of a recording is named, or its beginning
PAGE_SECONDS = 4  # for which notes are shown that take turns
SPEAKING = -50.0  # dBFS: the agent is heard
FADING = 30  # seconds before the persona is lost that the panel begins to warn


@dataclass(frozen=True)
class View:
    """What the user chose to see; `keys`: there is a keyboard to choose with; `unused`: keys that do nothing here."""

    details: bool = False
    help: bool = False
    verbose: bool = False
    keys: bool = True
    unused: str = ""


# The rank of lines that are shown together or not at all, and the lines; the lowest rank stays longest.
Part = tuple[int, list[Text]]
GAP: Part = (99, [Text()])


def draw(state: PanelState, width: int, height: int, theme: Theme, now: float, view: View) -> list[Text]:
    """The panel on a terminal of this size: fewer lines than `height`, none wider than `width`."""
    pen = Pen(state, max(NARROWEST, min(width, WIDEST)), height, theme, now, view)
    # Some of the history stays in view, unless the user asked for more of the panel.
    room = max(1, height - (1 if view.details or view.help else max(1, height // 5)))
    middle = pen.conversation() if state.who or state.frames else pen.beginning()
    parts = [part for part in middle if part[1]]
    while parts and sum(len(drawn) for _, drawn in parts) > room - 2:
        parts.remove(max(parts, key=itemgetter(0)))
    inside = [pen.boxed(line) for _, drawn in parts for line in drawn]
    panel = [pen.head(), *inside, pen.foot()][:room]
    for line in panel:
        line.truncate(width, overflow="crop")
    return panel


class Pen:
    """Draws each part of one state at one width."""

    def __init__(self, state: PanelState, width: int, height: int, theme: Theme, now: float, view: View) -> None:
        self.state = state
        self.width = width
        self.height = height
        self.theme = theme
        self.now = now
        self.view = view
        self.names = lines.name_cells(theme, state.you, state.agent)
        self.room = max(1, width - self.names - 8)  # cells between the names and the right margin
        self.dot = f" {theme.glyphs.dot} "

    # The frame.

    def boxed(self, line: Text) -> Text:
        """A line between the sides of the panel."""
        line.truncate(self.width - 4, overflow="crop", pad=True)
        side = (self.theme.glyphs.side, self.theme.faint)
        return Text.assemble(side, " ", line, " ", side)

    def rule(self, left: Text, right: Text, corners: str) -> Text:
        """The upper or lower edge, with something at both ends."""
        glyphs, faint = self.theme.glyphs, self.theme.faint
        middle = glyphs.line * (self.width - 4 - left.cell_len - right.cell_len)
        edge = Text.assemble((corners[0] + glyphs.line, faint), left, (middle, faint), right)
        edge.truncate(self.width - 2, overflow="crop")
        return edge.append(glyphs.line + corners[1], faint)

    def head(self) -> Text:
        """The state on the left, who speaks on the right."""
        state, theme, glyphs = self.state, self.theme, self.theme.glyphs
        marks: dict[Phase | None, str] = {Phase.LIVE: glyphs.live, Phase.REPLAY: glyphs.live, Phase.ENDED: glyphs.ended}
        marks |= {Phase.RECONNECTING: glyphs.lost, Phase.DISCONNECTED: glyphs.lost}
        live = state.is_live
        seconds = state.seconds if live else self.now - state.since if state.phase else 0.0
        style = theme.good if live else theme.strong
        left = Text.assemble(
            (f" {marks.get(state.phase, glyphs.working)} {(state.phase or Phase.STARTING).capitalize()}", style),
            f" {clock(seconds)} ",
            (f"{theme.readable(state.detail)} " if state.detail else "", theme.quiet),
        )
        return self.rule(left, self.who(self.width - left.cell_len - 6), glyphs.corners[:2])

    def who(self, space: int) -> Text:
        """Who speaks and on what; as much of it as there is room for."""
        who = self.state.who
        facts = (*who.names, who.device, who.precision) if who else ()
        names = [self.theme.readable(fact) for fact in facts if fact]
        while cell_len(self.dot.join(names)) + 2 > space and names:
            names.pop()
        line = Text(" " if names else "")
        for number, name in enumerate(names):
            line.append(self.dot if number else "", self.theme.faint)
            line.append(name, self.theme.quiet if number > 1 else "")  # the machine matters less than who speaks
        return line.append(" " if names else "")

    def foot(self) -> Text:
        """The keys, and the folder to which the conversation is recorded."""
        theme, recording = self.theme, Text()
        if self.state.recording:
            recording.append(" rec ", theme.quiet).append(f"{theme.glyphs.live} ", theme.warning)
        keys = self.keys(self.width - 6 - recording.cell_len)
        room = self.width - 9 - recording.cell_len - keys.cell_len
        if recording and room >= FOLDER:
            folder = lines.shortened(theme.readable(self.state.recording), room, theme.glyphs)
            recording.append(f"{folder} ", theme.quiet)
        return self.rule(keys, recording, theme.glyphs.corners[2:])

    def keys(self, space: int) -> Text:
        """The keys that do something now, by their names; shorter or fewer where there is no room."""
        state, theme = self.state, self.theme
        usable = manual.usable(state.favourites, self.view.unused)
        names = {key: name for key, name, _ in usable if state.who or key in "?q"} if self.view.keys else {}
        now = {"m": "unmute"} if state.muted else {}
        now |= {"s": "let talk"} if state.hushed else {}
        names = {key: now.get(key, name) for key, name in names.items()}
        names = names or {"Ctrl-C": "quit"}

        def is_too_wide() -> bool:
            return sum(len(key) + len(name) + 3 for key, name in names.items()) + 1 > space

        if is_too_wide() and names.get("s") == "stop talking":
            names["s"] = "stop"
        for key in ("d", manual.FAVOURITES, "r", "s", "m"):
            if is_too_wide():
                names.pop(key, None)
        shown = [Text.assemble((key, theme.strong), (f" {name}", theme.quiet)) for key, name in names.items()]
        return Text.assemble(" ", Text("  ").join(shown), " ")

    # Before the conversation.

    def beginning(self) -> list[Part]:
        """What is seen until the conversation begins."""
        notes = self.notes(4)
        shown = [(99, [Text()]), (2, self.phases()), (1, self.download()), (98, [Text()] if notes else []), (4, notes)]
        return [*shown, GAP, (5, self.help())] if self.view.help else [*shown, GAP]

    def phases(self) -> list[Text]:
        """The way to live: what is done and how long it took, what goes on, what is still to come."""
        state, theme, glyphs = self.state, self.theme, self.theme.glyphs
        phases = PHASES_ELSEWHERE if Phase.CONNECTING in (state.phase, *state.passed) else PHASES
        if state.phase not in phases:
            return []
        ahead = [phase for phase in phases[phases.index(state.phase) + 1 :] if phase != Phase.WAITING]
        words = [(f"{glyphs.done} {name} {seconds:.0f} s", theme.quiet) for name, seconds in state.passed.items()]
        words += [(f"{glyphs.working} {state.phase}", theme.strong), *((name, theme.quiet) for name in ahead)]
        while words and sum(len(word) + 3 for word, _ in words) - 3 > self.width - 6:
            del words[0]  # the oldest is missed least
        return [Text.assemble(" ", Text("   ").join(Text(word, style) for word, style in words))]

    def download(self) -> list[Text]:
        state = self.state
        if state.phase != Phase.DOWNLOADING or not state.arrivals:
            return []
        newest = state.arrivals[-1][1]
        figures = f"  {downloaded(newest)}"
        if speed := download_speed(state.arrivals):
            figures += f"{self.dot}{speed / 1e6:.0f} MB/s{self.dot}{clock((newest.total - newest.done) / speed)} left"
        bar = lines.bar(
            newest.done / max(1, newest.total), max(4, self.width - 6 - len(figures)), self.theme.good, self.theme
        )
        return [Text.assemble(" ", bar, figures)]

    # The conversation.

    def conversation(self) -> list[Part]:
        """What is seen from its beginning on."""
        speech = self.speech(max(2, min(4, self.height // 8)))
        if self.view.help:
            return [(1, speech), GAP, *self.lanes(tall=False), GAP, (3, self.help())]
        if self.view.details:
            below = [
                (3, self.waterfall()),
                (5, self.steps()),
                (6, self.sound()),
                (7, self.context()),
                (8, self.about()),
            ]
            return [(1, speech), *self.lanes(tall=False), GAP, *below, (4, self.notes(3))]
        trouble = self.steps() + self.sound() if self.state.troubled else []
        figures = [(3, self.figures()), (6, trouble), (5, self.remarks())]
        return [GAP, (1, speech), (97, [Text()]), *self.lanes(tall=self.height >= TALL), (98, [Text()]), *figures]

    def named(self, name: str, content: Text, style: str = "", margin: str = " ") -> Text:
        """A name, and what belongs to it."""
        style = style or self.theme.quiet
        return Text.assemble((f" {lines.speaker(name, self.names, self.theme)} ", style), (margin, style), " ", content)

    def speech(self, height: int) -> list[Text]:
        """The newest lines of what the agent is saying; always `height` of them, so that nothing below moves."""
        state, theme = self.state, self.theme
        if not state.telling:
            words = "silent until you speak" if state.hushed else "listening" if state.is_live else ""
            quiet = [self.named(state.agent, Text(words, theme.quiet), theme.agent)]
            return quiet + [Text()] * (height - 1)
        wrapped = self.lit(min(lines.TEXT_WIDTH, self.room) - 1)[-height:]
        wrapped[-1].append(theme.glyphs.cursor if state.turns.text else "", theme.agent)
        style, margin = f"bold {theme.agent}".rstrip(), theme.glyphs.margin
        named = [self.named("" if at else state.agent, line, style, margin) for at, line in enumerate(wrapped)]
        return named + [Text()] * (height - len(named))

    def lit(self, cells: int) -> list[Text]:
        """What the agent says, wrapped; its newest words in the agent's colour."""
        words = self.theme.readable(self.state.telling)
        new = len("".join(self.theme.readable(self.state.fresh).split()))
        drawn = [Text(line) for line in lines.wrap(words, max(1, cells))]
        for line in reversed(drawn):  # spaces are lost in wrapping: letters are counted
            at = len(line)
            while at and new:
                at -= 1
                new -= not line.plain[at].isspace()
            line.stylize(f"bold {self.theme.agent}".rstrip(), at)
        return drawn

    def lanes(self, tall: bool) -> list[Part]:
        """Two timelines, a cell per frame, so that interruptions are seen, and how loud it is now."""
        state, theme = self.state, self.theme
        beside = 22 if self.width >= WIDE else 15 if self.width >= NARROW else 7
        cells = max(1, self.room - beside - 2)
        agent_speaks = bool(state.said) and max(list(state.said)[-3:]) > SPEAKING
        drawn = list[Text]()
        for name, levels, style, lit, device, held in (
            (state.you, state.heard, theme.you, state.user.on, state.microphone, "muted" if state.muted else ""),
            (state.agent, state.said, theme.agent, agent_speaks, state.speaker, "hushed" if state.hushed else ""),
        ):
            device = theme.readable(device).rpartition(" (")[0] or device  # without its rate
            rows = lines.rows_of_lane(list(levels)[-cells:], 2 if tall else 1, theme.glyphs)
            name_style = f"bold {style}".rstrip() if lit else style
            right = [Text(lines.shortened(device, beside, theme.glyphs), theme.quiet)] if tall else []
            clips = levels is state.heard and state.clipped
            held = held or ("writing" if levels is state.heard and state.writing and not lit else "")
            right.append(Text(held, theme.warning) if held else self.loudness(levels, style, beside, clips))
            for at, (row, more) in enumerate(zip(rows, right, strict=True)):
                lane = lines.faded(row, cells, style, theme).append("  ").append_text(more)
                drawn.append(self.named(name if at == len(rows) - 1 else "", lane, name_style))
        ruler = self.named("", Text(lines.ruler(cells, theme.glyphs), theme.faint))
        return [(2, drawn), (10, [ruler])]

    def loudness(self, levels: Sequence[float], style: str, cells: int, clips: bool) -> Text:
        """How loud it is now, and whether that is too loud."""
        state, theme = self.state, self.theme
        # The loudest of a quarter second: a meter that jumps 12 times a second cannot be read.
        newest = max(list(levels)[-3:], default=lines.FLOOR) if state.is_live else lines.FLOOR
        figure = (f"{newest:.0f} dB" if newest > lines.FLOOR else "").rjust(7)
        figure = "clips".rjust(7) if clips else figure
        level = lines.meter(lines.loudness(newest), cells - 7, style, theme) if cells > 7 else Text()
        return level.append(figure, theme.warning if clips else theme.quiet)

    def figures(self) -> list[Text]:
        """How quickly it answers, and what it remembers, or when it forgets who it is."""
        state, theme = self.state, self.theme
        line, bars = Text(" "), self.width >= NARROW
        cells = 16 if self.width >= WIDE else 10
        if state.delays:
            whole = total(state.delays)
            style = {"good": theme.good, "slow": theme.fair, "bad": theme.warning}[grade(whole)]
            line.append("answers in ", theme.quiet).append(f"{whole:.0f} ms ", style)
            line.append_text(lines.bar(whole / (1.5 * FAIR), cells, style, theme) if bars else Text())
            line.append(f" {grade(whole)}" if bars else "", theme.quiet)
        elif "network" in state.stages:
            line.append(f"{state.stages['network']:.0f} ms to the server and back", theme.quiet)
        if memory := self.memory():
            gap = ("   " if bars else " ") if line.plain.strip() else ""
            verb, words, share, style = memory
            line.append(f"{gap}{verb} ", theme.quiet).append(f"{words} ", style)
            line.append_text(lines.bar(share, cells, style, theme) if bars else Text())
        return [line]

    def memory(self) -> tuple[str, str, float, str] | None:
        """How much of the talk is remembered where the memory is renewed, else in how long it forgets who it is: what
        that is called, the figure, its share of all, a style.
        """
        state, left = self.state, self.left()
        if not state.who or not state.who.context:
            return None
        if left is not None:
            style = self.theme.warning if left < FADING else self.theme.strong
            verb = "forgets who it is in" if self.width >= USUAL else "forgets in"
            return verb, clock(left), left / FRAME_SECONDS / state.who.context, style
        last = f"the last {clock(state.remembered * FRAME_SECONDS)}"
        words = last if state.remembered < state.frames else "all of it"
        return "remembers", words, state.remembered / max(1, state.frames), self.theme.strong

    def left(self) -> float | None:
        """Seconds until the persona, the oldest that the model remembers, is pushed out; None if it never is."""
        who = self.state.who
        return max(0, who.context - self.state.used) * FRAME_SECONDS if who and who.context and not who.memory else None

    def remarks(self) -> list[Text]:
        """What is to be known or done now; always as many lines, so that nothing moves when there is less."""
        theme, state = self.theme, self.state
        told, style = (advice(state.delays) if state.delays else ""), theme.fair
        left = self.left()
        if not told and left is not None and left < FADING:
            told = "The model will soon forget who it is." if left else "The model has forgotten who it is."
            told += " Press r to begin again."
        if not told or self.view.verbose:
            drawn = self.notes(4 if self.view.verbose else REMARK_LINES)
        else:
            drawn = [Text(f" {line}", style) for line in self.page([told], REMARK_LINES)]
        return drawn + [Text()] * (REMARK_LINES - len(drawn))

    # The engineering.

    def waterfall(self) -> list[Text]:
        if not self.state.delays:
            return []
        head = f" answers in {total(self.state.delays):.0f} ms, {FRAME_MS:.0f} of them for a frame to fill"
        rows = lines.waterfall(self.state.delays, self.width - 17, self.theme)
        return [Text(head), *(self.fact(name, row) for name, row in rows)]

    def fact(self, name: str, content: Text) -> Text:
        return Text.assemble((f" {name}".ljust(11), self.theme.quiet), content)

    def steps(self) -> list[Text]:
        """The last minute of step times; p50, p95 and misses of the whole conversation."""
        steps, theme = self.state.steps, self.theme
        if not steps.count:
            return []
        budget = f" of {FRAME_MS:.0f} ms" if self.width >= NARROW else ""
        figures = f"  p50 {steps.percentile(50)}{self.dot}p95 {steps.percentile(95)}{budget}{self.dot}"
        missed = (f"{steps.misses} late", theme.warning if steps.misses else "")
        cells = max(4, self.width - 17 - len(figures) - len(missed[0]))
        minute = lines.sparkline(steps.last_minute(cells), FRAME_MS, theme.glyphs)
        return [self.fact("step", Text.assemble((minute, theme.agent), figures, missed))]

    def sound(self) -> list[Text]:
        """What was lost or filled in; rare kinds only when there were any."""
        state, theme, facts = self.state, self.theme, list[Text]()
        for kind, number in {"underrun": 0, "dropped": 0, **state.glitches}.items():
            words = counted(number, kind) if kind in ("underrun", "overflow") else f"{number} {theme.readable(kind)}"
            facts.append(Text(words, theme.warning if number else ""))
        if "queue" in state.stages:
            facts.append(Text(f"queue {state.stages['queue']:.0f} ms"))
        return [self.fact("sound", Text(self.dot).join(facts))]

    def context(self) -> list[Text]:
        memory = self.memory()
        if memory is None or not self.state.who:
            return []
        used = f"{self.state.used} of {self.state.who.context} frames{self.dot}{memory[0]} {memory[1]}"
        return [self.fact("context", Text(used))]

    def about(self) -> list[Text]:
        who = self.state.who
        seed = "" if who is None or who.seed is None else f"seed {who.seed}"
        facts = (who.model, who.device, who.precision, seed) if who else ()
        return [self.fact("model", Text(self.dot.join(self.theme.readable(fact) for fact in facts if fact)))]

    def notes(self, count: int) -> list[Text]:
        """What is news, `count` lines of it; a verbose view and details have the newest lines of all that there was."""
        verbose = self.view.verbose
        if verbose or self.view.details:
            told = [line for _, text in self.state.log for line in self.wrapped(text)][-8 if verbose else -count :]
        else:
            told = self.page(self.state.notes(self.now), count)
        return [Text(f" {line}", self.theme.quiet) for line in told]

    def page(self, texts: Sequence[str], count: int) -> list[str]:
        """`count` lines of these texts; what does not fit together takes turns, and nothing is cut."""
        pages = lines.paged(map(self.wrapped, texts), count)
        return pages[int(self.now / PAGE_SECONDS) % len(pages)]

    def wrapped(self, text: str) -> list[str]:
        return lines.wrap(self.theme.readable(text), self.width - 6)

    def help(self) -> list[Text]:
        return manual.help_lines(self.state.favourites, self.view.unused, self.width - 4, self.theme)
