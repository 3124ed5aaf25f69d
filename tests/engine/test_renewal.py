"""Laws of renewal: a talk goes on as a fresh one would that was given the prompt and the same last tokens."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import TokenTalk, heard_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from longtalk import CONTEXT, FRAMES, GOLDEN, GREEDY, QUICK, REMEMBERED, Talker, held

from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Character, Sampling
from personaplex_cli.conversation import Conversation, Reply, converse_all
from personaplex_cli.engine.renewal import LEAST_REMEMBERED, PACE, Pace, Renewals, schedule
from personaplex_cli.engine.steps import PLAIN
from personaplex_cli.events import Began, Event, Note, Renewed, Step
from personaplex_cli.library.spec import AGENT, SPEC_FILE, TEXT, USER
from personaplex_cli.loader.load import load_cold
from personaplex_cli.options import LiveModelOptions
from personaplex_cli.samples import SAMPLE_RATE

KIND = Character("kind", "You are kind.", "noise", np.zeros(SAMPLE_RATE, dtype=np.float32), GREEDY)
hows = st.sampled_from([GREEDY, Sampling(seed=1), Sampling(seed=2, audio_temperature=2, text_temperature=2)])
pauses = st.frozensets(st.integers(0, FRAMES), max_size=FRAMES)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> TokenTalk:
    return GOLDEN.talk(tmp_path_factory.mktemp("golden"), context=CONTEXT)


@pytest.fixture(scope="module")
def three(talk: TokenTalk) -> TokenTalk:
    return TokenTalk(talk.lm, talk.spec, slots=3)


def columns_of(talker: Talker, first: int, last: int) -> torch.Tensor:
    """What the model read in these frames of the talk, as columns [17, n]: worked out from the tokens alone."""
    delayed = torch.tensor(GOLDEN.spec.delays) > 0
    columns = torch.tensor(talker.said[first:last]).T
    before = torch.tensor(talker.said[first - 1 : last - 1]).T
    return torch.where(delayed[:, None], before, columns)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hows, pauses, st.sampled_from([1, 7, 64]))
def test_a_renewed_memory_is_that_of_a_fresh_talk_with_the_same_tokens(
    talk: TokenTalk, how: Sampling, quiet: frozenset[int], at_once: int
) -> None:
    talker = Talker(how=how, quiet=quiet)
    held(talk, {0: talker}, at_once)
    renewed = [event for event in talker.events if isinstance(event, Renewed)]
    assert len(renewed) >= 2 and len(renewed) == len(talker.events)
    layout, goes_on = talker.layout, renewed[-1]
    assert goes_on.filled == layout.positions + goes_on.remembered
    expected = talker.said[goes_on.index :]

    # A fresh one, to which the tokens are given one position after the other.
    columns = columns_of(talker, goes_on.index - goes_on.remembered, goes_on.index + 1)
    opening = layout.columns[:, -1]
    columns[:, 0] = torch.where(torch.tensor(GOLDEN.spec.delays) > 0, opening, columns[:, 0])
    talk.begin(layout, how)
    for at in range(goes_on.remembered):
        talk.read(columns[:, at : at + 1], layout.positions + at)
    fresh = talk.slot
    drawn = layout.positions + goes_on.index
    fresh.begin(layout, *(int(columns[row, -1]) for row in (TEXT, AGENT.start)))
    for rows in (slice(AGENT.start + 1, AGENT.stop), slice(USER.start + 1, USER.stop)):
        fresh._column[rows] = columns[rows, -1].tolist()
    fresh._drawn = drawn
    talk.pipeline.skip_to(0, goes_on.filled)
    said = [talk.pipeline.run({0: heard_of(talker.codes(frame))})[0] for frame in range(goes_on.index, FRAMES)]
    assert [reply.tokens for reply in said if isinstance(reply, Reply)] == expected


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(hows, pauses), min_size=1, max_size=3), st.integers(1, 30))
def test_a_talk_is_renewed_in_the_same_frames_whoever_else_is_there(
    talk: TokenTalk, three: TokenTalk, talks: list[tuple[Sampling, frozenset[int]]], at_once: int
) -> None:
    alone, together = ([Talker(seed, *each) for seed, each in enumerate(talks)] for _ in range(2))
    for talker in alone:
        held(talk, {0: talker}, at_once=64)
    held(three, dict(enumerate(together)), at_once)
    assert together == alone


def test_it_is_renewed_in_a_pause_or_when_it_must_be(talk: TokenTalk) -> None:
    loud, paused = Talker(), Talker(quiet=frozenset({62, 63, 64}))
    when = schedule(CONTEXT, loud.layout.positions, REMEMBERED, QUICK)
    begins = when.begins - when.prompt  # the frame in which it begins to be read
    paused.quiet = frozenset({begins + 6, begins + 7})
    for talker in (loud, paused):
        held(talk, {0: talker}, frames=begins + 12)
    assert loud.events == [Renewed(begins + 11, REMEMBERED + 11, when.prompt + REMEMBERED + 11)]
    assert paused.events == [Renewed(begins + 8, REMEMBERED + 8, when.prompt + REMEMBERED + 8)]


@given(st.integers(32, 24_000), st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([PACE, QUICK]))
def test_there_is_room_for_the_talk_and_for_the_memory_beside_it(
    context: int, prompt: int, remembered: int, pace: Pace
) -> None:
    when = schedule(context, prompt, remembered, pace)
    if when.remembered < 1:
        return
    longest = prompt + when.remembered + pace.reading + pace.searching  # what is remembered after a switch
    assert when.remembered <= remembered
    assert longest + when.room == context  # a talk comes no further than the room
    assert longest + pace.between <= when.begins == when.room - pace.reading - pace.searching
    assert when.remembered == remembered or when.begins - longest <= pace.between + 1  # no more would have fitted


def test_the_usual_memory_fits_the_real_model() -> None:
    assert schedule(3000, 115, 1125, PACE).remembered == 1125
    assert schedule(1500, 115, 1125, PACE).remembered > LEAST_REMEMBERED


def test_a_prompt_that_leaves_no_room_is_not_renewed(talk: TokenTalk) -> None:
    talker = Talker(text=range(5, 60))
    renewals = held(talk, {0: talker}, frames=100)
    assert renewals.begin(0, talker.layout) == 0 and not talker.events
    assert Renewals(talk.generator, talk.slots, 0).begin(0, Talker().layout) == 0


@pytest.mark.parametrize("calls", [0, 2])
def test_what_fails_costs_the_renewal_and_not_the_talk(
    talk: TokenTalk, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, talker = Talker(), Talker()
    held(talk, {0: plain}, frames=60)
    left = [calls]

    def ring(positions: torch.Tensor, *more: Any) -> Any:
        if positions.shape[1] == 4:
            left[0] -= 1
            if left[0] < 0:
                raise torch.OutOfMemoryError("out of memory\nand more")
        return PLAIN.ring(positions, *more)

    monkeypatch.setattr("personaplex_cli.engine.transformer.PLAIN", replace(PLAIN, ring=ring))
    held(talk, {0: talker}, at_once=4)
    (note,) = talker.events
    assert isinstance(note, Note) and "(out of memory)" in note.text
    assert talker.said[:60] == plain.said and len(talker.said) == FRAMES


@pytest.fixture(scope="module")
def short_folder(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model with a context of 64 s."""
    folder = tmp_path_factory.mktemp("short") / "model"
    shutil.copytree(random_folder, folder)
    spec = json.loads((folder / SPEC_FILE).read_text())
    spec["lm"]["context"] = 800
    (folder / SPEC_FILE).write_text(json.dumps(spec))
    return folder


