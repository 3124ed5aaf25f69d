import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.events import (
    Began,
    Downloading,
    Glitch,
    Hushed,
    Latency,
    Muted,
    Network,
    Note,
    Phase,
    State,
    Step,
    Timings,
    Transcribing,
    UserWords,
)
from personaplex_cli.screen.state import AWAITED_FRAMES, MINUTE, PanelState, Remark, StepTimes, clock, download_speed
from personaplex_cli.screen.user_turns import UserTurn
from personaplex_cli.transcript import Turn

TURNS = json.loads((Path(__file__).parents[1] / "data" / "turns.json").read_text(encoding="utf-8"))
BEGAN = Began("teacher", "NATF2", "demo", "cpu", "fp32", 7, 100, 3000)


def step(index: int, text: str = "", milliseconds: float = 40.0) -> Step:
    return Step(index, text, -50.0, -50.0, Timings(5.0, milliseconds - 10.0, 5.0))


def talk(*pieces: str) -> PanelState:
    state = PanelState()
    for index, piece in enumerate(pieces):
        state.apply(step(index, piece), 0.0)
    return state


def test_a_turn_joins_the_history_while_the_agent_is_silent() -> None:
    state = talk("", " Hel", "lo", *[""] * 17, " there.", *[""] * 18)
    assert (list(state.history), state.turns.text) == ([], " Hello there.")
    state.apply(step(40), 0.0)
    assert (list(state.history), state.turns.text) == ([Turn(0.08, "Hello there.")], "")


@pytest.mark.parametrize("case", TURNS, ids=lambda case: case["name"])
def test_turns_follow_the_one_rule(case: dict[str, Any]) -> None:
    pieces = dict(case["pieces"])
    state = talk(*(pieces.get(frame, "") for frame in range(max(pieces) + 1)))
    state.finish()
    assert [entry for entry in state.history if isinstance(entry, Turn)] == [Turn(*turn) for turn in case["turns"]]


def test_a_new_conversation_says_how_the_last_one_went_and_starts_from_nothing() -> None:
    state = talk(" Good", " bye", *[""] * 123)
    state.apply(Glitch("underrun", 1), 0.0)
    state.apply(BEGAN, 0.0)
    turn, summary, who = state.history
    assert turn == Turn(0.0, "Good bye")
    assert summary == Remark(
        "Talked for 00:10, 2 words. Steps took 40 ms (p50), 40 ms (p95); 0 of 125 missed 80 ms; 1 underrun."
    )
    assert who == Remark("teacher, voice NATF2, seed 7")
    assert (state.steps.count, state.turns.text, state.used) == (0, "", 100)


def test_a_short_conversation_leaves_no_figures_when_another_begins() -> None:
    state = talk(" Good", " bye", *[""] * 122)
    state.apply(BEGAN, 0.0)
    assert list(state.history) == [Turn(0.0, "Good bye"), Remark("teacher, voice NATF2, seed 7")]


def test_states_are_timed_until_live() -> None:
    state = PanelState()
    for at, phase in enumerate((Phase.LOADING, Phase.WARMING_UP, Phase.PRIMING, Phase.LIVE)):
        state.apply(State(phase), at * 10.0)
    assert state.passed == {Phase.LOADING: 10.0, Phase.WARMING_UP: 10.0, Phase.PRIMING: 10.0}
    state.apply(State(Phase.LIVE, "again"), 50.0)
    assert (state.since, state.detail) == (30.0, "again")  # the same state goes on
    state.apply(State(Phase.PRIMING), 60.0)
    assert state.passed == {}


def test_the_context_counts_the_prompt_and_every_frame() -> None:
    state = PanelState()
    state.apply(BEGAN, 0.0)
    for index in range(25):
        state.apply(step(index), 0.0)
    assert (state.used, state.seconds) == (125, 2.0)


def test_the_delay_is_known_when_every_stage_is_and_counts_the_wait_for_a_full_frame() -> None:
    state = talk("")
    assert state.delays == []
    state.apply(Latency(10.0, 2.0, 40.0, 12.0), 0.0)
    names = [name for name, _ in state.delays]
    assert names == ["card in", "frame", "queue", "encode", "LM", "decode", "cushion", "card out"]
    assert sum(milliseconds for _, milliseconds in state.delays) == 10 + 80 + 2 + 40 + 40 + 12


def test_elsewhere_the_delay_is_that_of_the_network_and_of_the_server_and_is_never_guessed() -> None:
    state = PanelState()
    state.apply(Latency(10.0, 2.0, 40.0, 12.0), 0.0)
    state.apply(Network(30.0, None), 0.0)
    state.apply(Step(0, "", -50.0, -50.0, None), 0.0)
    assert (state.delays, state.steps.count, state.seconds) == ([], 0, 0.08)
    state.apply(Network(20.0, 90.0), 0.0)
    state.apply(Step(1, "", -50.0, -50.0, None), 0.0)
    names = [name for name, _ in state.delays]
    assert names == ["card in", "frame", "queue", "network", "server", "cushion", "card out"]
    assert sum(milliseconds for _, milliseconds in state.delays) == 10 + 80 + 2 + 20 + 90 + 40 + 12
    assert (state.steps.count, state.steps.misses) == (1, 1)


def test_a_conversation_without_reported_steps_is_summed_up_without_them() -> None:
    state = PanelState()
    state.apply(Began("teacher", "NATF2", "", "gpu", "", None, 0, 0), 0.0)
    for index in range(25):
        state.apply(Step(index, " word" if index == 3 else "", -50.0, -50.0, None), 0.0)
    state.finish()
    assert list(state.history) == [
        Remark("teacher, voice NATF2"),
        Turn(0.24, "word", "teacher"),
        Remark("Talked for 00:02, 1 word. 0 underruns."),
    ]


