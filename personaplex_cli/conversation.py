"""The heart: frames of the users' sound in, the agents' sound out, round after round.

    heard = {slot: the next 80 ms of each conversation that has them}
    for slot, reply in engine.step(heard).items():  audio.play(reply.pcm)

Every program runs this loop; one conversation is a round of one. Programs differ only in which `Engine` answers, where
`Audio` comes from and goes to, and who brings the next `Conversation`. Knows no torch, no files, no sound card, no
network.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Protocol, TypeVar

from personaplex_cli.character import Character
from personaplex_cli.errors import NetworkError
from personaplex_cli.events import Began, Ended, Event, Hushed, Listener, Step, Timings, ignore
from personaplex_cli.hush import Hush
from personaplex_cli.samples import Samples, clips, level

IDLE_SECONDS = 0.02  # between two looks at what is there, where nothing rings: a quarter of a frame
NO_ONE: Mapping[int, int] = MappingProxyType({})  # is made silent


class Audio(Protocol):
    """Where sound comes from and goes to: a recording, a sound card, a client."""

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
        """The user's sound from now on, [1920] float32 at a time, until it ends; never waits.

        None means that the next frame is not there yet: `wake` is called when it may be, from any thread.
        """

    def play(self, pcm: Samples) -> None:
        """Take what the agent said since the last frame, [n]. Never waits.

        From a model here that is the answer to the last frame, [1920]. From one elsewhere it is what has arrived:
        nothing, a frame, or several that were late.
        """


@dataclass(frozen=True)
class Reply:
    """The answer to one frame: `pcm` [n] float32 at 24 kHz, the text it adds (often empty), and the tokens behind it.

    `tokens` are the agent's text token, its 8 Mimi codes and the user's 8, all of this frame; none from an engine
    elsewhere, which has no timings either.
    """

    pcm: Samples
    text: str
    tokens: tuple[int, ...] = ()
    timings: Timings | None = None


class Engine(Protocol):
    """What answers: the model on this machine, or one elsewhere. It holds one conversation in each of its `slots`.

    All calls come from one thread, but for `close`.
    """

    @property
    def slots(self) -> int: ...

    def begin(self, slot: int, character: Character) -> None:
        """Begin a conversation in this slot, in place of any other: its prompt waits to be read by `prefill`."""

    def prefill(self) -> Iterable[tuple[int, Event | Exception]] | None:
        """Read a piece of the prompts that wait; None if none does.

        What happens in a slot comes with its number: `Began` when it can be stepped, an error when it never will. An
        engine that had to begin a conversation anew, such as after a broken connection, says `Began` again.
        """

    def step(
        self, frames: Mapping[int, Samples], silent: Mapping[int, int] = NO_ONE
    ) -> Mapping[int, Reply | Exception]:
        """Hear a frame [1920] in each of these slots and answer it; those in `silent` say nothing, for so many frames.

        An error as an answer ends that slot alone. What is raised ends all: the device is lost.
        """

    def end(self, slot: int) -> None:
        """The conversation in this slot is over; a prompt that still waits for it is forgotten."""

    def close(self) -> None:
        """End whatever is going on or waited for; from any thread, more than once does no harm."""


class Disconnected(NetworkError):
    """The server is gone, but may come back: it can be tried again."""


class Wakeup:
    """A bell between threads: `ring` it from anywhere, a sound callback included; `wait` until it has rung.

    A ring without a waiter is kept. Ringing takes no lock that another thread could hold.
    """

    def __init__(self) -> None:
        self._rung: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        if self._rung.empty():
            self._rung.put(None)

    def wait(self, seconds: float = IDLE_SECONDS) -> None:
        with suppress(Empty):
            self._rung.get(timeout=seconds)
            while True:
                self._rung.get_nowait()


class Wish(Enum):
    """What a conversation may ask of the loop; to begin again it asks for a character."""

    HUSH = auto()
    END = auto()


class Conversation:
    """Who speaks, with which sound, and who listens to the events. The methods may be called from any thread."""

    def __init__(self, character: Character, audio: Audio, listen: Listener = ignore) -> None:
        self.character = character
        self.audio = audio
        self.listen = listen
        self.wishes: SimpleQueue[Character | Wish | Exception] = SimpleQueue()  # what the loop is to do

    def hush(self) -> None:
        """Make the agent stop talking until the user speaks (again)."""
        self.wishes.put(Wish.HUSH)

    def restart(self, character: Character | None = None) -> None:
        """Begin again from the prompt, perhaps as another character."""
        self.wishes.put(character or self.character)

    def end(self, error: Exception | None = None) -> None:
        """End it, perhaps because something failed."""
        self.wishes.put(error or Wish.END)


def converse(engine: Engine, audio: Audio, character: Character) -> Iterator[Step]:
    """Hold one conversation until `audio` ends; yields what happened in each frame. Raises what ends it."""
    with closing(converse_all(engine, [Conversation(character, audio)])) as events:
        for _, event in events:
            match event:
                case Step():
                    yield event
                case Ended(error) if error:
                    raise error


def converse_all(
    engine: Engine, conversations: Iterable[Conversation | None], wakeup: Wakeup | None = None
) -> Generator[tuple[Conversation, Event], None, None]:
    """Hold all conversations, as many at a time as the engine has slots; yields what happens in each.

    `conversations` is asked for the next one whenever a slot is free; None means that there is none just now. What
    fails in one conversation ends it alone, as `Ended`. What fails in the engine ends all, and is raised.
    What takes the events must not wait long: all conversations wait meanwhile.
    """
    wakeup = wakeup or Wakeup()
    rounds = _Rounds(engine, wakeup)
    coming: Iterator[Conversation | None] | None = iter(conversations)
    try:
        while coming or rounds.seats:
            coming = yield from rounds.admit(coming)
            seated = len(rounds.seats)
            heard = yield from rounds.hear()
            yield from rounds.answer(heard)
            # Prompts are read between rounds, so that those who talk do not wait for those who join.
            read = yield from rounds.prefill()
            if not heard and not read and len(rounds.seats) == seated:
                wakeup.wait()
    except Exception as error:  # the engine's own: none goes on
        for slot in list(rounds.seats):
            yield rounds.ended(slot, error)
        raise
    finally:
        for slot in rounds.seats:
            engine.end(slot)


@dataclass
class _Seat:
    """A conversation in its slot. While its prompt is read there are no `frames`."""

    conversation: Conversation
    frames: Iterator[Samples | None] | None = None
    hush: Hush = field(default_factory=Hush)
    hushed: bool = False  # as it was reported last
    index: int = 0  # of the next frame


Happening = tuple[Conversation, Event]
T = TypeVar("T")
RoundPart = Generator[Happening, None, T]  # yields what happens, returns what the rest of the round needs


class _Rounds:
    """The conversations that go on, each in its slot, and the parts of a round."""

    def __init__(self, engine: Engine, wakeup: Wakeup) -> None:
        self.seats: dict[int, _Seat] = {}
        self._engine = engine
        self._wakeup = wakeup

    def ended(self, slot: int, error: Exception | None = None) -> Happening:
        self._engine.end(slot)
        return self.seats.pop(slot).conversation, Ended(error)

    def admit(self, coming: Iterator[Conversation | None] | None) -> RoundPart[Iterator[Conversation | None] | None]:
        """Give every free slot a conversation; returns where the next ones come from, None when all have come."""
        while coming and len(self.seats) < self._engine.slots:
            try:
                conversation = next(coming)
            except StopIteration:
                return None
            if conversation is None:
                break
            slot = min(set(range(self._engine.slots)) - self.seats.keys())
            self.seats[slot] = _Seat(conversation)
            try:
                self._engine.begin(slot, conversation.character)
            except Exception as error:
                yield self.ended(slot, error)
        return coming

    def hear(self) -> RoundPart[dict[int, Samples]]:
        """Do as each conversation wishes; returns the frames that are there, by slot."""
        heard: dict[int, Samples] = {}
        for slot, seat in list(self.seats.items()):
            try:
                self._obey(slot, seat)
                yield from _hushed(seat)
                frame = next(seat.frames) if seat.frames else None
            except StopIteration:
                yield self.ended(slot)
            except Exception as error:
                yield self.ended(slot, error)
            else:
                if frame is not None:
                    heard[slot] = frame
        return heard

    def answer(self, heard: Mapping[int, Samples]) -> RoundPart[None]:
        """Step those who were heard, all in one batch, and play what comes of it."""
        if not heard:
            return
        silent = {
            slot: self.seats[slot].hush.left for slot, frame in heard.items() if self.seats[slot].hush.holds(frame)
        }
        for slot, reply in self._engine.step(heard, silent).items():
            seat = self.seats[slot]
            try:
                if isinstance(reply, Exception):
                    raise reply
                seat.conversation.audio.play(reply.pcm)
            except Exception as error:
                yield self.ended(slot, error)
            else:
                frame = heard[slot]
                levels = level(frame), level(reply.pcm)
                yield (
                    seat.conversation,
                    Step(seat.index, reply.text, *levels, reply.timings, clips(frame), tokens=reply.tokens),
                )
                seat.index += 1
                yield from _hushed(seat)

    def prefill(self) -> RoundPart[bool]:
        """Let the engine read a piece of the prompts that wait; returns whether any did."""
        happened = self._engine.prefill()
        for slot, event in happened or ():
            seat = self.seats[slot]
            try:
                if isinstance(event, Began):
                    # What was said while the prompt was read is not heard.
                    seat.frames, seat.index = seat.conversation.audio.frames(self._wakeup.ring), 0
            except Exception as error:
                event = error
            yield self.ended(slot, event) if isinstance(event, Exception) else (seat.conversation, event)
        return happened is not None

    def _obey(self, slot: int, seat: _Seat) -> None:
        wishes = seat.conversation.wishes
        while not wishes.empty():
            match wishes.get():
                case Wish.END:
                    seat.frames = iter(())
                    return
                case Exception() as error:
                    raise error
                case Wish.HUSH:
                    seat.hush.begin()
                    seat.hushed = False  # each wish is reported: a recording can be held again
                case Character() as character:
                    seat.conversation.character = character
                    seat.frames, seat.hush = None, Hush()
                    self._engine.begin(slot, character)


def _hushed(seat: _Seat) -> Iterator[Happening]:
    """Say when the agent has begun or ceased to be silent on demand."""
    if seat.hush.on != seat.hushed:
        seat.hushed = seat.hush.on
        yield seat.conversation, Hushed(seat.hushed)
