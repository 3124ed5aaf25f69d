"""The benchmark's rules at their boundaries, with answers known by hand."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.evaluation.intervals import Interval, between, common, merged, total
from personaplex_cli.evaluation.manner import manner
from personaplex_cli.evaluation.turn_taking import (
    Spoken,
    divergence,
    latency,
    listening,
    responses,
    stops,
    takes_turn,
)


def words(*spans: tuple[float, float | None]) -> list[Spoken]:
    return [Spoken("word", start, end) for start, end in spans]


def row(count: int, seconds: float, start: float = 2.0) -> list[Spoken]:
    """So many words that last so long together."""
    step = seconds / max(count, 1)
    return words(*((start + n * step, start + (n + 1) * step) for n in range(count)))


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ([], False),
        (row(1, 0.99), False),
        (row(1, 1.0), True),
        (row(3, 0.5), False),
        (row(4, 0.5), True),
        (words((2.0, 2.2), (2.4, 2.5), (2.9, 3.0)), True),  # the pauses count
        (words((2.0, 2.2), (2.9, None)), False),  # 0.9 s to the start of the last word
        (words((2.0, None), (3.0, None)), True),
        (words((2.0, None)), False),
    ],
)
def test_who_speaks_for_a_second_or_says_more_than_three_words_takes_the_turn(said: list[Spoken], taken: bool) -> None:
    assert takes_turn(said) is taken


def test_who_is_early_is_not_late() -> None:
    assert latency(3.25, 3.0) == 0.25
    assert latency(2.0, 3.0) == 0.0


@pytest.mark.parametrize(
    ("speech", "said", "short", "taken", "any_taken"),
    [
        ([], row(9, 9.0), 0, False, False),  # nothing sounds, whatever is written
        ([(2, 2.9)], [], 1, False, False),
        ([(2, 2.9)], row(2, 0.8), 1, False, False),
        ([(2, 2.9)], row(3, 0.8), 1, True, True),
        ([(2, 3.0)], row(1, 0.5), 1, True, True),  # a second
        ([(2, 5.0)], [], 1, True, True),  # three seconds are short still
        ([(2, 5.1)], [], 0, True, True),
        ([(2, 2.5), (4, 8), (9, 9.5)], [], 1, True, True),  # what follows a long one is not looked at
        ([(2, 3.5), (6, 6.5)], [], 2, False, True),  # the script forgets the first when it looks at the second
        ([(6, 6.5)], row(4, 0.9, start=2), 1, False, False),  # words elsewhere
    ],
)
def test_a_backchannel_is_short_and_of_two_words_at_most(
    speech: list[Interval], said: list[Spoken], short: int, taken: bool, any_taken: bool
) -> None:
    found = listening(speech, said)
    assert (len(found.short), found.takes_turn, found.any_takes_turn) == (short, taken, any_taken)


@pytest.mark.parametrize(
    ("word", "counts"),
    [
        ((1.0, 2.0), False),  # ends as the speech begins
        ((1.0, 2.1), True),
        ((2.0, 2.0), True),
        ((2.2, 2.4), True),
        ((1.0, 4.0), True),
        ((2.5, 4.0), True),  # begins as the speech ends
        ((2.6, 4.0), False),
        ((2.2, None), False),
        ((2.5, None), True),
    ],
)
def test_which_words_are_in_a_stretch_of_speech(word: tuple[float, float | None], counts: bool) -> None:
    """Two words are in it for certain; the third makes it a turn."""
    assert listening([(2.0, 2.5)], [*row(2, 0.4, start=2.05), *words(word)]).takes_turn is counts


def test_the_divergence_from_human_listeners() -> None:
    assert divergence([], 4.0, [1.0]) == 1.0
    human = [0.0] * 21
    human[10] = 1.0
    assert divergence([(2.05, 2.15)], 4.0, human) == pytest.approx(0, abs=1e-3)  # in the same bin of 200 ms
    assert divergence([(1.05, 1.15)], 4.0, human) == pytest.approx(math.sqrt(math.log(2)), abs=1e-3)
    half = [0.0] * 10 + [1.0] + [0.0] * 10
    half[5] = 1.0  # half of the people are earlier
    expected = math.sqrt((math.log(1 / 0.75) + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2)
    assert divergence([(2.05, 2.15)], 4.0, half) == pytest.approx(expected, abs=1e-3)
    assert divergence([(2.05, 2.15)], 4.0, [1.0, 1.0]) == divergence([(2.05, 2.15)], 4.0, [7.0] * 40)  # stretched


def test_how_long_the_agent_goes_on_and_when_it_answers() -> None:
    user = [(1.0, 2.0), (2.5, 4.0), (8.0, 9.0)]  # a pause of 0.5 s belongs to the turn
    agent = [(3.5, 3.75), (4.25, 5.0), (9.0, 9.5), (11.0, 12.0)]  # and here to the answer
    assert stops(user, agent) == [(3.5, 4.0)]
    assert responses(user, agent) == [(4.0, 9.0), (9.0, 11.0)]  # what begins with the end is not after it
    assert stops(user, []) == stops([], agent) == responses(user, []) == []
    # Silence of 0.5625 s is within a turn for the user, and not for the agent.
    assert stops([(0.0, 1.0), (1.5625, 2.0)], [(0.5, 1.75)]) == [(0.5, 1.75)]
    assert stops([(0.5, 1.75)], [(0.0, 1.0), (1.5625, 2.0)]) == [(0.5, 1.0), (1.562, 1.75)]
    # Two turns without an answer in between: the answer is to the second one.
    assert responses([(1.0, 2.0), (4.0, 5.0)], [(6.0, 7.0)]) == [(5.0, 6.0)]


intervals = st.lists(st.tuples(st.integers(0, 90), st.integers(1, 10)), max_size=8).map(
    lambda pairs: [(start / 4, (start + length) / 4) for start, length in pairs]
)


@given(intervals, intervals)
def test_speech_and_silence_make_up_the_time(some: list[Interval], others: list[Interval]) -> None:
    some, others = merged(some), merged(others)
    assert total(some) + total(between(some, 25.0)) == 25.0
    both = common(some, others)
    assert both == common(others, some) == merged(both)
    assert total(some) + total(others) - total(both) == total(merged([*some, *others]))


@given(intervals, st.sampled_from([0.0, 0.5, 2.0]))
def test_merged_intervals_are_apart(some: list[Interval], gap: float) -> None:
    whole = merged(some, gap)
    assert all(later[0] - earlier[1] > gap for earlier, later in pairwise(whole))
    assert all(any(a <= start and end <= b for a, b in whole) for start, end in some)


@given(intervals, intervals)
def test_stops_lie_in_both_and_responses_between(user: list[Interval], agent: list[Interval]) -> None:
    def within(inner: Interval, outer: Sequence[Interval]) -> bool:
        return any(start <= inner[0] and inner[1] <= end for start, end in outer)

    for each in stops(user, agent):
        assert within(each, merged(user, 0.6)) and within(each, merged(agent, 0.5))
    for end, start in responses(user, agent):
        assert end < start and end in {each for _, each in user} and start in {each for each, _ in agent}


def test_our_own_figures() -> None:
    user, agent = [(0.0, 2.0), (6.0, 8.0), (9.0, 10.0)], [(3.0, 5.0), (7.0, 7.5), (8.2, 8.4)]
    told = words((3.0, 3.2), (3.5, 4.0), (7.0, 7.5))
    assert manner(user, agent, told, 20.0) == pytest.approx(
        {
            "speaking_share": 2.7 / 20,
            "overlap_share": 0.5 / 20,
            "longest_wait": 10.0,  # until the end: the last turn has no answer
            "false_starts_a_minute": 60 / 15,  # at 8.2 s; the sound at 7 s came while the user spoke
            "words_a_minute": 60 * 3 / 2.5,  # up to the last word that is told
        }
    )
    silent = manner([], [], [], 10.0)
    assert silent["longest_wait"] is silent["words_a_minute"] is None and silent["speaking_share"] == 0.0
    short_answer = manner([(0.0, 2.0)], [(3.0, 3.5)], words((3.0, 3.5)), 10.0)
    assert short_answer["words_a_minute"] is None  # a rate of half a second's speech says nothing
    assert short_answer["false_starts_a_minute"] == 0.0  # nobody speaks after it: it is an answer
    assert manner([(0.0, 2.0)], [(1.5, 4.0)], [], 10.0)["longest_wait"] == 0.0
