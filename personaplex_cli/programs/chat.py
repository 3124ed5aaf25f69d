"""The program behind `personaplex chat`: a live conversation.

Two threads share it. The model thread owns the agent: it starts and primes it, opens the sound card when all is ready,
and runs `converse`. The caller's thread draws, reads keys and catches Ctrl-C. They meet in the flags of `Chat` and in
the events.
"""

import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from personaplex_cli.audio.devices import CardChoice, check_choice
from personaplex_cli.audio.soundcard import SoundCard
from personaplex_cli.conversation import Agent, Disconnected, converse
from personaplex_cli.events import Event, Finished, Hushed, Listener, Muted, State, Step
from personaplex_cli.recorder import Recorder
from personaplex_cli.samples import FRAME_SECONDS
from personaplex_cli.transcript import Transcript

REDRAW_SECONDS = 1 / 12
LATENCY_FRAMES = 3  # frames between two reports of latency
PATIENCE_SECONDS = 1.0  # that the model thread gets to end; while it loads it hears nothing


class Screen(Protocol):
    """Whatever shows the conversation: `screen/` has some."""

    def show(self, event: Event) -> None: ...
    def press(self, key: str) -> bool: ...
    def refresh(self, now: float) -> None: ...


class Keyboard(Protocol):
    def poll(self, seconds: float) -> str | None: ...


class Chat:
    """One conversation, restarts included. `listen` hears all its events, from both threads."""

    def __init__(self, agent: Agent, choice: CardChoice, record: Path | None, listen: Listener) -> None:
        self.error: BaseException | None = None  # what ended it, if it was not the user
        self._agent = agent
        self._choice = choice
        self._record = record
        self._listen = listen
        self._stop = threading.Event()
        self._restart = threading.Event()
        self._hush = threading.Event()
        self._hushed = self._muted = False
        self._card: SoundCard | None = None
        self._frames = 0  # of all that was said, restarts included
        self._busy = 0.0  # milliseconds that a model here took for them
        self._transcript = Transcript()
        self._thread = threading.Thread(target=self._run_model, name="model", daemon=True)

    # The caller's thread.

    def run(self, screen: Screen, keyboard: Keyboard) -> None:
        """Start the model thread; draw and obey keys until it ends or shall end: call `end` then.

        Ctrl-C comes out as KeyboardInterrupt.
        """
        sys.setswitchinterval(0.001)  # the callback of the sound card must not wait long for Python
        self._thread.start()
        while self._thread.is_alive() and not self._stop.is_set():
            screen.refresh(time.monotonic())
            key = keyboard.poll(REDRAW_SECONDS)
            if key and not screen.press(key):
                self.press(key)

    def press(self, key: str) -> None:
        """m mute, s stop talking, r restart, q quit; others mean nothing."""
        match key:
            case "m":
                self._muted = not self._muted
                if self._card:
                    self._card.muted = self._muted
                self._listen(Muted(self._muted))
            case "s":
                self._hush.set()
            case "r":
                self._restart.set()
            case "q":
                self.stop()

    def stop(self) -> None:
        """Ask the model thread to end."""
        self._stop.set()
        self._agent.close()
        if self._card:
            self._card.close()

    def end(self) -> bool:
        """Stop, and wait a moment; False if the model thread is too busy loading to end."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(PATIENCE_SECONDS)
        return not self._thread.is_alive()

    # The model thread.

    def _run_model(self) -> None:
        try:
            check_choice(self._choice)
            self._agent.start()
            self._agent.warm_up()
            self._talk()
        except BaseException as error:
            if not (isinstance(error, Disconnected) and self._stop.is_set()):  # else we hung up ourselves
                self.error = error
        finally:
            self._agent.close()
            self._listen(State("ended"))

    def _talk(self) -> None:
        began = self._agent.begin()
        with ExitStack() as open_things:
            if self._stop.is_set():
                return
            # The microphone opens only now that there is somebody to listen.
            self._card = card = open_things.enter_context(SoundCard(self._choice, self._listen))
            card.muted = self._muted
            kept = None
            if self._record:
                kept = open_things.enter_context(Recorder(card, self._record, self._agent.settings, self._listen))
            open_things.callback(self._finish, kept)  # also when the card dies: what was kept is told
            while True:
                self._restart.clear()
                self._listen(began)
                self._listen(State("live"))
                self._converse(card, kept)
                if self._stop.is_set() or not self._restart.is_set():
                    break
                began = self._agent.begin()

    def _converse(self, card: SoundCard, kept: Recorder | None) -> None:
        """From the prompt to the end or the next restart."""
        try:
            for step in converse(self._agent, kept or card):
                self._report(step, card, kept)
                if self._hush.is_set():
                    self._hush.clear()
                    self._agent.hush()
                if self._agent.hushed != self._hushed:
                    self._hushed = self._agent.hushed
                    self._listen(Hushed(self._hushed))
                if self._stop.is_set() or self._restart.is_set():
                    return
        except Disconnected:
            self._restart.set()  # a new conversation as soon as there is somebody again

    def _report(self, step: Step, card: SoundCard, kept: Recorder | None) -> None:
        self._listen(step)
        if step.index % LATENCY_FRAMES == 0:
            self._listen(card.latency())
        self._transcript.add(self._frames, step.text)
        self._frames += 1
        self._busy += step.timings.total if step.timings else 1000 * FRAME_SECONDS
        if kept:
            kept.step(step)

    def _finish(self, kept: Recorder | None) -> None:
        files = kept.files if kept else ()
        seconds = self._frames * FRAME_SECONDS
        speed = round(1000 * seconds / (self._busy or 1), 2)
        self._listen(Finished("conversation", files, round(seconds, 2), speed, self._transcript.text))
