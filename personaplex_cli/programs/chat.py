"""The program behind `personaplex chat`: a live conversation.

The sound card opens in the model's thread when the prompt has been read. It and the caller's thread (`live.py`) meet in
the conversation, which takes wishes from any thread, and in the events.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import MappingProxyType

from personaplex_cli.audio.devices import check_devices
from personaplex_cli.audio.soundcard import SoundCard
from personaplex_cli.character import Character
from personaplex_cli.conversation import Conversation, Disconnected, Engine
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Began, Ended, Event, Listener, Muted, Note, Phase, State, Step
from personaplex_cli.options import LiveSoundCardOptions
from personaplex_cli.programs.live import REDRAW_SECONDS, Display, Keyboard, Live, recorder_in
from personaplex_cli.recogniser import open_recogniser
from personaplex_cli.transcriber import Transcriber
from personaplex_cli.transcript import Transcript
from personaplex_cli.worker import ModelWorker

LATENCY_FRAMES = 3  # frames between two reports of latency
PATIENCE = 6  # redraws before it is said what is waited for


class Chat(Live):
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
        super().__init__(start, listen)
        self._card_options = card_options
        self._favourites = favourites
        self._speaks: Character | None = None  # who began last
        self._transcript = Transcript()
        self._card = SoundCard(card_options, listen)
        self._recorder = recorder_in(record, self._card, listen)
        self._asr = asr
        self._transcriber: Transcriber | None = None
        self._conversation = Conversation(character, self._recorder or self._card, self._hear)

    # The caller's thread.

    def run(self, display: Display, keyboard: Keyboard) -> None:
        """As any other; but then the user's last words are waited for, unless Ctrl-C comes again."""
        try:
            super().run(display, keyboard)
        finally:
            if self._transcriber and self._worker:
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
            case _ if character := self._favourites.get(key):
                self._conversation.restart(character)
            case _ if "1" <= key <= "9":
                self._listen(Note(f"Nobody is on key {key}."))
            case _:
                super().press(key)

    def stop(self) -> None:
        super().stop()
        self._card.close()

    def end(self) -> bool:
        self.stop()
        if self._transcriber:
            self._transcriber.abandon()
        return super().end()

    def _hang_up(self) -> None:
        self._conversation.end()

    # The model's thread.

    def _open(self) -> Engine:
        check_devices(self._card_options)
        if self._asr:  # downloaded before the model loads: better to fail now
            from personaplex_cli.library.whisper_files import find_whisper  # only here: it is slow to import

            find_whisper(self._asr, self._listen)
        return super()._open()

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
            while self._conversation is not held and not self._stopping.is_set():
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
                if blanks := self._speaks.blanks:
                    what = f"The prompt of {self._speaks.persona} still has what a template leaves open: {blanks}"
                    self._listen(Note(what))
            case Step():
                self._count(event)
        if self._transcriber:
            self._transcriber.hear(event)

    def _count(self, step: Step) -> None:
        if step.index % LATENCY_FRAMES == 0:
            self._listen(self._card.latency())
        self._transcript.add(self._frames, step.text)
        super()._count(step)

    def _went_on(self, error: PersonaplexError) -> bool:
        """Go on with who spoke before, from the beginning, if the one who was switched to cannot speak."""
        wanted, before = self._conversation.character, self._speaks
        if before is None or wanted is before or self._stopping.is_set():
            return False
        what = f"{wanted.persona} cannot speak, so {before.persona} begins again. {error} {error.hint}"
        self._listen(Note(what.rstrip()))
        self._conversation = Conversation(before, self._conversation.audio, self._hear)
        return True

    def _finish(self, error: Exception | None) -> None:
        if not (isinstance(error, Disconnected) and self._stopping.is_set()):  # else we hung up ourselves
            self._failure = error
        if self._speaks:
            files = self._recorder.files if self._recorder else ()
            self._listen(self._finished("conversation", files, self._transcript.text))
