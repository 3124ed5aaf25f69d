"""The user's words while a conversation goes on: all of them, where they were spoken, and the talk does not wait."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.errors import AudioError, PersonaplexError
from personaplex_cli.events import Began, Event, Note, Step, Transcribing, UserWords
from personaplex_cli.samples import FRAME, FRAME_SECONDS, Samples, level
from personaplex_cli.transcriber import LATE_FRAMES, LONGEST, PAUSE_FRAMES, Stretches, Transcriber
from personaplex_cli.transcript import Word

BEGAN = Began("teacher", "NATF2", "demo", "cpu", "fp32", 3, 10, 3000)
LOUD, STEP = 0.1, 1e-5  # a loud frame says its own number

# How many frames are quiet, how many loud, and whether the conversation begins again after them.
talks = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60), st.booleans()), max_size=8)


def sound_of(talk: list[tuple[int, int, bool]]) -> list[Samples]:
    loud = [each for quiet, speech, _ in talk for each in [False] * quiet + [True] * speech]
    return [np.full(FRAME, (LOUD + number * STEP) * is_loud, np.float32) for number, is_loud in enumerate(loud)]


def said(frame: Samples) -> int | None:
    return round((float(frame[0]) - LOUD) / STEP) if frame[0] else None


class Microphone:
    def __init__(self, frames: list[Samples]) -> None:
        self._frames = frames
        self.played = 0

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
        for frame in self._frames:
            yield None
            yield frame

    def play(self, pcm: Samples) -> None:
        self.played += len(pcm)


class Ears:
    """Hear a word in each loud frame: its number. They tell when they are asked to."""

    name = "tiny.en"

    def __init__(self) -> None:
        self.waiting: list[tuple[list[Samples], Future[list[Word]]]] = []

    def submit(self, sound: list[Samples]) -> "Future[list[Word]]":
        words: Future[list[Word]] = Future()
        self.waiting.append((sound, words))
        return words

    def tell(self) -> None:
        sound, words = self.waiting.pop(0)
        found = [(at, number) for at, frame in enumerate(sound) if (number := said(frame)) is not None]
        words.set_result(
            [
                Word(str(number), round(at * FRAME_SECONDS, 2), round((at + 1) * FRAME_SECONDS, 2))
                for at, number in found
            ]
        )


class Ready(Ears):
    def submit(self, sound: list[Samples]) -> "Future[list[Word]]":
        words = super().submit(sound)
        self.tell()
        return words


def hold(
    transcriber: Transcriber, restarts: set[int], between: Callable[[int], None] = lambda frame: None
) -> list[Samples]:
    """Hold a conversation, which begins again before some frames; returns what the model heard."""
    heard, index = list[Samples](), 0
    transcriber.hear(BEGAN)
    for frame in transcriber.frames(lambda: None):
        if frame is None:
            continue
        if len(heard) in restarts:
            transcriber.hear(BEGAN)
            index = 0
        heard.append(frame)
        transcriber.play(frame)
        transcriber.hear(Step(index, "", level(frame), -50.0, None))
        index += 1
        between(len(heard))
    return heard


@given(talks, st.lists(st.integers(1, 300), max_size=20))
def test_every_word_is_told_once_in_order_and_where_it_was_spoken(
    talk: list[tuple[int, int, bool]], answers: list[int]
) -> None:
    """However late the recogniser answers, also after the end; and whatever begins again meanwhile."""
    frames, restarts, told, before = sound_of(talk), set[int](), list[int](), 0
    for quiet, speech, again in talk:
        before += quiet + speech
        restarts |= {before} if again else set()
    ears = Ears()
    began = 0

    def listen(event: Event) -> None:
        if isinstance(event, UserWords):
            assert event.end == event.start + 1 and began + event.start == int(event.text)
            told.append(int(event.text))

    def between(frame: int) -> None:
        nonlocal began
        if frame in answers and ears.waiting:
            ears.tell()
        began = max((each for each in restarts if each <= frame), default=0)

    microphone = Microphone(frames)
    transcriber = Transcriber(microphone, ears, listen)
    heard = hold(transcriber, restarts, between)
    began = max((each for each in restarts if each < len(frames)), default=0)
    assert all(one is other for one, other in zip(heard, frames, strict=True))
    assert microphone.played == len(frames) * FRAME
    while ears.waiting:
        ears.tell()
    ears.submit = Ready().submit  # type: ignore[method-assign]
    transcriber.close()
    assert told == [number for frame in frames if (number := said(frame)) is not None]
    assert transcriber.seconds_left == 0


@given(talks)
def test_stretches_hold_every_loud_frame_and_are_short_enough(talk: list[tuple[int, int, bool]]) -> None:
    frames, stretches = sound_of(talk * 3), Stretches()
    cut = [each for frame in frames if (each := stretches.add(frame, level(frame)))]
    cut += [each for each in [stretches.end()] if each]
    covered = [start + at for start, sound in cut for at in range(len(sound))]
    assert covered == sorted(set(covered))
    for start, sound in cut:
        assert len(sound) <= LONGEST
        assert all(one is other for one, other in zip(sound, frames[start : start + len(sound)], strict=True))
    assert {at for at, frame in enumerate(frames) if frame[0]} <= set(covered)


def test_a_stretch_that_is_too_long_is_cut_where_it_is_quietest() -> None:
    stretches = Stretches()
    levels = [-20.0] * LONGEST
    levels[LONGEST - 30] = -35.0  # a breath
    cut = [each for at, level in enumerate(levels) if (each := stretches.add(np.full(1, at, np.float32), level))]
    assert [(start, len(sound)) for start, sound in cut] == [(0, LONGEST - 29)]
    start, sound = stretches.end() or (0, [])
    assert (start, len(sound)) == (LONGEST - 29, 29)


def test_silence_is_not_asked_about() -> None:
    ears = Ears()
    hold(Transcriber(Microphone([np.zeros(FRAME, np.float32)] * 100), ears, lambda event: None), set())
    assert not ears.waiting


class Deaf(Ears):
    def submit(self, sound: list[Samples]) -> "Future[list[Word]]":
        words = super().submit(sound)
        words.set_exception(PersonaplexError("its process has ended."))
        return words


def test_what_fails_says_so_once_and_the_talk_goes_on() -> None:
    events: list[Event] = []
    frames = sound_of([(PAUSE_FRAMES, 5, False)] * 4 + [(PAUSE_FRAMES, 0, False)])
    ears = Deaf()
    transcriber = Transcriber(Microphone(frames), ears, events.append)
    assert len(hold(transcriber, set())) == len(frames)
    transcriber.close()
    assert events == [
        Transcribing("tiny.en"),
        Transcribing(""),
        Note("Your words are not written down any more: its process has ended."),
    ]
    assert len(ears.waiting) == 1  # no more is asked


def test_a_slow_machine_is_told_of_once_and_nothing_is_lost() -> None:
    events: list[Event] = []
    frames = sound_of([(PAUSE_FRAMES, 60, False)] * (LATE_FRAMES // 60 * 2))
    ears = Ears()
    transcriber = Transcriber(Microphone(frames), ears, events.append)
    hold(transcriber, set())
    assert [each for each in events if isinstance(each, Note)] == [
        Note("Your words are written down late, the last ones after the talk: this machine is slow.")
    ]
    while ears.waiting:
        ears.tell()
    ears.submit = Ready().submit  # type: ignore[method-assign]
    transcriber.close()
    assert len([each for each in events if isinstance(each, UserWords)]) == sum(bool(frame[0]) for frame in frames)


def test_who_does_not_want_the_last_words_does_not_wait_for_them() -> None:
    ears = Ears()
    transcriber = Transcriber(Microphone(sound_of([(20, 40, False), (20, 5, False)])), ears, lambda event: None)
    hold(transcriber, set())
    transcriber.abandon()
    transcriber.close()
    assert ears.waiting and all(words.cancelled() for _, words in ears.waiting)


def test_what_keeps_the_sound_from_opening_comes_out_at_once() -> None:
    class Refused(Microphone):
        def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
            raise AudioError("No such card.")

    with pytest.raises(AudioError, match="No such card"):
        Transcriber(Refused([]), Ears(), lambda event: None).frames(lambda: None)
