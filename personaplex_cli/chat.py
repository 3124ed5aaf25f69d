"""The program behind `personaplex chat`: a live conversation.

Two threads share it. The model thread owns torch: it finds, loads and primes the model, opens the sound card when all
is ready, and runs `converse`. The caller's thread draws, reads keys and catches Ctrl-C. They meet in the flags of
`Chat` and in the events.
"""

import gc
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from personaplex_cli.audio.devices import CardChoice, check_choice
from personaplex_cli.audio.soundcard import SoundCard
from personaplex_cli.conversation import converse
from personaplex_cli.events import Began, Event, Finished, Hushed, Listener, Muted, Note, State, Step
from personaplex_cli.keeping import KeptAudio
from personaplex_cli.prompt import Prompt
from personaplex_cli.samples import FRAME_SECONDS
from personaplex_cli.startup import Character, Machine, describe, long_prompt, start_engine
from personaplex_cli.transcript import Transcript

if TYPE_CHECKING:
    from personaplex_cli.library.weights import ModelFiles
    from personaplex_cli.model.engine import Engine

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

    def __init__(
        self, machine: Machine, character: Character, choice: CardChoice, record: Path | None, listen: Listener
    ) -> None:
        self.error: BaseException | None = None  # what ended it, if it was not the user
        self._machine = machine
        self._character = character
        self._choice = choice
        self._record = record
        self._listen = listen
        self._stop = threading.Event()
        self._restart = threading.Event()
        self._hush = threading.Event()
        self._hushed = self._muted = False
        self._card: SoundCard | None = None
        self._steps: list[float] = []
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
            engine, files = start_engine(self._machine, self._listen)
            prompt = self._character.prompt(files)
            self._warm_up(engine, prompt)
            self._talk(engine, prompt, files)
        except BaseException as error:
            self.error = error
        finally:
            self._listen(State("ended"))

    def _warm_up(self, engine: "Engine", prompt: Prompt) -> None:
        self._listen(State("warming up"))
        slow = engine.warm_up(prompt)
        if slow > 1000 * FRAME_SECONDS:
            self._listen(Note(f"A frame takes {slow:.0f} ms here, more than its 80 ms: speech will break up."))
        # What is loaded stays: looking through all of it for garbage would take longer than a frame.
        gc.collect()
        gc.freeze()

    def _talk(self, engine: "Engine", prompt: Prompt, files: "ModelFiles") -> None:
        self._listen(State("priming"))
        used = engine.begin(prompt)
        if note := long_prompt(used, engine):
            self._listen(note)
        began = self._began(engine, used, files)
        with ExitStack() as open_things:
            if self._stop.is_set():
                return
            # The microphone opens only now that there is somebody to listen.
            self._card = card = open_things.enter_context(SoundCard(self._choice, self._listen))
            card.muted = self._muted
            kept = None
            if self._record:
                settings = describe(self._machine, self._character, engine, files)
                kept = open_things.enter_context(KeptAudio(card, self._record, settings, self._listen))
            open_things.callback(self._finish, kept)  # also when the card dies: what was kept is told
            while True:
                self._listen(began)
                self._listen(State("live"))
                self._converse(engine, card, kept)
                if self._stop.is_set() or not self._restart.is_set():
                    break
                self._restart.clear()
                self._listen(State("priming"))
                engine.begin(prompt)

    def _converse(self, engine: "Engine", card: SoundCard, kept: KeptAudio | None) -> None:
        """From the prompt to the end or the next restart."""
        for step in converse(engine, kept or card):
            self._report(step, card, kept)
            if self._hush.is_set():
                self._hush.clear()
                engine.hush()
            if engine.hushed != self._hushed:
                self._hushed = engine.hushed
                self._listen(Hushed(self._hushed))
            if self._stop.is_set() or self._restart.is_set():
                return

    def _report(self, step: Step, card: SoundCard, kept: KeptAudio | None) -> None:
        self._listen(step)
        if step.index % LATENCY_FRAMES == 0:
            self._listen(card.latency())
        self._transcript.add(len(self._steps), step.text)
        self._steps.append(step.timings.total)
        if kept:
            kept.step(step)

    def _finish(self, kept: KeptAudio | None) -> None:
        seconds = len(self._steps) * FRAME_SECONDS
        speed = round(1000 * seconds / (sum(self._steps) or 1), 2)
        files = kept.files if kept else ()
        self._listen(Finished("conversation", files, round(seconds, 2), speed, self._transcript.text))

    def _began(self, engine: "Engine", prompt_frames: int, files: "ModelFiles") -> Began:
        return Began(
            persona=self._character.persona.name,
            voice=self._character.voice.name,
            model=files.name,
            device=str(engine.device),
            precision=engine.precision,
            seed=self._character.sampling.seed,
            prompt_frames=prompt_frames,
            context=engine.context,
        )
