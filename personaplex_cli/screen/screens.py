"""What every screen has in common, and those without a panel: sentences, bars beside them, JSON lines for scripts.

Events come from any thread, writing happens on one. The model's thread must never wait for a terminal or a full pipe,
so `show` only queues. The thread that opened the screen calls `refresh` some ten times a second, and only there is
anything written.
"""

import json
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import PurePath
from typing import Any, Self, TextIO

from rich import progress
from rich.console import Console

from personaplex_cli.events import (
    Began,
    Devices,
    Downloading,
    Event,
    Failed,
    Finished,
    Glitch,
    Note,
    Notice,
    Phase,
    Scoring,
    Started,
    State,
    Step,
    Steps,
    Visitors,
    as_json,
)
from personaplex_cli.samples import FRAME_SECONDS
from personaplex_cli.screen.lines import in_lines
from personaplex_cli.screen.state import PanelState, Remark, clock, downloaded, written
from personaplex_cli.screen.theme import theme_for
from personaplex_cli.screen.user_turns import UserTurn
from personaplex_cli.transcript import AGENT, USER, Turn, Turns

WAITING = 10_000  # events, a quarter of an hour of talk; without a refresh for so long the oldest are dropped
TENTHS = 10  # lines that a download takes
METER_RANGE = 70  # dB below full scale
STOP: Any = getattr(signal, "SIGTSTP", None)  # Ctrl-Z; Windows has none
SHOW_CURSOR, HIDE_CURSOR = b"\x1b[?25h", b"\x1b[?25l"
SPEAKERS = {USER: "You", AGENT: "It"}  # others have names
SHORT_ANSWER = 400  # characters; a longer one is read in its file
# Narrow bars: where a line is full, the ^C that the terminal shows breaks it in two, and half of it stays.
TITLE, BAR = progress.TextColumn("{task.description}", markup=False), progress.BarColumn(24)
SPEED = progress.TextColumn("{task.fields[speed]}")
DOWNLOAD = (TITLE, BAR, progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeRemainingColumn())
METER = (TITLE, BAR, SPEED)
SCORES = (TITLE, BAR, progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
VISITORS = (TITLE,)
ANSWER = (TITLE, BAR, progress.TaskProgressColumn(), SPEED)


class Screen(ABC):
    """Shows events between `with` and its end; `show` is their listener."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque(maxlen=WAITING)
        self._now = 0.0

    def show(self, event: Event) -> None:
        """Take an event, on any thread, without waiting."""
        self._waiting.append(event)

    def press(self, key: str) -> bool:
        """Take a key that changes only what is seen; False if this screen has no use for it."""
        return False

    def refresh(self, now: float) -> None:
        """Write what has happened. `now` is a monotonic clock in seconds, always the same one."""
        self._now = now
        while self._waiting:
            self._take(self._waiting.popleft(), now)

    @abstractmethod
    def _take(self, event: Event, now: float) -> None:
        """Show one event, or remember it to be shown."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh(self._now)


class Screens:
    """Several screens as one, such as the panel and a log file. It opens and closes them."""

    def __init__(self, screens: Sequence[Screen]) -> None:
        self._screens = screens
        self._open = ExitStack()

    def show(self, event: Event) -> None:
        for screen in self._screens:
            screen.show(event)

    def press(self, key: str) -> bool:
        return any([screen.press(key) for screen in self._screens])  # a list: every screen gets the key

    def refresh(self, now: float) -> None:
        for screen in self._screens:
            screen.refresh(now)

    def __enter__(self) -> Self:
        for screen in self._screens:
            self._open.enter_context(screen)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


class Sentences(Screen):
    """Writes lines of text to a console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._readable = theme_for(console, "none").readable

    def _say(self, text: str) -> None:
        said = in_lines(self._readable(text), self._console)
        self._console.print(said, markup=False, highlight=False, emoji=False, soft_wrap=True)


class PlainLines(Sentences):
    """A line for each state, turn, glitch and note."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._state = PanelState()
        self._tenths = -1  # of the download that have a line

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._state.finish()
        self._write_history()
        if self._state.files:
            self._say(written(self._state.files))

    def _take(self, event: Event, now: float) -> None:
        self._state.apply(event, now)
        self._write_history()
        match event:
            case State(name) if name != Phase.ENDED:  # what follows says how it ended
                self._say(_sentence(event))
            case Downloading(done, total):
                tenths = done * TENTHS // max(1, total)
                if tenths > self._tenths:
                    self._say(f"Downloaded {downloaded(event)}")
                self._tenths = tenths
            case Glitch(kind, total, detail):
                self._say(f"{kind.capitalize()} {total}" + (f": {detail}" if detail else ""))
            case Note(text) | Notice(text, on=True):
                self._say(text)
            case Devices(microphone, speaker):
                self._say(f"Microphone: {microphone}. Speaker: {speaker}.")

    def _write_history(self) -> None:
        while self._state.history:
            match self._state.history.popleft():
                case Remark(text):
                    self._say(text)
                case UserTurn(start, text=text) as turn:
                    said = f": {text}" if text else f", {turn.seconds:.1f} s"
                    self._say(f"{clock(start)}  {turn.speaker}{said}")
                case Turn(start, text, speaker):
                    self._say(f"{clock(start)}  {speaker}: {text}")


class ProgressScreen(Sentences):
    """Bars on a terminal while files are downloaded or answered, and sentences. `show` writes at once: its programs
    have no thread that must not wait. Its console is stderr, as stdout may carry sound or JSON.

    A bar hides the cursor; while Ctrl-Z stops the program, the shell gets it back.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar: progress.Progress | None = None
        self._answers: _Answers | None = None  # once the first recording has begun
        self._said: set[str] = set()
        self._default_stop: Any = None

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if self._console.is_terminal and is_main and STOP and signal.getsignal(STOP) is signal.SIG_DFL:
            self._default_stop = signal.signal(STOP, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        if self._default_stop is not None:
            signal.signal(STOP, self._default_stop)
        self._close()

    def _stop(self, *_: object) -> None:
        """Be stopped, as whoever sent the signal wants, and go on when continued. It may come amid any writing."""
        is_drawing, file = self._bar is not None, self._console.file.fileno()
        if is_drawing:
            os.write(file, SHOW_CURSOR)
        signal.signal(STOP, signal.SIG_DFL)
        os.kill(os.getpid(), STOP)  # does not return until the program is continued
        signal.signal(STOP, self._stop)
        if is_drawing:
            os.write(file, HIDE_CURSOR)

    def show(self, event: Event) -> None:
        self._take(event, 0.0)

    def level(self, level: float) -> float:
        """Show how loud the microphone is, in dBFS; returns it."""
        bar = self._bar or self._open(METER, "Microphone", METER_RANGE)
        bar.update(bar.task_ids[0], completed=max(0.0, METER_RANGE + level), speed=f"{level:.0f} dBFS")
        return level

    def _take(self, event: Event, now: float) -> None:
        match event:
            case Note(text) | Notice(text, on=True):
                self._say(text)
            case Devices(microphone, speaker):
                self._say(f"Microphone: {microphone}. Speaker: {speaker}.")
            case State():
                if not self._answers:  # each of many conversations is prepared, under the bar of all
                    self._close()
                self._say_once(_sentence(event))
            case Began(persona, voice, seed=seed):
                self._say_once(f"{persona} with the voice {voice}{'' if seed is None else f', seed {seed}'}.")
            case Downloading(done, total):
                bar = self._bar or self._open(DOWNLOAD, "Downloading", total)
                bar.update(bar.task_ids[0], completed=done, total=total)
            case Scoring(done, total):
                if not done:  # after the answers
                    self._close()
                bar = self._bar or self._open(SCORES, "Scoring", total)
                bar.update(bar.task_ids[0], completed=done)
            case Visitors():  # one line below all others, which is written anew only when it changes
                bar = self._bar or self._open(VISITORS, "", 1, auto_refresh=False)
                bar.update(bar.task_ids[0], description=visitors(event), refresh=True)
            case Started():
                if event.count == 1:  # each is timed by itself
                    self._close()
                    self._answers = None
                self._answers = self._answers or _Answers(event)
                self._answers.begin(event)
                if not self._bar:
                    self._open(ANSWER, "", self._answers.frames)
                self._draw(self._answers)
            case Step() | Steps() if self._answers:
                self._answers.answered(event)
                self._draw(self._answers)
            case Finished(source, files, seconds, speed, text, turns):
                is_single = self._answers is None or self._answers.count == 1
                if is_single:
                    self._close()
                elif self._answers:
                    self._answers.end(source)
                    self._draw(self._answers)
                where = f" -> {', '.join(files)}" if files else ""
                self._say(f"{source}{where}  ({seconds:.1f} s, {speed:.1f}x real time)")
                if self._answers and is_single and sum(len(said) for _, said in turns) + len(text) <= SHORT_ANSWER:
                    self._say_turns(turns, self._answers.said or text)

            case Failed(source, error):
                if self._answers:
                    self._answers.end(source)
                self._say(f"{source} was not answered: {error}")

    def _say_turns(self, turns: Sequence[tuple[str, str]], text: str) -> None:
        """What both said, in order, where the user's words are known; else the agent's text."""
        if any(speaker != AGENT for speaker, _ in turns):
            for speaker, said in turns:
                self._say(f"{SPEAKERS.get(speaker, speaker)} said: {said}")
        elif text:
            self._say(f"It said: {text}")
        if not text:
            self._say("It said nothing.")

    def _draw(self, answers: "_Answers") -> None:
        if self._bar:
            title, speed = self._readable(answers.title), answers.speed(time.monotonic())
            self._bar.update(self._bar.task_ids[0], description=title, completed=answers.done, speed=speed)

    def _say_once(self, text: str) -> None:
        """What is the same for each of many recordings."""
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    def _open(
        self, columns: tuple[progress.ProgressColumn, ...], title: str, total: int, auto_refresh: bool = True
    ) -> progress.Progress:
        # rich draws nothing of a disabled bar: a pipe or a log file gets the sentences only.
        hidden = not self._console.is_terminal
        self._bar = progress.Progress(
            *columns, console=self._console, transient=True, disable=hidden, auto_refresh=auto_refresh
        )
        self._bar.add_task(title, total=total, speed="")
        self._bar.start()
        return self._bar

    def _close(self) -> None:
        if self._bar:
            self._bar.stop()
        self._bar = None


class _Answers:
    """How far the answers to all recordings have come, however many are given at once."""

    def __init__(self, first: Started) -> None:
        self.count = first.count
        self.frames = first.frames_left or first.frames  # of all
        self._under_way: dict[str, Started] = {}
        self._since = time.monotonic()
        self._left = self.frames
        self._turns, self._ended = Turns(), list[Turn]()  # of a single answer

    def begin(self, started: Started) -> None:
        self._under_way[started.source] = self._newest = started
        self._left = started.frames_left or started.frames

    def end(self, source: str) -> None:
        self._under_way.pop(source, None)

    def answered(self, event: Step | Steps) -> None:
        if isinstance(event, Step) and self.count == 1:
            self._ended += self._turns.add(self.done, event.text)
        self._left = max(0, self._left - (event.frames if isinstance(event, Steps) else 1))

    @property
    def said(self) -> str:
        """A single answer, with dashes between turns: one may have been broken off."""
        self._ended += self._turns.end()
        return " — ".join(turn.text for turn in self._ended)

    @property
    def done(self) -> int:
        return self.frames - self._left

    @property
    def title(self) -> str:
        """`a.wav`; `3/1000 a.wav`; `3/1000, 8 at once`."""
        [*_, last] = self._under_way.values() or [self._newest]
        name, number = PurePath(last.source).name, f"{self._newest.number}/{self.count}"
        if self.count == 1:
            return name
        return f"{number} {name}" if len(self._under_way) <= 1 else f"{number}, {len(self._under_way)} at once"

    def speed(self, now: float) -> str:
        """That of all together, and how long what is left will take, from how long it has taken so far."""
        took = max(now - self._since, 1e-9)
        text = f"{self.done * FRAME_SECONDS / took:.1f}x real time"
        if self.count == 1 or not self.done:
            return text
        return f"{text}, {clock(took / self.done * self._left)} left"


class JsonLines(Screen):
    """An object on a line for every event, as `events.as_json` makes it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def refresh(self, now: float) -> None:
        super().refresh(now)
        self._stream.flush()

    def _take(self, event: Event, now: float) -> None:
        # ASCII, so that any encoding of the stream can carry it.
        self._stream.write(json.dumps(as_json(event)) + "\n")


def _sentence(state: State) -> str:
    return f"{state.name.capitalize()} {state.detail}".rstrip()


def visitors(now: Visitors) -> str:
    talk = f"{now.talking} of {now.slots} talk{'s' * (now.talking == 1)}" if now.talking else "Nobody talks"
    return f"{talk}{f', {now.waiting} wait' + 's' * (now.waiting == 1) if now.waiting else ''}."
