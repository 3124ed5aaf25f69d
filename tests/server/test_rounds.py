"""Who is admitted, by numbers alone: how long rounds took, who came and left, what the clock said."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.client.connection import REFUSALS
from personaplex_cli.server import admission
from personaplex_cli.server.admission import (
    BUSY,
    GREEDY,
    JOIN_SECONDS,
    LOADING,
    MAX_PLACES,
    SHUTDOWN,
    SLOW,
    Admission,
    Place,
    Refusal,
)
from personaplex_cli.server.rounds import MAX_ROUND_MS, REMEMBERED, RoundTimes

FAST, SLOWLY = MAX_ROUND_MS - 1, MAX_ROUND_MS + 1
milliseconds = st.floats(0.1, 1000.0)
history = st.lists(st.tuples(st.integers(1, 8), milliseconds), max_size=300)


def times(*rounds: tuple[int, float], times: int = 1) -> RoundTimes:
    known = RoundTimes()
    for talking, each in rounds * times:
        known.add(talking, each)
    return known


@given(history)
def test_the_first_one_is_always_admitted(before: list[tuple[int, float]]) -> None:
    assert times(*before).may_admit(0)


@given(history, st.integers(1, 8), st.sampled_from([FAST, SLOWLY]))
def test_whatever_was_before_is_forgotten(before: list[tuple[int, float]], talking: int, now: float) -> None:
    known = times(*before)
    for _ in range(REMEMBERED):
        known.add(talking, now)
    assert known.may_admit(talking) == (now == FAST)


@given(st.lists(milliseconds, min_size=1, max_size=REMEMBERED), st.integers(1, 8))
def test_nineteen_rounds_of_twenty_take_no_longer(rounds: list[float], talking: int) -> None:
    limit = times(*((talking, each) for each in rounds)).p95(talking)
    assert limit in rounds
    assert sum(each <= limit for each in rounds) >= 0.95 * len(rounds)
    assert sum(each < limit for each in rounds) <= 0.95 * len(rounds)


@given(history, st.integers(1, 7))
def test_a_crowd_is_forgiven_when_somebody_leaves(before: list[tuple[int, float]], talking: int) -> None:
    """What was measured beside more does not count; what was measured beside the nearest fewer does, for want of it."""
    fewer = [(count, each) for count, each in before if count <= talking]
    assert times(*before).p95(talking) == times(*fewer).p95(talking)
    nearest = max((count for count, _ in fewer), default=0)
    assert times(*before).p95(talking) == times(*before).p95(nearest)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Crowd:
    """An admission of four slots, and those who came; everybody who may talk does at once."""

    def __init__(self, slots: int = 4, queue: int = 0) -> None:
        self.clock = Clock()
        self.changes = list[tuple[int, int]]()
        self.admission = Admission(queue, lambda: self.changes.append((it.talking, it.waiting)), self.clock)
        it = self.admission
        it.slots = slots

    def come(self, address: str = "") -> Place | Refusal:
        place = self.admission.enter(address)
        self.settle()
        return place

    def settle(self) -> None:
        for place in list(self.admission.places):
            self.clock.now += JOIN_SECONDS
            self.admission.seat(place)

    def measure(self, milliseconds: float) -> None:
        for _ in range(REMEMBERED):
            self.admission.times.add(self.admission.talking, milliseconds)


def test_no_one_more_is_admitted_while_rounds_are_slow() -> None:
    crowd = Crowd()
    for _ in range(2):
        assert isinstance(crowd.come(), Place)
        crowd.measure(FAST)
    third = crowd.come()
    assert isinstance(third, Place) and third.talks
    crowd.measure(SLOWLY)
    assert crowd.come() is SLOW and crowd.admission.refusal() is SLOW
    crowd.measure(FAST)  # another program has ended
    assert isinstance(crowd.come(), Place) and crowd.come() is BUSY


def test_one_who_waits_because_rounds_are_slow_gets_in_when_somebody_leaves() -> None:
    crowd = Crowd(queue=1)
    first, second = crowd.come(), crowd.come()
    assert isinstance(first, Place) and isinstance(second, Place)
    crowd.measure(SLOWLY)
    third = crowd.come()
    assert isinstance(third, Place) and not third.talks and crowd.come() is SLOW
    first.leave()
    crowd.settle()
    assert third.talks  # nothing is known of rounds with one
    crowd.measure(SLOWLY)
    second.leave()
    crowd.measure(SLOWLY)
    fourth = crowd.come()
    assert isinstance(fourth, Place) and not fourth.talks
    third.leave()
    crowd.settle()
    assert fourth.talks  # the first of all, however slow it was


@given(st.lists(st.tuples(st.sampled_from(["come", "leave", "go"]), st.integers(0, 8), milliseconds)))
def test_somebody_talks_wherever_somebody_waits(happened: Sequence[tuple[str, int, float]]) -> None:
    crowd = Crowd(queue=3)
    for what, which, took in happened:
        crowd.measure(took)
        places = crowd.admission.places
        if what == "come":
            crowd.come()
        elif places and what == "leave":
            places[which % len(places)].leave()
        elif places:
            places[which % len(places)].going = True
        crowd.settle()
        talking, waiting = crowd.admission.talking, crowd.admission.waiting
        assert talking <= 4 and (talking or not waiting)
        assert [place.talks for place in places] == [True] * talking + [False] * waiting  # nobody is overtaken
        if places:
            assert crowd.changes[-1] == (talking, waiting)


def test_a_single_slot_is_given_at_once_however_slow_it_is() -> None:
    """A server of one conversation refuses those it always has: who come while somebody talks."""
    crowd = Crowd(slots=1)
    for _ in range(3):
        place = crowd.admission.enter("192.0.2.1")
        assert isinstance(place, Place) and crowd.admission.seat(place)  # the clock stands still
        crowd.measure(SLOWLY)
        assert crowd.admission.refusal() is BUSY
        place.going = True
        following = crowd.admission.enter("192.0.2.1")
        assert isinstance(following, Place)
        following.leave()
        place.leave()


def test_one_who_is_refused_beside_a_place_that_is_free_learns_that_steps_are_slow() -> None:
    crowd = Crowd(slots=2, queue=1)
    assert isinstance(crowd.come(), Place)
    crowd.measure(SLOWLY)
    assert isinstance(crowd.come(), Place) and crowd.admission.waiting == 1
    assert crowd.come() is SLOW


def test_those_who_come_together_join_one_after_the_other() -> None:
    """So that what each costs is seen before the next one joins."""
    crowd = Crowd()
    places = [place for _ in range(4) if isinstance(place := crowd.admission.enter(), Place)]
    joined = list[int]()
    for _ in range(4):
        for _ in range(3):
            for place in places:
                crowd.admission.seat(place)
        joined.append(crowd.admission.talking)
        crowd.clock.now += JOIN_SECONDS
    assert joined == [1, 2, 3, 4]


def test_an_address_may_hold_half_of_the_slots() -> None:
    crowd = Crowd(slots=5, queue=5)
    mine = [crowd.come("192.0.2.1") for _ in range(4)]
    assert mine[3] is GREEDY and all(isinstance(place, Place) for place in mine[:3])
    assert isinstance(crowd.come("192.0.2.2"), Place)
    assert not any(isinstance(crowd.come(), Refusal) for _ in range(6))  # of a machine that many come from
    assert crowd.come("192.0.2.2") is BUSY
    assert isinstance(mine[0], Place)
    mine[0].going = True
    assert isinstance(crowd.come("192.0.2.1"), Place)


def test_nobody_comes_while_it_is_closed() -> None:
    crowd = Crowd(queue=2)
    crowd.admission.closed = LOADING
    assert crowd.come() is LOADING
    crowd.admission.closed = None
    first, waiting = crowd.admission.enter(), crowd.admission.enter()
    assert isinstance(first, Place) and isinstance(waiting, Place)
    crowd.admission.seat(first)
    crowd.admission.closed = SHUTDOWN
    crowd.settle()
    assert crowd.come() is SHUTDOWN and not waiting.talks and first.talks


def test_there_are_so_many_places_and_no_more() -> None:
    crowd = Crowd(queue=1000)
    assert all(isinstance(crowd.admission.enter(), Place) for _ in range(MAX_PLACES))
    assert crowd.admission.enter() is BUSY


def test_a_place_is_free_as_soon_as_its_client_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personaplex_cli.server.admission.JOIN_SECONDS", 0.0)

    async def come_and_go() -> None:
        admission = Admission(queue=1)
        admission.slots = 2
        places = [place for _ in range(3) if isinstance(place := admission.enter(), Place)]
        assert len(places) == 3 and admission.enter() is BUSY
        first, second, _ = places
        assert admission.seat(first) and admission.seat(second)
        assert (admission.talking, admission.waiting) == (2, 1)
        first.going = True
        late = admission.enter()
        assert isinstance(late, Place) and admission.enter() is BUSY
        positions = late.positions()
        assert await anext(positions) == 1
        first.leave()
        first.leave()
        second.leave()
        assert admission.seat(places[2])
        assert [each async for each in positions] == []
        assert late.talks

    asyncio.run(come_and_go())


def test_every_refusal_is_documented_and_known_to_our_clients() -> None:
    reasons = {each.reason for each in vars(admission).values() if isinstance(each, Refusal)}
    assert reasons == REFUSALS.keys()
    serving = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    assert all(f"`{reason}`" in serving for reason in reasons)
