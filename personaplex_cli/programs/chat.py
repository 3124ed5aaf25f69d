"""The program behind `personaplex chat`: a live conversation.

Two threads share it. The model's (`worker.py`) starts the engine and runs the rounds; the sound card opens in it when
the prompt has been read. The caller's thread draws, reads keys and catches Ctrl-C. They meet in the conversation, which
takes wishes from any thread, and in the events.
"""

import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from personaplex_cli.audio.devices import check_devices
from personaplex_cli.audio.soundcard import SoundCard
from personaplex_cli.character import Character
from personaplex_cli.conversation import Conversation, Disconnected, Engine, Wakeup
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Began, Ended, Event, Finished, Listener, Muted, Note, Phase, State, Step
from personaplex_cli.library.whisper_files import find_whisper
from personaplex_cli.options import LiveSoundCardOptions
from personaplex_cli.recogniser import open_recogniser
from personaplex_cli.recorder import Recorder
from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS
from personaplex_cli.transcriber import Transcriber
from personaplex_cli.transcript import Transcript
from personaplex_cli.worker import ModelWorker

REDRAW_SECONDS = 1 / 12
LATENCY_FRAMES = 3  # frames between two reports of latency
PATIENCE = 6  # redraws before it is said what is waited for
END_TIMEOUT = 1.0  # seconds that the model's thread gets to end; while it loads it hears nothing


class Display(Protocol):
    """What shows the conversation: `screen/` has some."""

    def show(self, event: Event) -> None: ...
    def press(self, key: str) -> bool: ...
    def refresh(self, now: float) -> None: ...


class Keyboard(Protocol):
    def poll(self, seconds: float) -> str | None: ...


