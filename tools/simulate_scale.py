"""How a fleet of GPUs holds many conversations: the table of docs/scaling.md.

Talks arrive at random (Poisson), at noon four times as often as at midnight. Half are over in three minutes, one in a
hundred lasts half an hour (lognormal). A GPU holds `slots` talks and lets `queue` more wait, as `personaplex serve`
does; a load balancer picks the GPU. A fleet is sized so that Erlang B refuses one talk in a hundred at noon. GPUs fail,
lose all they hold, and are back once the model is loaded; those who lost a talk do not come again. Times are in
seconds; a load is the mean number of talks at once.
"""

import argparse
from bisect import bisect
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from heapq import heappop, heappush
from itertools import count, product
from math import ceil, inf

import numpy as np

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
TALK, SPREAD = 5 * MINUTE, 1.0  # mean of the lengths, standard deviation of their logarithms
HEADROOM = 1.1  # times what is held now, and one GPU more: what a fleet that scales keeps
State = Enum("State", "OFF STARTING READY DRAINING")  # draining: takes no more talks, and goes off with its last


@dataclass(frozen=True)
class Plan:
    """One run. `peak` is the load at noon, `wave` how far noon and midnight are from the mean."""

    gpus: int
    peak: float
    slots: int = 16
    queue: int = 1
    placement: str = "least connections"
    scales: bool = False
    wave: float = 0.6
    between_failures: float = 10 * DAY  # mean, of one GPU; inf: none fails
    start: float = 5 * MINUTE  # from off, or from a failure, until the model is loaded
    duration: float = DAY
    seed: int = 0


@dataclass
class Outcome:
    """What became of the talks: arrived = finished + refused + sum(losses) + held."""

    arrived: int = 0
    finished: int = 0
    refused: int = 0
    held: int = 0  # at the end
    losses: list[int] = field(default_factory=list)  # of each failure
    waits: list[float] = field(default_factory=list)  # of each talk that began
    talked: float = 0.0  # seconds of slots
    powered: float = 0.0  # seconds of GPUs, also while they start


