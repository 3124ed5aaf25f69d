"""The heart: every frame is heard, answered and played once, in order; what a slot says depends on no other slot."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaplex_cli.character import Character
from personaplex_cli.conversation import Conversation, Reply, Wakeup, converse, converse_all
from personaplex_cli.events import Began, Ended, Event, Hushed, Phase, State, Step, Timings
from personaplex_cli.samples import FRAME, SILENT_FRAME, Samples


def character(name: str = "teacher") -> Character:
    return Character(name, "", "NATF2", "NATF2.pt")


class ChainEngine:
    """What it says in a slot depends on all that was said and heard there, and on nothing else; prompts are read in
    chunks. `poison` fails a slot whose state begins with it, `dies` is the step at which the device is lost."""

    def __init__(self, slots: int = 1, chunks: int = 1, poison: int = -1, dies: int = -1) -> None:
        self.slots, self.chunks, self.poison, self.dies = slots, chunks, poison, dies
        self.states: dict[int, bytes] = {}
        self.reading: dict[int, tuple[Character, int]] = {}
        self.log: list[str] = []
        self.closed = False

    def begin(self, slot: int, character: Character) -> None:
        if character.persona == "unknown":
            raise ValueError("no such voice")
        self.states.pop(slot, None)
        self.reading[slot] = character, 0

    def prefill(self) -> Iterator[tuple[int, Event | Exception]] | None:
        return self._read() if self.reading else None

    def _read(self) -> Iterator[tuple[int, Event | Exception]]:
        slot, (who, chunks) = next(iter(self.reading.items()))
        self.log.append("chunk")
        if chunks == 0:
            yield slot, State(Phase.PRIMING)
        self.reading[slot] = who, chunks + 1
        if chunks + 1 == self.chunks:
            del self.reading[slot]
            if who.persona == "bad":
                yield slot, ValueError("a bad prompt")
                return
            self.states[slot] = who.persona.encode()
            yield slot, Began(who.persona, who.voice, "chain", "cpu", "fp32", 0, 1, 100)

    def step(self, frames: Mapping[int, Samples], silent: Collection[int] = ()) -> Mapping[int, Reply | Exception]:
        self.log.append("step")
        if self.log.count("step") == self.dies:
            raise RuntimeError("the device is lost")
        return {slot: self._answer(slot, frame, slot in silent) for slot, frame in frames.items()}

    def _answer(self, slot: int, frame: Samples, silent: bool) -> Reply | Exception:
        state = hashlib.sha256(self.states[slot] + frame.tobytes() + bytes([silent])).digest()
        self.states[slot] = state
        if state[0] == self.poison:
            return ArithmeticError("not finite")
        pcm = SILENT_FRAME if silent else np.full(FRAME, state[1] / 255, dtype=np.float32)
        return Reply(pcm, "" if silent else f" {state[2]}", timings=Timings(1, 2, 3))

    def end(self, slot: int) -> None:
        self.states.pop(slot, None)
        self.reading.pop(slot, None)

    def close(self) -> None:
        self.closed = True


@dataclass
class Numbered:
    """An Audio whose frames are their numbers; `gaps` are frames before which it says so often that none is there. It
    notes in which order things happen."""

    count: int
    gaps: Mapping[int, int] = field(default_factory=dict)
    log: list[tuple[str, int]] = field(default_factory=list)
    breaks_at: int = -1
    begun: int = 0

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
        self.begun += 1
        for index in range(self.count):
            if index == self.breaks_at:
                raise OSError("unplugged")
            for _ in range(self.gaps.get(index, 0)):
                wake()
                yield None
            self.log.append(("heard", index))
            yield np.full(FRAME, index / 1000, dtype=np.float32)

    def play(self, pcm: Samples) -> None:
        self.log.append(("played", len(self.log) // 2))


def held(engine: ChainEngine, conversations: list[Conversation]) -> dict[Conversation, list[Event]]:
    happened: dict[Conversation, list[Event]] = {each: [] for each in conversations}
    for conversation, event in converse_all(engine, conversations):
        happened[conversation].append(event)
    return happened


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Step)]


def test_every_frame_is_answered_before_the_next_is_taken() -> None:
    audio = Numbered(5)
    steps = list(converse(ChainEngine(), audio, character()))
    assert audio.log == [(what, index) for index in range(5) for what in ("heard", "played")]
    assert [step.index for step in steps] == list(range(5))
    assert steps[0].heard == -100 and steps[1].heard == pytest.approx(-60)
    assert steps[0].timings and steps[0].timings.total == 6


def test_it_runs_only_as_far_as_it_is_asked_and_frees_its_slot() -> None:
    audio, engine = Numbered(100), ChainEngine()
    conversation = converse(engine, audio, character())
    next(conversation)
    conversation.close()
    assert audio.log == [("heard", 0), ("played", 0)] and not engine.states


jobs = st.lists(
    st.tuples(
        st.sampled_from(["teacher", "chef", "astronaut"]),
        st.integers(0, 12),
        st.dictionaries(st.integers(0, 11), st.integers(1, 3), max_size=3),
    ),
    max_size=7,
)


@settings(deadline=None)
@given(jobs, st.integers(1, 4), st.integers(1, 3))
def test_what_a_slot_says_is_the_same_alone_and_among_strangers(
    given_jobs: list[tuple[str, int, dict[int, int]]], slots: int, chunks: int
) -> None:
    alone = [[step.text for step in converse(ChainEngine(), Numbered(n), character(who))] for who, n, _ in given_jobs]
    conversations = [Conversation(character(who), Numbered(n, gaps)) for who, n, gaps in given_jobs]
    happened = held(ChainEngine(slots, chunks), conversations)
    assert [texts(happened[each]) for each in conversations] == alone
    assert all(events[-1] == Ended(None) for events in happened.values())


def test_those_who_talk_never_wait_for_two_chunks_of_a_prompt() -> None:
    engine = ChainEngine(slots=4, chunks=10)
    held(engine, [Conversation(character(), Numbered(60)) for _ in range(4)])
    talking = "".join(each[0] for each in engine.log).lstrip("c").rstrip("s")
    assert "c" in talking and "cc" not in talking


def test_what_fails_in_one_seat_ends_it_alone() -> None:
    engine = ChainEngine(slots=3)
    failing = [
        Conversation(character("unknown"), Numbered(5)),
        Conversation(character("bad"), Numbered(5)),
        Conversation(character(), Numbered(5, breaks_at=2)),
    ]
    fine = [Conversation(character(), Numbered(8)) for _ in range(4)]
    happened = held(engine, [*failing, *fine])
    errors = [type(happened[each][-1].error) for each in failing]  # type: ignore[union-attr]
    assert errors == [ValueError, ValueError, OSError]
    assert all(len(texts(happened[each])) == 8 and happened[each][-1] == Ended(None) for each in fine)
    assert not engine.states


def test_a_slot_whose_numbers_are_spoiled_ends_alone() -> None:
    def said(who: str, poison: int = -1) -> list[str]:
        conversation = Conversation(character(who), Numbered(8))
        return texts(held(ChainEngine(1, poison=poison), [conversation])[conversation])

    first = said("chef")
    poison = next(each for each in range(256) if 0 < len(said("teacher", each)) < 8 == len(said("chef", each)))
    conversations = [Conversation(character(), Numbered(8)), Conversation(character("chef"), Numbered(8))]
    happened = held(ChainEngine(2, poison=poison), conversations)
    assert isinstance(happened[conversations[0]][-1], Ended) and happened[conversations[0]][-1].error
    assert texts(happened[conversations[1]]) == first


def test_a_lost_device_ends_all_and_is_raised() -> None:
    engine = ChainEngine(slots=3, dies=4)
    ends: list[Event] = []
    with pytest.raises(RuntimeError, match="lost"):
        for _, event in converse_all(engine, [Conversation(character(), Numbered(9)) for _ in range(3)]):
            ends += [event] if isinstance(event, Ended) else []
    assert len(ends) == 3 and all(isinstance(end.error, RuntimeError) for end in ends if isinstance(end, Ended))
    assert not engine.states


def test_a_conversation_may_end_while_its_prompt_is_read() -> None:
    slow, quick = Conversation(character(), Numbered(3)), Conversation(character(), Numbered(40))
    slow.end()
    happened = held(ChainEngine(slots=2, chunks=5), [slow, quick])
    assert happened[slow] == [Ended(None)] and len(texts(happened[quick])) == 40


def test_begun_again_it_hears_from_then_on_as_who_is_wanted() -> None:
    audio = Numbered(6)
    conversation = Conversation(character(), audio)
    events: list[Event] = []
    for _, event in converse_all(ChainEngine(), [conversation]):
        events.append(event)
        if isinstance(event, Step) and event.index == 3 and audio.begun == 1:
            conversation.restart(character("chef"))
    indices = [event.index for event in events if isinstance(event, Step)]
    assert indices == [0, 1, 2, 3, *range(6)] and audio.begun == 2
    chef = [step.text for step in converse(ChainEngine(), Numbered(6), character("chef"))]
    assert texts(events)[4:] == chef


def test_hushed_it_is_silent_until_the_user_speaks() -> None:
    class Speaking(Numbered):
        def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
            for index in range(self.count):
                yield np.full(FRAME, 0.1 if index >= 6 else 0.0, dtype=np.float32)

    conversation = Conversation(character(), Speaking(12))
    events: list[Event] = []
    for _, event in converse_all(ChainEngine(), [conversation]):
        events.append(event)
        if isinstance(event, Step) and event.index == 1:
            conversation.hush()
    said = [bool(event.text) for event in events if isinstance(event, Step)]
    assert said == [True] * 2 + [False] * 6 + [True] * 4
    at = [
        sum(isinstance(each, Step) for each in events[:index])
        for index, each in enumerate(events)
        if each == Hushed(True)
    ]
    assert at == [2]
    assert [event.on for event in events if isinstance(event, Hushed)] == [True, False]


def test_those_who_come_late_are_let_in() -> None:
    late: deque[Conversation | None] = deque([None, None, Conversation(character(), Numbered(2)), None])
    first = Conversation(character(), Numbered(9))

    def coming() -> Iterator[Conversation | None]:
        yield first
        while late:
            yield late.popleft()

    ended = [conversation for conversation, event in converse_all(ChainEngine(2), coming()) if event == Ended(None)]
    assert len(ended) == 2 and ended[-1] is first


def test_a_bell_that_rang_before_anyone_waited_is_heard() -> None:
    wakeup = Wakeup()
    for _ in range(3):
        wakeup.ring()
    wakeup.wait(60)  # returns at once
    threading.Timer(0.01, wakeup.ring).start()
    wakeup.wait(60)
