"""The program behind `personaplex replay`: a recorded talk, shown and heard again at its own speed, without a model.

`Playback` takes both parts in a conversation: the engine's, which answers what was answered then, and the sound's.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from time import monotonic

from personaplex_cli.audio.speaker import Speaker, ticks
from personaplex_cli.character import Character
from personaplex_cli.conversation import NO_ONE, Conversation, Reply
from personaplex_cli.events import Began, Ended, Event, Listener, Phase, State
from personaplex_cli.options import SpeakerOptions
from personaplex_cli.programs.live import Live
from personaplex_cli.recorded import RecordedTalk
from personaplex_cli.samples import FRAME_SECONDS, Samples, frame_at
from personaplex_cli.transcript import USER

NOBODY = Character("", "", "", "")  # who spoke is in the recording


class Playback:
    """A recorded talk as the engine of a conversation, and as its audio."""

    slots = 1

    def __init__(self, talk: RecordedTalk, speaker: Speaker, clock: Callable[[], float] = monotonic) -> None:
        self._talk = talk
        self._speaker = speaker
        self._clock = clock
        self._ahead: list[tuple[int, Event]] = []  # what is still to happen
        self._index = 0  # of the next frame
        self._texts: dict[int, str] = {}
        for word in talk.words:
            if word.speaker != USER:
                frame = round(word.start / FRAME_SECONDS)
                self._texts[frame] = f"{self._texts.get(frame, '')} {word.word}"

    def begin(self, slot: int, character: Character) -> None:
        self._index, self._ahead = 0, self._talk.happened()

    def prefill(self) -> Iterable[tuple[int, Event]] | None:
        """What happened before the next frame."""
        if not self._ahead or self._ahead[0][0] > self._index:
            return None
        due = [event for frame, event in self._ahead if frame <= self._index]
        del self._ahead[: len(due)]
        return [(0, event) for event in due]

    def step(self, frames: Mapping[int, Samples], silent: Mapping[int, int] = NO_ONE) -> Mapping[int, Reply]:
        at, talk = self._index, self._talk
        tokens = () if talk.tokens is None or at >= len(talk.tokens) else tuple(talk.tokens[at].tolist())
        self._index += 1
        return {0: Reply(frame_at(talk.said, at), self._texts.get(at, ""), tokens)}

    def end(self, slot: int) -> None: ...

    def close(self) -> None: ...

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
        """The user's sound from where the talk is now, at its pace."""
        self._speaker.open()
        return self._frames()

    def _frames(self) -> Iterator[Samples | None]:
        for due in ticks(self._clock):
            if self._index >= self._talk.frames:
                return
            yield frame_at(self._talk.heard, self._index) if due else None

    def play(self, pcm: Samples) -> None:
        self._speaker.play(frame_at(self._talk.heard, self._index - 1), pcm)


class Replay(Live):
    """Shows a talk; r begins again, q quits."""

    def __init__(self, talk: RecordedTalk, options: SpeakerOptions, listen: Listener) -> None:
        self._speaker = Speaker(options, listen)
        playback = Playback(talk, self._speaker)
        super().__init__(lambda: playback, listen)
        self._conversation = Conversation(NOBODY, playback, self._hear)

    def press(self, key: str) -> None:
        if key == "r":
            self._conversation.restart()
        super().press(key)

    def _conversations(self) -> Generator[Conversation, None, None]:
        with self._speaker:
            yield self._conversation

    def _hang_up(self) -> None:
        self._conversation.end()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Ended):
            self._failure = event.error
            return
        self._listen(event)
        if isinstance(event, Began):
            self._listen(State(Phase.REPLAY))
