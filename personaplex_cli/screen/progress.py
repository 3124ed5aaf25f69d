"""What is shown while files are downloaded or answered: bars on a terminal, plain lines elsewhere.

Sees only events. Writes to the console it is given, which is stderr: stdout may carry sound or JSON.
"""

from pathlib import PurePath
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from personaplex_cli.events import Began, Downloading, Event, Finished, Note, Started, State, Step
from personaplex_cli.samples import FRAME_SECONDS

# Narrow bars: where a line is full, the ^C that the terminal shows breaks it in two, and half of it stays.
WIDTH = 24
DOWNLOAD = (
    TextColumn("{task.description}"),
    BarColumn(WIDTH),
    DownloadColumn(),
    TransferSpeedColumn(),
    TimeRemainingColumn(),
)
METER = (TextColumn("{task.description}"), BarColumn(WIDTH), TextColumn("{task.fields[speed]}"))
METER_RANGE = 70  # dB below full scale
ANSWER = (TextColumn("{task.description}"), BarColumn(WIDTH), TaskProgressColumn(), TextColumn("{task.fields[speed]}"))


class ProgressScreen:
    """Draws events while it is open; `show` is their listener."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def show(self, event: Event) -> None:
        match event:
            case Note(text):
                self._say(escape(text))
            case State(name, detail):
                self._close()
                self._say_once(f"{name.capitalize()} {escape(detail)}".rstrip())
            case Began():
                self._say_once(escape(_who(event)))
            case Downloading(done, total):
                bar = self._bar or self._open(DOWNLOAD, "Downloading", total)
                bar.update(bar.task_ids[0], completed=done, total=total)
            case Started(source, frames):
                self._close()
                self._open(ANSWER, escape(PurePath(source).name), frames)
            case Step(index):
                if self._bar:
                    elapsed = self._bar.tasks[0].elapsed or 1e-9
                    speed = (index + 1) * FRAME_SECONDS / elapsed
                    self._bar.update(self._bar.task_ids[0], completed=index + 1, speed=f"{speed:.1f}x real time")
            case Finished():
                self._close()
                self._say(_sentence(event))

    def level(self, level: float) -> float:
        """Show how loud the microphone is, in dBFS; returns it."""
        bar = self._bar or self._open(METER, "Microphone", METER_RANGE)
        bar.update(bar.task_ids[0], completed=max(0.0, METER_RANGE + level), speed=f"{level:.0f} dBFS")
        return level

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def _say_once(self, text: str) -> None:
        """What is the same for each of many recordings."""
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    def _open(self, columns: tuple[ProgressColumn, ...], title: str, total: int) -> Progress:
        # rich draws nothing of a disabled bar: a pipe or a log file gets the sentences only.
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._bar.add_task(title, total=total, speed="")
        self._bar.start()
        return self._bar

    def _close(self) -> None:
        if self._bar:
            self._bar.stop()
        self._bar = None


def _sentence(done: Finished) -> str:
    where = f" -> {', '.join(map(escape, done.files))}" if done.files else ""
    return f"{escape(done.source)}{where}  ({done.seconds:.1f} s, {done.speed:.1f}x real time)"


def _who(began: Began) -> str:
    seed = "" if began.seed is None else f", seed {began.seed}"
    return f"{began.persona} with the voice {began.voice}{seed}."
