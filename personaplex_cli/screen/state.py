"""What is known about a conversation right now, gathered from events. Knows nothing of how it looks.

Time is handed in and memory is bounded, however long the talk is. Turns are placed by the frames' own clock, 80 ms
each, so the same events always make the same turns.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import PurePath

from personaplex_cli import events
from personaplex_cli.events import Phase
from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS
from personaplex_cli.screen.user_turns import YOU, UserTurn, UserTurns
from personaplex_cli.transcript import AGENT, USER, Turn, Turns

MINUTE = round(60 / FRAME_SECONDS)  # frames
LANE = 512  # frames of both lanes, more than a wide terminal shows
BREAK = -math.inf  # in a lane, where another conversation begins
SMOOTHING = 0.1  # share of the newest figure, so that figures can be read while they change
SLOWEST = 1_000  # milliseconds; slower steps count as this slow
FRESH = round(0.6 / FRAME_SECONDS)  # frames in which a word is new
CLIPPED_FRAMES = round(2 / FRAME_SECONDS)  # for which it is seen that the microphone was too loud
TROUBLE_FRAMES = round(10 / FRAME_SECONDS)  # for which it is seen that a step was late, or that sound was lost
SHORT = 10.0  # seconds of a talk whose figures are told only if it is the last
AWAITED_FRAMES = round(8 / FRAME_SECONDS)  # for which the user's words are awaited: a choice
SOON = 0.5  # seconds by which words and the sound they belong to may differ
NOTE_SECONDS = 20.0  # for which a note is news
SETTLED = (
    None,
    Phase.LIVE,
    Phase.REPLAY,
    Phase.ENDED,
    Phase.RECONNECTING,
    Phase.DISCONNECTED,
)  # not on the way to live


@dataclass(frozen=True)
class Remark:
    """A sentence that belongs between the turns, such as who is talking from here on."""

    text: str


class StepTimes:
    """How long the steps of a conversation took, in milliseconds."""

    def __init__(self) -> None:
        self.count = 0
        self.misses = 0
        self._recent: deque[float] = deque(maxlen=MINUTE)
        # A count for every whole millisecond: percentiles of hours cost no more than those of seconds.
        self._counts = [0] * (SLOWEST + 1)

    def add(self, milliseconds: float) -> None:
        self.count += 1
        self.misses += milliseconds > FRAME_MS
        self._recent.append(milliseconds)
        self._counts[min(SLOWEST, round(max(0.0, milliseconds)))] += 1

    def percentile(self, share: int) -> int:
        """The time within which `share` percent of all steps were done, to a millisecond."""
        return bisect_left(list(accumulate(self._counts)), math.ceil(self.count * share / 100))

    def last_minute(self, cells: int) -> list[float]:
        """The slowest step in each of at most `cells` stretches of the last minute, the newest last."""
        stretch = math.ceil(MINUTE / cells)
        numbered = enumerate(self._recent, self.count - len(self._recent))
        # Stretches are cut by the frame's number: a cell keeps its height while it moves to the left.
        stretches = groupby(numbered, key=lambda step: step[0] // stretch)
        return [max(milliseconds for _, milliseconds in steps) for _, steps in stretches][-cells:]


class PanelState:
    """Everything a screen shows. `apply` an event, then read the attributes."""

    def __init__(self) -> None:
        self.phase: Phase | None = None  # None: nothing has happened yet
        self.detail = ""
        self.since = 0.0  # when this phase began
        self.passed: dict[Phase, float] = {}  # phases on the way to live, and the seconds each took
        self.arrivals: deque[tuple[float, events.Downloading]] = deque(maxlen=64)
        self._replays = False
        self.muted = self.hushed = False
        self.transcribing = False  # the user's words are written down
        self._frames_before = 0  # of the conversation before this one
        self.agent, self.you = AGENT, YOU  # who speaks, by the persona's name, and who is heard
        self.microphone = self.speaker = ""
        self.recording = ""  # the folder
        self.glitches: dict[str, int] = {}  # of this conversation
        self._totals: dict[str, int] = {}  # of the card, which counts on
        # Notes and when they came; losses, which are no news.
        self.log: deque[tuple[float | None, str]] = deque(maxlen=32)
        self.notices: dict[str, None] = {}  # what holds now, in the order in which it came
        self.files: tuple[str, ...] = ()
        self.heard: deque[float] = deque(maxlen=LANE)  # dBFS per frame: you
        self.said: deque[float] = deque(maxlen=LANE)  # dBFS per frame: the agent
        self.favourites: Mapping[str, str] = {}  # persona and voice, by key
        self.history: deque[Turn | UserTurn | Remark] = deque(maxlen=256)  # finished, not yet taken by a screen
        self._begin(None)

    def apply(self, event: events.Event, now: float) -> None:
        """Take in one event that came at `now`, in seconds."""
        match event:
            case events.State(phase, detail):
                self._enter(phase, detail, now)
            case events.Downloading():
                self.arrivals.append((now, event))
            case events.Began():
                self.finish(SHORT)
                self._begin(event)
                for lane in (self.heard, self.said) if self.heard else ():
                    lane.append(BREAK)
                self.agent, self.you = event.persona or AGENT, event.user or YOU
                self.history.append(Remark(event.who))
            case events.Step():
                self._step(event)
            case events.UserWords(text, start):
                self.transcribing = True  # also in a talk that was recorded
                self._write(start, text)
            case events.Transcribing(model):
                self.transcribing = bool(model)
            case events.Renewed(index, _, filled):
                self._forgotten = self._prompt + index - filled
            case events.Latency(device_in, queue, cushion, device_out):
                self._settle({"card in": device_in, "queue": queue, "cushion": cushion, "card out": device_out})
            case events.Network(round_trip, server_step):
                # Means of a second already.
                self.stages["network"] = round_trip
                if server_step is not None:
                    self.stages["server"] = server_step
            case events.Glitch():
                self._glitch(event)
            case events.Note(text) | events.Started(text, _):
                self.log.append((now, text))
            case events.Notice(text, on):
                self.notices.pop(text, None)
                if on:
                    self.notices[text] = None
            case events.Devices(microphone, speaker):
                self.microphone, self.speaker = microphone, speaker
            case events.Recording(folder):
                self.recording = folder
            case events.Muted(on):
                self.muted = on
            case events.Favourites(names):
                self.favourites = names
            case events.Hushed(on):
                self.hushed = on
            case events.Finished():
                self.files = event.files

    def finish(self, least: float = 0.0) -> None:
        """End the conversation: its last turn joins the history, and if it lasted `least` seconds its figures do."""
        self._awaited.clear()
        self._remember(self.turns.end(), self._said(self.user.end(), self.user_words.end()))
        if self.frames and self.seconds >= least:
            steps, figures = self.steps, list[str]()
            if steps.count:
                figures.append(f"Steps took {steps.percentile(50)} ms (p50), {steps.percentile(95)} ms (p95)")
                figures.append(f"{steps.misses} of {steps.count} missed {FRAME_MS:.0f} ms")
            figures.append(counted(self.glitches.get("underrun", 0), "underrun"))
            what = "Played" if self._replays else "Talked for"
            about = f"{what} {clock(self.seconds)}, {counted(self.words, 'word')}. {'; '.join(figures)}."
            self.history.append(Remark(about))
        self._frames_before = self.frames or self._frames_before
        self._begin(None)

    def notes(self, now: float) -> list[str]:
        """What is news, the newest last, and then what holds now."""
        since = self.since if self.is_live else 0.0  # news of the way to live are news when it is reached
        news = (text for came, text in self.log if came is not None and now - max(came, since) < NOTE_SECONDS)
        return [*news, *self.notices]

    @property
    def is_live(self) -> bool:
        """It goes on now, or again."""
        return self.phase in (Phase.LIVE, Phase.REPLAY)

    @property
    def writing(self) -> bool:
        """What the user has said is being written down."""
        return self.transcribing and bool(self._awaited)

    @property
    def telling(self) -> str:
        """What the agent says, and has said as far as it is not in the history yet."""
        held = [entry.text for _, entry in self._finished if isinstance(entry, Turn)]
        return " ".join([*held, self.turns.text]).strip()

    @property
    def fresh(self) -> str:
        """The newest words of the turn that goes on."""
        return self.turns.text[self._lengths[0] :] if self._lengths else ""

    @property
    def clipped(self) -> bool:
        """The microphone has been too loud, just now."""
        return self.frames - self._clipped < CLIPPED_FRAMES

    @property
    def troubled(self) -> bool:
        """Steps were late, or sound was lost, just now."""
        return self.frames - self._trouble < TROUBLE_FRAMES

    @property
    def seconds(self) -> float:
        """How long the conversation has lasted."""
        return self.frames * FRAME_SECONDS

    @property
    def used(self) -> int:
        """Positions of the model's context that are taken."""
        return self._prompt + self.remembered

    @property
    def remembered(self) -> int:
        """Frames of the talk that the model has in its memory, or had until it was full."""
        return self.frames - self._forgotten

    @property
    def _prompt(self) -> int:
        return self.who.prompt_frames if self.who else 0

    @property
    def delays(self) -> list[tuple[str, float]]:
        """The stages of sound on its way from the microphone to the speaker, in order, with their milliseconds.

        Empty until all are known. The first sample of a frame waits until the frame is full: that is a stage too.
        """
        stages = {**self.stages, "frame": FRAME_MS}
        engine = ("network", "server") if "network" in stages else ("encode", "LM", "decode")
        order = ("card in", "frame", "queue", *engine, "cushion", "card out")
        return [(stage, stages[stage]) for stage in order] if len(stages) == len(order) else []

    def _begin(self, who: events.Began | None) -> None:
        self.who = who
        self.frames = 0  # heard and answered
        self._forgotten = 0  # of them, when the model's memory was renewed
        self.glitches = {}
        self.steps = StepTimes()
        self.stages: dict[str, float] = {}
        self.words = 0
        self.turns = Turns(who.persona or AGENT if who else AGENT)
        self.user = UserTurns()
        self.user_words: Turns = Turns(USER)
        # Turns that are over, and when: not in the history while what began earlier may still come.
        self._finished: list[tuple[int, Turn | UserTurn]] = []
        self._awaited: list[tuple[float, int]] = []  # starts and ends of the user's speech without words yet
        self._written = -math.inf  # seconds: the words that began until then are known
        self._lengths: deque[int] = deque(maxlen=FRESH)  # of that turn's text, after each of the last frames
        self._clipped = self._trouble = -math.inf  # the frame in which it was seen last

    def _enter(self, phase: Phase, detail: str, now: float) -> None:
        if phase != self.phase:
            self.passed = {} if self.phase in SETTLED else {**self.passed, self.phase: now - self.since}
            self.phase, self.since = phase, now
        self._replays = self._replays or phase == Phase.REPLAY
        self.detail = detail

    def _step(self, step: events.Step) -> None:
        spoken = self.user.add(self.frames, step.heard)
        if spoken and spoken.start > self._written + SOON:
            self._awaited.append((spoken.start, self.frames))
        self._awaited = [each for each in self._awaited if self.frames - each[1] < AWAITED_FRAMES]
        said = self._said(spoken, self.user_words.add(self.frames, ""))
        self._remember(self.turns.add(self.frames, step.text), said)
        self._lengths.append(len(self.turns.text))
        if step.clipped:
            self._clipped = self.frames
        self.frames += 1
        if step.timings:
            self._settle({"encode": step.timings.encode, "LM": step.timings.lm, "decode": step.timings.decode})
        if (milliseconds := step.timings.total if step.timings else self.stages.get("server")) is not None:
            self.steps.add(milliseconds)
            if milliseconds > FRAME_MS:
                self._trouble = self.frames
        self.heard.append(step.heard)
        self.said.append(step.said)

    def _write(self, start: int, text: str) -> None:
        """Take a word of the user's: what was said before it has all its words."""
        self._written = max(self._written, start * FRAME_SECONDS)
        self._awaited = [each for each in self._awaited if each[0] > self._written + SOON]
        self._remember([], self._said(None, self.user_words.add(start, text)))

    def _said(self, spoken: UserTurn | None, turns: Sequence[Turn]) -> list[UserTurn]:
        """What the user has finished saying: in words if these are written down, else as it was heard."""
        before = self._frames_before * FRAME_SECONDS  # words may come when the conversation has begun again
        starts = [turn.start if turn.start >= 0 else round(max(0, before + turn.start), 2) for turn in turns]
        worded = [UserTurn(start, (), turn.text, self.you) for start, turn in zip(starts, turns, strict=True)]
        return worded + ([spoken] if spoken and not self.transcribing else [])

    def _remember(self, turns: Sequence[Turn], spoken: Sequence[UserTurn]) -> None:
        """Put what is finished into the history, in the order in which it began."""
        self.words += sum(len(turn.text.split()) for turn in turns)
        if turns:
            self._lengths.clear()
            if self.user.on and self.user.start < turns[0].start and not self.transcribing:
                spoken = [*spoken, *self._said(self.user.end(), [])]  # until now; it may go on after this turn
        finished: list[Turn | UserTurn] = [*turns, *spoken]
        self._finished += [(self.frames, each) for each in finished]
        self._finished.sort(key=lambda each: each[1].start)
        first = self._first_to_come()
        late = self.frames - AWAITED_FRAMES
        ready = [e for e in self._finished if e[1].start <= first or (isinstance(e[1], Turn) and e[0] <= late)]
        self._finished = [each for each in self._finished if each not in ready]
        self.history.extend(entry for _, entry in ready)

    def _first_to_come(self) -> float:
        """When the earliest turn began that is not over, or has no words yet."""
        starts = [self.turns.start] if self.turns.text else []
        if self.transcribing:
            starts += [start for start, _ in self._awaited]
            starts += [self.user_words.start] if self.user_words.text else []
            starts += [max(self.user.start, self._written)] if self.user.on else []
        return min(starts, default=math.inf)

    def _settle(self, figures: dict[str, float]) -> None:
        for stage, milliseconds in figures.items():
            before = self.stages.get(stage, milliseconds)
            self.stages[stage] = before + (milliseconds - before) * SMOOTHING

    def _glitch(self, glitch: events.Glitch) -> None:
        before = self._totals.get(glitch.kind, 0)
        self._totals[glitch.kind] = glitch.total
        self.glitches[glitch.kind] = self.glitches.get(glitch.kind, 0) + max(0, glitch.total - before)
        self._trouble = self.frames
        if self.log and self.log[-1][1].startswith(f"{glitch.kind} "):
            self.log.pop()  # many in a row are one line with the newest count
        self.log.append((None, f"{glitch.kind} {glitch.total}" + (f": {glitch.detail}" if glitch.detail else "")))


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours when there are any."""
    minutes, seconds = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def written(files: Sequence[str]) -> str:
    """Where the files of a conversation are; their folder, if they are all in one, once."""
    folders, names = {str(PurePath(file).parent) for file in files}, [PurePath(file).name for file in files]
    folder = folders.pop()
    return f"Written: {', '.join(files)}" if folders or folder == "." else f"Written to {folder}: {', '.join(names)}"


def downloaded(arrived: events.Downloading) -> str:
    """In the unit that shows how it grows."""
    if arrived.total < 1e9:
        return f"{arrived.done / 1e6:.0f} of {arrived.total / 1e6:.0f} MB"
    return f"{arrived.done / 1e9:.1f} of {arrived.total / 1e9:.1f} GB"


def download_speed(arrivals: Sequence[tuple[float, events.Downloading]]) -> float:
    """Bytes a second over the last arrivals; 0 while unknown."""
    if not arrivals:
        return 0.0
    (start, first), (end, last) = arrivals[0], arrivals[-1]
    return max(0.0, (last.done - first.done) / (end - start)) if end > start else 0.0
