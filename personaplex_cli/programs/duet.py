"""The program behind `personaplex duet`: two personas talk with each other, in a batch of two.

What is shown and recorded is the talk of the one on the right, whose user is the one on the left.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import repeat

from personaplex_cli.audio.crosswire import Crosswire
from personaplex_cli.audio.speaker import Speaker, ticks
from personaplex_cli.character import Character
from personaplex_cli.conversation import Conversation, Engine
from personaplex_cli.events import (
    Began,
    Ended,
    Event,
    Listener,
    Note,
    Phase,
    State,
    Step,
    Transcribing,
    UserWords,
)
from personaplex_cli.options import DuetOptions, SpeakerOptions
from personaplex_cli.programs.live import Live, recorder_in
from personaplex_cli.samples import FRAME_SECONDS

SLOTS = 2


class Duet(Live):
    """Two conversations, each the other's user; q quits."""

    def __init__(
        self,
        start: Callable[[], Engine],
        left: Character,
        right: Character,
        options: DuetOptions,
        speaker: SpeakerOptions,
        listen: Listener,
    ) -> None:
        """`start` returns an engine with two slots, in the model's thread."""
        super().__init__(start, listen)
        self._speaker = None if options.fast else Speaker(speaker, listen)
        frames = None if options.minutes is None else round(60 * options.minutes / FRAME_SECONDS)
        pace = repeat(True) if options.fast else ticks()
        self._wire = Crosswire(frames, pace, self._speaker.play if self._speaker else lambda left, right: None)
        audio = self._wire.right
        self._recorder = recorder_in(options.record, audio, listen)
        self._left = Conversation(left, self._wire.left, self._hear_left)
        self._right = Conversation(right, self._recorder or audio, self._hear_right)

    def _conversations(self) -> Generator[Conversation, None, None]:
        with ExitStack() as open_things:
            if self._speaker:
                open_things.enter_context(self._speaker)
                self._speaker.open()
            if self._recorder:
                open_things.enter_context(self._recorder)
            yield self._left
            yield self._right

    def _hang_up(self) -> None:
        self._wire.close()

    def _hear_left(self, event: Event) -> None:
        match event:
            case Step(index, text) if text:  # the other one hears it in the next frame
                self._tell(UserWords(text, index + 1, index + 2))
            case Note():
                self._listen(event)
            case Ended(error):
                self._end(error)

    def _hear_right(self, event: Event) -> None:
        match event:
            case Began():
                user = self._left.character
                about = {"persona": user.persona, "prompt": user.prompt, "voice": user.voice}
                settings = {**event.settings, "user": {**about, "sampling": asdict(user.sampling)}}
                self._tell(replace(event, user=user.persona, settings=settings))
                self._tell(Transcribing(event.model))
                self._listen(State(Phase.LIVE))
            case Ended(error):
                self._end(error)
                self._finish()
            case Step():
                self._tell(event)
                self._count(event)
            case _:
                self._tell(event)

    def _tell(self, event: Event) -> None:
        if self._recorder:
            self._recorder.hear(event)
        self._listen(event)

    def _end(self, error: Exception | None) -> None:
        """One has ended, and with it the other."""
        self._failure = self._failure or error
        self._wire.close()

    def _finish(self) -> None:
        files = self._recorder.files if self._recorder else ()
        self._listen(self._finished("duet", files, ""))
