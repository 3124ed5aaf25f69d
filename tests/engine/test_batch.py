"""Many conversations at once: each says what it says alone, whoever else is there, joining, waiting or leaving."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import TokenTalk, heard_of, load_golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Character, Sampling
from personaplex_cli.conversation import Conversation, Reply, converse_all
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.engine.prompting import Layout, lay_out
from personaplex_cli.errors import ModelError
from personaplex_cli.events import Began, Ended, Event
from personaplex_cli.loader.load import load_cold
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME, SILENT_FRAME, Samples

SLOTS = 3
GOLDEN = load_golden(Path(__file__).parents[1] / "data/golden/golden-b.json")
HOWS = [
    Sampling(greedy=True),
    Sampling(seed=1),
    Sampling(seed=2, audio_temperature=2, text_temperature=2),
    Sampling(seed=3, audio_top_k=900),
]


@dataclass(frozen=True)
class Guest:
    """A conversation in tokens, and how it comes and goes: in which round, and when it has nothing to say."""

    comes: int
    text: list[int]
    how: Sampling
    frames: int
    seed: int
    pauses: frozenset[int]
    silent: frozenset[int]

    @property
    def layout(self) -> Layout:
        return lay_out(GOLDEN.codes("voice"), self.text, GOLDEN.spec)

    @property
    def user(self) -> torch.Tensor:
        return torch.randint(2048, (8, self.frames), generator=torch.Generator().manual_seed(self.seed))


guests = st.builds(
    Guest,
    comes=st.integers(0, 8),
    text=st.lists(st.integers(4, 399), max_size=8),
    how=st.sampled_from(HOWS),
    frames=st.integers(1, 15),
    seed=st.integers(0, 99),
    pauses=st.frozensets(st.integers(0, 20)),
    silent=st.frozensets(st.integers(0, 20), max_size=3),
)


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenTalk, TokenTalk]:
    """The same model for one conversation and for three. Its ring is short: it wraps."""
    alone = GOLDEN.talk(tmp_path_factory.mktemp("golden"), context=70)
    return alone, TokenTalk(alone.lm, alone.spec, slots=SLOTS)


def held_alone(talk: TokenTalk, guest: Guest) -> list[Any]:
    talk.begin(guest.layout, guest.how)
    said = [talk.step(each, index in guest.silent) for index, each in enumerate(guest.user.T)]
    return [(text, *codes) for text, codes in said]


def held_together(talk: TokenTalk, coming: list[Guest]) -> list[list[Any]]:
    """Rounds: whoever has come and finds a slot reads a piece of the prompt in each, then talks, unless it pauses."""
    said: list[list[Any]] = [[] for _ in coming]
    waiting = sorted(range(len(coming)), key=lambda number: coming[number].comes)
    seats: dict[int, int] = {}
    reading: dict[int, Iterator[None]] = {}
    rounds = 0
    while waiting or seats:
        for slot in sorted(set(range(SLOTS)) - seats.keys()):
            if waiting and coming[waiting[0]].comes <= rounds:
                guest = coming[waiting[0]]
                seats[slot] = waiting.pop(0)
                reading[slot] = talk.pipeline.begin(slot, guest.layout, guest.how, at_once=16)
        heard, silent = {}, set()
        for slot, number in seats.items():
            guest, index = coming[number], len(said[number])
            if slot not in reading and rounds not in guest.pauses:
                heard[slot] = heard_of(guest.user[:, index])
                silent |= {slot} if index in guest.silent else set()
        for slot, reply in (talk.pipeline.run(heard, silent) if heard else {}).items():
            assert isinstance(reply, Reply)
            said[seats[slot]].append(reply.tokens[:9])
        for slot in [slot for slot, number in seats.items() if len(said[number]) == coming[number].frames]:
            del seats[slot]
            talk.pipeline.leave(slot)
        for slot in list(reading):
            if next(reading[slot], "read") == "read":
                del reading[slot]
        rounds += 1
    return said


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(guests, min_size=1, max_size=5))
def test_each_says_what_it_says_alone(talks: tuple[TokenTalk, TokenTalk], coming: list[Guest]) -> None:
    alone, batch = talks
    assert held_together(batch, coming) == [held_alone(alone, guest) for guest in coming]


@pytest.mark.parametrize("name", ["golden-a", "golden-b"])
def test_golden_tokens_come_out_among_strangers(name: str, tmp_path: Path) -> None:
    golden = load_golden(Path(__file__).parents[1] / f"data/golden/{name}.json")
    talk = TokenTalk(golden.talk(tmp_path).lm, golden.spec, slots=4)
    layout = lay_out(golden.codes("voice"), golden.data["text_prompt"], golden.spec)
    stranger = lay_out(golden.codes("voice")[:, :3], [7, 8, 9], golden.spec)
    talk.begin(stranger, Sampling(seed=5), 1)
    talk.begin(layout, Sampling(greedy=True), 2)
    said = []
    for index, user in enumerate(golden.codes("user").T):
        if index % 10 == 3:
            talk.begin(stranger, Sampling(seed=index), index % 3 - index % 3 // 2)  # 0 or 1, anew
        heard = {2: heard_of(user), 1: heard_of(user.flip(0))}
        reply = talk.pipeline.run(heard)[2]
        assert isinstance(reply, Reply)
        said.append(reply.tokens[:9])
    expected = zip(golden.data["expected_text"], *golden.data["expected_audio"], strict=True)
    assert said[: len(golden.data["expected_text"])] == list(expected)


# The whole engine, with sound.


@pytest.fixture(scope="module")
def engines(random_folder: Path) -> tuple[LocalEngine, LocalEngine]:
    one, three = (load_cold(ModelOptions(str(random_folder), device="cpu"), slots=slots) for slots in (1, SLOTS))
    assert (one.slots, three.slots) == (1, SLOTS)
    return one, three


def speech(frames: int, seed: int) -> Samples:
    return np.random.default_rng(seed).normal(0.0, 0.1, frames * FRAME).astype(np.float32)


def somebody(number: int) -> Character:
    sound: Any = speech(7, number) if number % 3 == 2 else f"NATF{number % 4}.pt"
    return Character(f"{number}", f"You are number {number}.", "a voice", sound, Sampling(seed=number))


def test_conversations_of_the_loop_sound_as_they_do_alone(engines: tuple[LocalEngine, LocalEngine]) -> None:
    recordings = [speech(5 + 3 * number, number) for number in range(7)]
    answers, words = [], []
    for engine in engines:
        audios = [Recording(each) for each in recordings]
        conversations = [Conversation(somebody(number), audio) for number, audio in enumerate(audios)]
        events = list(converse_all(engine, conversations))
        assert not [event.error for _, event in events if isinstance(event, Ended) and event.error]
        answers.append([audio.answer for audio in audios])
        words.append([[getattr(event, "text", "") for who, event in events if who is each] for each in conversations])
    assert [[text for text in each if text] for each in words[0]] == [
        [text for text in each if text] for each in words[1]
    ]
    for alone, together in zip(*answers, strict=True):
        np.testing.assert_allclose(alone, together, atol=1e-5)


def begun(engine: LocalEngine, slot: int, character: Character) -> list[Event | Exception]:
    engine.begin(slot, character)
    happened: list[Event | Exception] = []
    while (news := engine.prefill()) is not None:
        happened += [event for number, event in news if number == slot]
    return happened


@pytest.fixture
def joining(engines: tuple[LocalEngine, LocalEngine], monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEngine]:
    """Somebody talks in slot 0, and somebody else has begun in slot 1, whose prompt is read in small pieces."""
    _, engine = engines
    monkeypatch.setattr(engine, "_at_once", 10)
    begun(engine, 0, somebody(0))
    engine.model.prompts.clear()
    engine.begin(1, somebody(1))
    yield engine
    for slot in (0, 1):
        engine.end(slot)


def test_a_prompt_is_read_in_pieces_while_others_talk(joining: LocalEngine) -> None:
    pieces = 0
    while (news := joining.prefill()) is not None:
        pieces += 1
        events = [event for _, event in news]
        assert isinstance(joining.step({0: SILENT_FRAME})[0], Reply)
    assert pieces > 3 and isinstance(events[-1], Began)


def test_a_conversation_that_ends_while_its_prompt_is_read_leaves_nothing_behind(joining: LocalEngine) -> None:
    list(joining.prefill() or ())
    joining.end(1)
    assert joining.prefill() is None
    assert isinstance(begun(joining, 1, somebody(2))[-1], Began)


def test_numbers_that_run_away_end_one_conversation_alone(engines: tuple[LocalEngine, LocalEngine]) -> None:
    one, engine = engines
    begun(one, 0, somebody(0))
    alone = [one.step({0: SILENT_FRAME})[0] for _ in range(6)]
    for slot in range(SLOTS):
        begun(engine, slot, somebody(slot))
    engine.model.generator.cache.of(1, 20)[:] = float("nan")
    replies = engine.step(dict.fromkeys(range(SLOTS), SILENT_FRAME))
    error = replies[1]
    assert isinstance(error, ModelError) and "overflowed" in str(error)
    assert isinstance(replies[0], Reply) and isinstance(replies[2], Reply)
    engine.end(1)
    assert isinstance(begun(engine, 1, somebody(0))[-1], Began)  # nothing of it is left
    for expected in alone:
        reply = engine.step({1: SILENT_FRAME, 2: SILENT_FRAME})[1]
        assert isinstance(reply, Reply) and isinstance(expected, Reply) and reply.tokens == expected.tokens
    for slot in range(SLOTS):
        engine.end(slot)


def test_auto_gives_up_slots_until_a_step_is_in_time_and_tells_how_many_are_left(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_cold(ModelOptions(str(random_folder), device="cpu"), slots=5)
    monkeypatch.setattr(engine, "_step_time", lambda *_: 10.0 * engine.slots)
    assert engine.warm_up(somebody(0), in_time=25.0) == 20.0 and engine.slots == 2
    began = begun(engine, 1, somebody(0))[-1]
    assert isinstance(began, Began) and began.settings["batch_size"] == 2