def events_of(folder: Path, seconds: float, **options: Any) -> list[Event]:
    engine = load_cold(LiveModelOptions(str(folder), device="cpu", **options))
    talks = [Conversation(KIND, Recording(np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)))]
    return [event for _, event in converse_all(engine, talks)]


def test_a_long_talk_with_sound_is_renewed_between_its_frames(short_folder: Path) -> None:
    events = events_of(short_folder, 46, memory=10)
    (began,) = [event for event in events if isinstance(event, Began)]
    (at,) = [number for number, event in enumerate(events) if isinstance(event, Renewed)]
    renewed, before, after = events[at], events[at - 1], events[at + 1]
    assert isinstance(renewed, Renewed) and isinstance(before, Step) and isinstance(after, Step)
    assert (before.index, after.index) == (renewed.index - 1, renewed.index)
    assert began.memory == 125 and began.settings["memory"] == 10
    assert 125 + PACE.reading <= renewed.remembered <= 125 + PACE.reading + PACE.searching
    assert renewed.filled == began.prompt_frames + renewed.remembered
    assert [step.index for step in events if isinstance(step, Step)] == list(range(575))


def test_how_much_there_is_room_for_is_told(short_folder: Path) -> None:
    events = events_of(short_folder, 1, memory=30)
    (note,) = [event.text for event in events if isinstance(event, Note)]
    assert re.fullmatch("With this prompt the model can keep 1[0-9] s of the talk, not 30.", note)


def test_a_plain_ring_is_not_renewed(short_folder: Path) -> None:
    events = events_of(short_folder, 1, renew=False)
    (began,) = [event for event in events if isinstance(event, Began)]
    assert began.memory == 0 and not [event for event in events if isinstance(event, Note)]
