"""Screens that are no terminal: sentences for people and log files, JSON lines for scripts and robots."""

import json
from types import TracebackType
from typing import TextIO

from rich.console import Console

from personaplex_cli.events import Downloading, Event, Finished, Glitch, Note, State, as_json
from personaplex_cli.screen.screen import Screen
from personaplex_cli.screen.state import PanelState, Remark, clock
from personaplex_cli.screen.theme import theme_for

GIGA = 1e9
TENTHS = 10  # lines that a download takes


class PlainLines(Screen):
    """A line for each state, turn, glitch and note."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._readable = theme_for(console, "none").readable
        self._state = PanelState()
        self._tenths = -1  # of the download that have been told

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        self._state.finish()
        self._tell()

    def _take(self, event: Event, now: float) -> None:
        self._state.apply(event, now)
        self._tell()
        match event:
            case State(name, detail):
                self._say(f"{name.capitalize()} {detail}".rstrip())
            case Downloading(done, total):
                self._progress(done, total)
            case Glitch(kind, total, detail):
                self._say(f"{kind.capitalize()} {total}" + (f": {detail}" if detail else ""))
            case Note(text):
                self._say(text)
            case Finished(files=files) if files:
                self._say(f"Written: {', '.join(files)}")

    def _tell(self) -> None:
        while self._state.told:
            entry = self._state.told.popleft()
            self._say(entry.text if isinstance(entry, Remark) else f"{clock(entry.start)}  {entry.text}")

    def _progress(self, done: int, total: int) -> None:
        tenths = done * TENTHS // max(1, total)
        if tenths > self._tenths:
            self._say(f"Downloaded {done / GIGA:.1f} of {total / GIGA:.1f} GB")
        self._tenths = tenths

    def _say(self, text: str) -> None:
        self._console.print(self._readable(text), markup=False, highlight=False, emoji=False, soft_wrap=True)


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