class Chat:
    """One conversation, restarts included. `listen` hears all its events, from both threads."""

    def __init__(
        self,
        start: Callable[[], Engine],
        character: Character,
        card_options: LiveSoundCardOptions,
        record: Path | None,
        listen: Listener,
        favourites: Mapping[str, Character] = MappingProxyType({}),
        asr: str | None = None,
    ) -> None:
        """`start` returns the engine, in the model's thread; `record` is the folder for recordings, if any.

        `favourites` says by key who the user may switch to, `asr` which model writes down the user's words.
        """
        self._start = start
        self._card_options = card_options
        self._listen = listen
        self._engine: Engine | None = None
        self._worker: ModelWorker | None = None
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._favourites = favourites
        self._speaks: Character | None = None  # who began last
        self._frames = 0  # of all that was said, restarts included
        self._busy = 0.0  # milliseconds that a model here took for them
        self._transcript = Transcript()
        self._wakeup = Wakeup()
        self._card = SoundCard(card_options, listen)
        self._recorder = Recorder(self._card, record, listen) if record else None
        self._asr = asr
        self._transcriber: Transcriber | None = None
        self._conversation = Conversation(character, self._recorder or self._card, self._hear)

    @property
    def error(self) -> BaseException | None:
        """What ended the conversation, if it was not the user."""
        return self._failure or (self._worker.error if self._worker else None)

    # The caller's thread.

    def run(self, display: Display, keyboard: Keyboard) -> None:
        """Start the model's thread; draw and obey keys until it ends or is to end: call `end` then.

        Ctrl-C comes out as KeyboardInterrupt; the user's last words are waited for, unless it comes again.
        """
        sys.setswitchinterval(0.001)  # the callback of the sound card must not wait long for Python
        ended = partial(self._listen, State(Phase.ENDED))
        self._worker = ModelWorker(self._open, self._conversations(), self._wakeup, ended=ended)
        try:
            while self._worker.is_alive and not self._stop.is_set():
                display.refresh(time.monotonic())
                key = keyboard.poll(REDRAW_SECONDS)
                if key and not display.press(key):
                    self.press(key)
        finally:
            if self._transcriber:
                self._finish_words(self._worker, display, keyboard)

    def _finish_words(self, worker: ModelWorker, display: Display, keyboard: Keyboard) -> None:
        """Draw while the model's thread waits for the user's last words; q leaves them out."""
        self.stop()
        for polls in count():
            if not worker.is_alive or keyboard.poll(REDRAW_SECONDS) == "q":
                return
            if polls == PATIENCE:
                self._listen(Note("Your last words are being written down: q leaves them out."))
            display.refresh(time.monotonic())

    def press(self, key: str) -> None:
        """m mute, s stop talking, r restart, q quit, those of favourites switch; others mean nothing."""
        match key:
            case "m":
                self._card.muted = not self._card.muted
                self._hear(Muted(self._card.muted))
            case "s":
                self._conversation.hush()
            case "r":
                self._conversation.restart()
            case "q":
                self.stop()
            case _ if character := self._favourites.get(key):
                self._conversation.restart(character)

    def stop(self) -> None:
        """Ask the model's thread to end."""
        self._stop.set()
        self._conversation.end()
        self._wakeup.ring()
        if self._engine:
            self._engine.close()
        self._card.close()

    def end(self) -> bool:
        """Stop, and wait a moment; False if the model's thread is too busy loading to end."""
        self.stop()
        if self._transcriber:
            self._transcriber.abandon()
        return self._worker is None or self._worker.join(END_TIMEOUT)

    # The model's thread.

    def _open(self) -> Engine:
        check_devices(self._card_options)
        if self._asr:  # downloaded before the model loads: better to fail now
            find_whisper(self._asr, self._listen)
        self._engine = self._start()
        return self._engine

    def _conversations(self) -> Generator[Conversation, None, None]:
        """The one conversation, and another one in place of each that a switch has ended; then all is closed."""
        held = None
        with ExitStack() as open_things:
            open_things.enter_context(self._card)
            if self._recorder:
                open_things.enter_context(self._recorder)
            if self._asr:
                recogniser = open_things.enter_context(open_recogniser(self._asr, self._listen))
                self._transcriber = Transcriber(self._conversation.audio, recogniser, self._hear)
                self._conversation.audio = self._transcriber
                open_things.callback(self._transcriber.close)
            while self._conversation is not held and not self._stop.is_set():
                held = self._conversation
                yield held

    def _hear(self, event: Event) -> None:
        if isinstance(event, Ended):
            if not (isinstance(event.error, PersonaplexError) and self._went_on(event.error)):
                self._finish(event.error)
            return
        if self._recorder:
            self._recorder.hear(event)
        self._listen(event)
        match event:
            case Began():
                self._speaks = self._conversation.character
                self._listen(State(Phase.LIVE))
            case Step():
                self._count(event)
        if self._transcriber:
            self._transcriber.hear(event)

    def _count(self, step: Step) -> None:
        if step.index % LATENCY_FRAMES == 0:
            self._listen(self._card.latency())
        self._transcript.add(self._frames, step.text)
        self._frames += 1
        self._busy += step.timings.total if step.timings else FRAME_MS

    def _went_on(self, error: PersonaplexError) -> bool:
        """Go on with who spoke before, from the beginning, if the one who was switched to cannot speak."""
        wanted, before = self._conversation.character, self._speaks
        if before is None or wanted is before or self._stop.is_set():
            return False
        what = f"{wanted.persona} cannot speak, so {before.persona} begins again: {error} {error.hint}"
        self._listen(Note(what.rstrip()))
        self._conversation = Conversation(before, self._conversation.audio, self._hear)
        return True

    def _finish(self, error: Exception | None) -> None:
        if not (isinstance(error, Disconnected) and self._stop.is_set()):  # else we hung up ourselves
            self._failure = error
        if self._speaks:
            files = self._recorder.files if self._recorder else ()
            seconds = self._frames * FRAME_SECONDS
            speed = round(1000 * seconds / (self._busy or 1), 2)
            self._listen(Finished("conversation", files, round(seconds, 2), speed, self._transcript.text))
