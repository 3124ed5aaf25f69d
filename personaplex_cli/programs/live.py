"""What a program that shows a conversation while it goes on is made of.

Two threads share it. The model's (`worker.py`) starts the engine and runs the rounds. The caller's draws, reads keys
and catches Ctrl-C.
"""

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Protocol

from personaplex_cli.conversation import Audio, Conversation, Engine, Wakeup
from personaplex_cli.events import Event, Finished, Listener, Phase, State, Step
from personaplex_cli.files import check_folder
from personaplex_cli.recorder import Recorder
from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS
from personaplex_cli.worker import ModelWorker

REDRAW_SECONDS = 1 / 12
END_TIMEOUT = 1.0  # seconds that the model's thread gets to end; while it loads it hears nothing


class Display(Protocol):
    """What shows the conversation: `screen/` has some."""

    def show(self, event: Event) -> None: ...
    def press(self, key: str) -> bool: ...
    def refresh(self, now: float) -> None: ...


class Keyboard(Protocol):
    def poll(self, seconds: float) -> str | None: ...


def recorder_in(folder: Path | None, audio: Audio, listen: Listener) -> Recorder | None:
    """What records to this folder, if there is one. Raises UsageError now, not when the model is loaded."""
    if folder is None:
        return None
    check_folder(folder)
    return Recorder(audio, folder, listen)


class Live(ABC):
    """`run` it in the thread that draws. `listen` hears all events, from both threads."""

    def __init__(self, start: Callable[[], Engine], listen: Listener) -> None:
        """`start` returns the engine, in the model's thread."""
        self._start = start
        self._listen = listen
        self._engine: Engine | None = None
        self._worker: ModelWorker | None = None
        self._recorder: Recorder | None = None
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._wakeup = Wakeup()
        self._frames = 0  # of all that was said, restarts included
        self._busy = 0.0  # milliseconds that a model here took for them

    @property
    def error(self) -> BaseException | None:
        """What ended it, if it was not the user."""
        return self._failure or (self._worker.error if self._worker else None)

    def run(self, display: Display, keyboard: Keyboard) -> None:
        """Start the model's thread; draw and obey keys until it ends or is to end: call `end` then.

        Ctrl-C comes out as KeyboardInterrupt.
        """
        sys.setswitchinterval(0.001)  # the callback of the sound card must not wait long for Python
        ended = partial(self._listen, State(Phase.ENDED))
        self._worker = ModelWorker(self._open, self._conversations(), self._wakeup, ended=ended)
        while self._worker.is_alive and not self._stopping.is_set():
            display.refresh(time.monotonic())
            key = keyboard.poll(REDRAW_SECONDS)
            if key and not display.press(key):
                self.press(key)

    def press(self, key: str) -> None:
        """q quits; other keys mean nothing."""
        if key == "q":
            self.stop()

    def stop(self) -> None:
        """Ask the model's thread to end."""
        self._stopping.set()
        self._hang_up()
        self._wakeup.ring()
        if self._engine:
            self._engine.close()

    def end(self) -> bool:
        """Stop, and wait a moment; False if the model's thread is too busy loading to end.

        A disk is waited for, however slow it is: nothing that was said is lost, unless Ctrl-C comes meanwhile.
        """
        self.stop()
        if self._worker is None or self._worker.join(END_TIMEOUT):
            return True
        if self._recorder:
            self._recorder.close()
        return self._worker.join(END_TIMEOUT)

    def _open(self) -> Engine:
        self._engine = self._start()
        return self._engine

    def _count(self, step: Step) -> None:
        self._frames += 1
        self._busy += step.timings.total if step.timings else FRAME_MS

    def _finished(self, what: str, files: tuple[str, ...], text: str) -> Finished:
        seconds = self._frames * FRAME_SECONDS
        return Finished(what, files, round(seconds, 2), round(1000 * seconds / (self._busy or 1), 2), text)

    @abstractmethod
    def _conversations(self) -> Generator[Conversation, None, None]:
        """The conversations, in the model's thread; what they needed is closed when the next one is asked for."""

    @abstractmethod
    def _hang_up(self) -> None:
        """End the conversations, from any thread."""