def erlang_b(load: float, slots: int) -> float:
    """The share of talks that find all slots taken, where none waits and nothing fails."""
    blocked = 1.0
    for n in range(1, slots + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


def load_for(slots: int, blocking: float = 0.01) -> float:
    """The highest load, in tenths, at which Erlang B gives `blocking` or less."""
    return (bisect(range(20 * slots), blocking, key=lambda tenths: erlang_b(tenths / 10, slots)) - 1) / 10


def arrivals(plan: Plan, random: np.random.Generator) -> Iterator[tuple[float, float]]:
    """Time and length of each talk, in order, from midnight on."""
    times = np.sort(random.uniform(0, plan.duration, random.poisson(plan.peak / TALK * plan.duration)))
    share = (1 - plan.wave * np.cos(2 * np.pi * times / DAY)) / (1 + plan.wave)
    times = times[random.uniform(size=len(times)) < share]
    lengths = random.lognormal(np.log(TALK) - SPREAD**2 / 2, SPREAD, len(times))
    return zip(times.tolist(), lengths.tolist(), strict=True)


class Fleet:
    """The GPUs of one run; `run` it once."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.outcome, self.random = plan, Outcome(), np.random.default_rng(plan.seed)
        self.state = [State.OFF] * plan.gpus
        self.held = [0] * plan.gpus  # talks and those who wait
        self.levels: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(plan.slots + plan.queue + 1)]
        self._waiting: list[deque[tuple[float, float]]] = [deque() for _ in range(plan.gpus)]  # came at, length
        self._lives = [0] * plan.gpus  # what a GPU was to do is void in its next life
        self._events: list[tuple[float, int, int, int, Callable[[int], None]]] = []  # ..., GPU, its life, what it does
        self._numbers = count()  # orders events of one time
        self._now, self._talking, self._powered = 0.0, 0, 0

    def run(self) -> Outcome:
        for gpu in range(self.plan.gpus):
            self._become_ready(gpu)
        next_look = HOUR if self.plan.scales else inf  # by then the talks of the night are there
        for time, length in arrivals(self.plan, self.random):
            self._advance(time)
            if time >= next_look:
                self._scale()
                next_look = time + MINUTE
            self._connect(length)
        self._advance(self.plan.duration)
        return replace(self.outcome, held=sum(self.held))

    def _advance(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            time, _, gpu, life, act = heappop(self._events)
            if life == self._lives[gpu]:
                self._pass_time(time)
                act(gpu)
        self._pass_time(until)

    def _pass_time(self, until: float) -> None:
        passed, self._now = until - self._now, until
        self.outcome.talked += self._talking * passed
        self.outcome.powered += self._powered * passed

    def _expect(self, seconds: float, gpu: int, act: Callable[[int], None]) -> None:
        heappush(self._events, (self._now + seconds, next(self._numbers), gpu, self._lives[gpu], act))

    def _connect(self, length: float) -> None:
        self.outcome.arrived += 1
        gpu = PLACEMENTS[self.plan.placement](self)
        if gpu is None:
            self.outcome.refused += 1
        elif self._hold(gpu, +1) <= self.plan.slots:
            self._begin(gpu, self._now, length)
        else:
            self._waiting[gpu].append((self._now, length))

    def _begin(self, gpu: int, came: float, length: float) -> None:
        self.outcome.waits.append(self._now - came)
        self._talking += 1
        self._expect(length, gpu, self._finish)

    def _finish(self, gpu: int) -> None:
        self.outcome.finished += 1
        self._talking -= 1
        self._hold(gpu, -1)
        if self._waiting[gpu]:
            self._begin(gpu, *self._waiting[gpu].popleft())
        elif not self.held[gpu] and self.state[gpu] is State.DRAINING:
            self._become(gpu, State.OFF)

    def _hold(self, gpu: int, more: int) -> int:
        self.levels[self.held[gpu]].pop(gpu, None)
        self.held[gpu] += more
        if self.state[gpu] is State.READY:
            self.levels[self.held[gpu]][gpu] = None
        return self.held[gpu]

    def _become(self, gpu: int, state: State) -> None:
        self._powered += (state is not State.OFF) - (self.state[gpu] is not State.OFF)
        self._lives[gpu] += state in (State.OFF, State.STARTING)
        self.state[gpu] = state
        self._hold(gpu, 0)

    def _become_ready(self, gpu: int) -> None:
        self._become(gpu, State.READY)
        self._expect(self.random.exponential(self.plan.between_failures), gpu, self._fail)

    def _start(self, gpu: int) -> None:
        self._become(gpu, State.STARTING)
        self._expect(self.plan.start, gpu, self._become_ready)

    def _fail(self, gpu: int) -> None:
        self.outcome.losses.append(self.held[gpu])
        self._talking -= min(self.held[gpu], self.plan.slots)
        self._waiting[gpu].clear()
        self._hold(gpu, -self.held[gpu])
        self._start(gpu)

    def _scale(self) -> None:
        """Keep the fullest; the others drain and go off. What is missing comes back, or starts."""
        wanted = ceil(sum(self.held) * HEADROOM / self.plan.slots) + 1
        order = sorted(range(self.plan.gpus), key=lambda gpu: (self.state[gpu] is State.OFF, -self.held[gpu]))
        for gpu in order[:wanted]:
            if self.state[gpu] is State.DRAINING:
                self._become(gpu, State.READY)
            elif self.state[gpu] is State.OFF:
                self._start(gpu)
        for gpu in (gpu for gpu in order[wanted:] if self.state[gpu] is State.READY):
            self._become(gpu, State.DRAINING if self.held[gpu] else State.OFF)


def least_connections(fleet: Fleet) -> int | None:
    """The GPU with the fewest; of several, the one that has had so few for the longest."""
    return next((next(iter(level)) for level in fleet.levels[:-1] if level), None)


def fullest_first(fleet: Fleet) -> int | None:
    """The one with the most talks that has a slot; where none has, as `least_connections`."""
    levels = fleet.levels[: fleet.plan.slots][::-1]
    return next((next(iter(level)) for level in levels if level), least_connections(fleet))


def best_of_two(fleet: Fleet) -> int | None:
    """The better of two at random, for balancers that do not know of each other; where both are full, any other."""
    if (other := least_connections(fleet)) is None:
        return None
    two = [gpu for gpu in fleet.random.integers(fleet.plan.gpus, size=2).tolist() if fleet.state[gpu] is State.READY]
    gpu = min(two, key=fleet.held.__getitem__, default=other)
    return other if gpu in fleet.levels[-1] else gpu


PLACEMENTS = {"least connections": least_connections, "fullest first": fullest_first, "best of two": best_of_two}


def cells(plan: Plan, outcome: Outcome) -> dict[str, str]:
    """A row of the table, by column; waits are of those that waited."""
    waits = [wait for wait in outcome.waits if wait > 0]
    middle, long = np.percentile(waits, (50, 95)) if waits else (0.0, 0.0)
    return {
        "GPUs": f"{plan.gpus:,}{', scaling' if plan.scales else ''}",
        "placement": plan.placement,
        "talks": f"{outcome.arrived:,}",
        "refused": f"{outcome.refused / (outcome.arrived or 1):.2%}",
        "waited": f"{len(waits) / (outcome.arrived or 1):.1%}",
        "wait, p50 / p95": f"{middle:.0f} / {long:.0f} s",
        "slots in use": f"{outcome.talked / outcome.powered / plan.slots:.0%}",
        "GPU-hours": f"{outcome.powered / HOUR:,.0f}",
        "failures": f"{len(outcome.losses)}",
        "lost, most at once": f"{sum(outcome.losses)}, {max(outcome.losses, default=0)}",
    }


def table(plans: Iterable[Plan]) -> str:
    rows = [cells(plan, Fleet(plan).run()) for plan in plans]
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def at_least(least: int) -> Callable[[str], int]:
    """A type for argparse: whole numbers from `least` on."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=at_least(1), nargs="+", default=[10, 100, 1000])
    parser.add_argument("--slots", type=at_least(1), default=Plan.slots, help="talks of one GPU")
    parser.add_argument("--queue", type=at_least(0), default=Plan.queue, help="how many wait at one GPU")
    parser.add_argument("--seed", type=at_least(0), default=Plan.seed)
    given = parser.parse_args()
    fleets = [Plan(n, load_for(n * given.slots), given.slots, given.queue, seed=given.seed) for n in given.gpus]
    ways = product((False, True), PLACEMENTS)
    print(table(replace(plan, scales=scales, placement=name) for plan, (scales, name) in product(fleets, ways)))


if __name__ == "__main__":
    main()
