"""Turns made up: laws over all talks, and the cases that they were made for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.events import Step
from personaplex_cli.protocols.speech_turns import (
    DROPPED,
    ONSET,
    AgentBegan,
    AgentEnded,
    AgentSaid,
    Change,
    Rules,
    SpeechTurns,
    UserBegan,
    UserEnded,
)
from personaplex_cli.samples import Samples

LOUD, QUIET = -20.0, -80.0
TALKS = st.lists(
    st.tuples(st.booleans(), st.booleans()), max_size=150
)  # of each frame: does the user speak, the agent?
RULES = st.none() | st.builds(Rules, st.integers(1, 900), st.booleans())


def marked(index: int) -> Samples:
    """The agent's sound of a frame, which it can be known by."""
    return np.full(4, index, dtype=np.float32)


def hear(turns: SpeechTurns, user: str, agent: str, index: int = 0) -> list[Change]:
    """What follows from frames, in which # is speech and w a piece of text."""
    changes: list[Change] = []
    for at, (heard, said) in enumerate(zip(user, agent, strict=True), index):
        levels = LOUD if heard == "#" else QUIET, LOUD if said == "#" else QUIET
        changes += turns.hear(Step(at, " word" * (said == "w"), *levels, None), marked(at))
    return changes


def kinds(changes: list[Change]) -> list[Change]:
    """All but what is said."""
    return [each for each in changes if not isinstance(each, AgentSaid)]


def said(changes: list[Change]) -> list[int]:
    return [int(each.pcm[0]) for each in changes if isinstance(each, AgentSaid)]


@given(RULES, TALKS)
def test_turns_begin_and_end_in_turn_and_no_frame_is_said_twice(
    rules: Rules | None, talk: list[tuple[bool, bool]]
) -> None:
    turns = SpeechTurns(rules)
    user = "".join("#" if heard else "-" for heard, _ in talk)
    agent = "".join("#" if spoken else "-" for _, spoken in talk)
    changes, agent_talks, user_talks = hear(turns, user, agent), False, False
    for change in changes:
        match change:
            case AgentBegan():
                assert not agent_talks
                agent_talks = True
            case AgentEnded(interrupted):
                assert agent_talks and (not interrupted or (rules and rules.interrupts and user_talks))
                agent_talks = False
            case AgentSaid():
                assert agent_talks
            case UserBegan(frame):
                assert rules and not user_talks and talk[frame][0]
                user_talks = True
            case UserEnded(frame):
                assert user_talks and not talk[frame - 1][0]
                user_talks = False
    assert turns.agent_talks == agent_talks
    assert said(changes) == sorted(set(said(changes)))
    if not (rules and rules.interrupts):  # then nothing of its speech is lost
        assert {at for at, (_, spoken) in enumerate(talk) if spoken} <= set(said(changes))


def test_what_is_said_begins_two_frames_early_and_ends_after_a_pause() -> None:
    changes = hear(SpeechTurns(Rules()), "-" * 30, "-----#w--#" + "-" * 20)
    assert kinds(changes) == [AgentBegan(), AgentEnded(interrupted=False)]
    assert said(changes) == list(range(5 - ONSET, 20))  # silence within it, too


def test_a_users_turn_is_three_frames_until_half_a_second_of_silence() -> None:
    changes = hear(SpeechTurns(Rules()), "-##---###--####-------", "-" * 22)
    assert kinds(changes) == [UserBegan(6), UserEnded(22)]


def test_a_short_word_of_agreement_interrupts_nobody() -> None:
    assert kinds(hear(SpeechTurns(Rules()), "-----#######--", "#" * 14)) == [AgentBegan()]


def test_who_talks_into_the_agents_speech_ends_it_and_what_it_goes_on_saying_is_dropped() -> None:
    turns = SpeechTurns(Rules())
    changes = hear(turns, "--" + "#" * 8, "#" * 10)
    assert kinds(changes) == [AgentBegan(), UserBegan(2), AgentEnded(interrupted=True)]
    assert said(changes) == list(range(9))
    changes = hear(turns, "#" * 8, "##--#---", 10)
    assert kinds(changes) == [AgentBegan()] and said(changes) == [14, 15, 16, 17]
    stubborn = SpeechTurns(Rules())
    hear(stubborn, "#" * 8, "#" * 8)
    assert said(hear(stubborn, "#" * 20, "#" * 20, 8)) == list(range(8 + DROPPED - 1, 28))


def test_the_agent_goes_on_where_it_shall_not_be_interrupted() -> None:
    changes = hear(SpeechTurns(Rules(interrupts=False)), "#" * 20, "#" * 20)
    assert kinds(changes) == [AgentBegan(), UserBegan(0)] and said(changes) == list(range(20))


def test_an_answer_ends_the_users_turn_unless_they_still_speak() -> None:
    changes = hear(SpeechTurns(Rules()), "####---###", "------####")
    assert kinds(changes) == [UserBegan(0), UserEnded(7), AgentBegan()]
    changes = hear(SpeechTurns(Rules()), "####--####", "------####")
    assert kinds(changes) == [UserBegan(0), AgentBegan()]


def test_once_turns_are_not_wanted_any_more_the_one_that_goes_on_has_no_end() -> None:
    turns = SpeechTurns(Rules())
    assert kinds(hear(turns, "####", "----")) == [UserBegan(0)]
    turns.rules = None
    assert kinds(hear(turns, "----", "---#", 4)) == [AgentBegan()]
    turns.rules = Rules()
    assert kinds(hear(turns, "-" * 9, "#" * 9, 8)) == []


def test_a_user_who_begins_in_a_pause_ends_the_agents_turn_as_a_whole_one() -> None:
    changes = hear(SpeechTurns(Rules()), "-----###", "###-----")
    assert kinds(changes) == [AgentBegan(), AgentEnded(interrupted=False), UserBegan(5)]


@pytest.mark.parametrize("frames", [0, 5])
def test_after_a_cancellation_nothing_is_said_until_it_pauses(frames: int) -> None:
    turns = SpeechTurns(None)
    hear(turns, "---", "###")
    assert turns.interrupt() == AgentEnded(interrupted=True) and not turns.agent_talks
    assert hear(turns, "-" * (frames + 2), "#" * frames + "--", 3) == []
    assert kinds(hear(turns, "-", "#", 5 + frames)) == [AgentBegan()]