def test_misses_are_steps_over_80_ms() -> None:
    times = StepTimes()
    for milliseconds in (40.0, 80.0, 80.1, 5000.0):
        times.add(milliseconds)
    assert (times.count, times.misses) == (4, 2)
    assert (times.percentile(50), times.percentile(95)) == (80, 1000)


@given(st.lists(st.floats(0, 999), min_size=1), st.integers(1, 99))
def test_percentiles_are_those_of_the_sorted_list(values: list[float], share: int) -> None:
    times = StepTimes()
    for each in values:
        times.add(each)
    assert times.percentile(share) == sorted(map(round, values))[-(-len(values) * share // 100) - 1]


@given(st.integers(0, 3 * MINUTE), st.integers(1, 200))
def test_a_minute_fits_any_width_and_keeps_its_slowest_step(count: int, cells: int) -> None:
    times = StepTimes()
    for number in range(count):
        times.add(float(number))
    minute = times.last_minute(cells)
    assert len(minute) <= cells
    assert max(minute, default=0.0) == max(0.0, count - 1.0)


def test_many_glitches_are_one_line_of_the_log() -> None:
    state = PanelState()
    state.apply(Note("Hello."), 0.0)
    for total in range(1, 4):
        state.apply(Glitch("underrun", total, "late"), 0.0)
    assert [text for _, text in state.log] == ["Hello.", "underrun 3: late"]
    assert state.glitches == {"underrun": 3}


def test_muted_and_hushed_are_known() -> None:
    state = PanelState()
    state.apply(Muted(True), 0.0)
    state.apply(Hushed(True), 0.0)
    assert (state.muted, state.hushed) == (True, True)
    state.apply(Muted(False), 0.0)
    assert (state.muted, state.hushed) == (False, True)


def test_words_of_the_users_stand_in_place_of_the_levels() -> None:
    state = PanelState()
    state.apply(Transcribing("tiny.en"), 0.0)
    for index in range(60):  # the user speaks for three seconds, the agent from the second one on
        state.apply(Step(index, " Yes." if index == 25 else "", -20.0 if index < 37 else -80.0, -50.0, None), 0.0)
        if index == 40:
            for frame, word in ((2, " Good"), (9, " day,"), (30, " Sir.")):
                state.apply(UserWords(word, frame, frame + 5), 0.0)
    state.finish()
    told = [entry for entry in state.history if isinstance(entry, Turn | UserTurn)]
    assert told == [UserTurn(0.16, (), "Good day,"), Turn(2.0, "Yes."), UserTurn(2.4, (), "Sir.")]


def test_the_agents_turns_wait_for_what_the_user_said_before() -> None:
    """As at a talk with a recogniser that needs a second: a long question, two short answers, then its words."""
    state = PanelState()
    state.apply(Transcribing("tiny.en"), 0.0)
    said = {75: " That is.", 95: " Sorry."}
    for index in range(120):
        state.apply(Step(index, said.get(index, ""), -20.0 if index < 70 else -80.0, -50.0, None), 0.0)
    assert state.writing and not state.history and state.telling == "That is. Sorry."
    state.apply(UserWords(" Morning.", 2, 60), 0.0)
    state.apply(step(120), 0.0)
    assert list(state.history) == [UserTurn(0.16, (), "Morning."), Turn(6.0, "That is."), Turn(7.6, "Sorry.")]
    assert not state.writing and not state.telling


def test_they_wait_no_longer_than_a_while() -> None:
    state = PanelState()
    state.apply(Transcribing("tiny.en"), 0.0)
    for index in range(100 + 2 * AWAITED_FRAMES):  # a cough: no words will come
        state.apply(Step(index, " Bless you." if index == 30 else "", -20.0 if index < 15 else -80.0, -50.0, None), 0.0)
    assert list(state.history) == [Turn(2.4, "Bless you.")] and not state.writing


def test_words_that_come_after_a_restart_are_told_with_the_time_of_the_talk_before() -> None:
    state = talk(*[""] * 50)
    state.apply(BEGAN, 0.0)
    state.apply(UserWords(" Too", -20, -12), 0.0)
    state.apply(UserWords(" late.", -12, -4), 0.0)
    assert state.transcribing
    state.apply(step(0), 0.0)
    state.apply(Transcribing(""), 0.0)
    state.finish()
    assert UserTurn(2.4, (), "Too late.") in state.history


def test_memory_is_bounded() -> None:
    state = PanelState()
    for index in range(20_000):
        state.apply(step(index, " word" if index % 40 == 0 else ""), 0.0)
        state.apply(Note(str(index)), 0.0)
        state.apply(Downloading(index, 20_000), float(index))
    bounded = (state.heard, state.said, state.log, state.history, state.arrivals)
    assert sum(map(len, bounded)) < 2_000
    assert state.steps.count == 20_000


def test_clocks_and_speeds() -> None:
    assert [clock(each) for each in (-1.0, 59.9, 61.0, 3661.0)] == ["00:00", "00:59", "01:01", "1:01:01"]
    assert download_speed([]) == 0.0
    assert download_speed([(1.0, Downloading(0, 9)), (3.0, Downloading(8, 9))]) == 4.0
    assert download_speed([(1.0, Downloading(0, 9)), (1.0, Downloading(8, 9))]) == 0.0
