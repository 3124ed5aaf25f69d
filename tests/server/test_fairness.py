"""What clients may take of the event loop's time, in a time of its own: nothing here depends on how fast it runs."""

import asyncio
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.server.fairness import BURST, COMMON, TALKERS, LoopTime, Share

SECONDS = st.floats(0.001, 0.06)  # that a piece of work takes
PLACES = 4


class ImaginaryTime(asyncio.SelectorEventLoop):
    """Time passes while somebody works, and when nobody does, at once until somebody wants to."""

    now = 0.0
    worked = 0.0

    def time(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.worked += seconds

    def _run_once(self) -> None:
        this: Any = self
        if not this._ready and this._scheduled:
            self.now = max(self.now, this._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


async def work(share: Share, pieces: list[float], done: list[int], me: int, until: float = 1e9) -> None:
    """Work on these pieces, without a pause, until so late; `done` says by whom each was done."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ImaginaryTime)

    def worked() -> Iterator[None]:
        while loop.now < until:
            for seconds in pieces:
                loop.work(seconds)
                yield
                done.append(me)

    async for _ in share.fairly(worked()):
        await asyncio.sleep(0)


def in_imaginary_time(main: Any) -> None:
    with asyncio.Runner(loop_factory=ImaginaryTime) as runner:
        runner.run(main())


def loop_time() -> tuple[ImaginaryTime, LoopTime]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ImaginaryTime)
    return loop, LoopTime(loop.time, lambda: loop.worked)


@given(st.lists(st.lists(SECONDS, min_size=1, max_size=4), min_size=1, max_size=10), st.integers(0, PLACES))
def test_all_clients_together_take_their_part_and_no_more(clients: list[list[float]], talkers: int) -> None:
    async def crowd() -> None:
        loop, everyone = loop_time()
        shares = [Share(everyone) for _ in clients]
        for share in shares[:talkers]:
            share.talk(PLACES)
        await asyncio.gather(*(work(share, each, [], 0, 5.0) for share, each in zip(shares, clients, strict=True)))
        most = sum(map(sum, clients)) + 2 * BURST * (1 + talkers)  # the last pieces, and what may be taken at once
        assert loop.worked <= (TALKERS + COMMON) * loop.now + most

    in_imaginary_time(crowd)


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(0.0, 1.0)), max_size=50))
def test_who_needs_no_more_than_its_part_never_waits(gaps: list[tuple[float, float]]) -> None:
    now = worked = 0.0
    everyone = LoopTime(lambda: now, lambda: worked)
    good, bad = Share(everyone), Share(everyone)
    good.talk(PLACES)

    def hard() -> None:
        nonlocal worked
        worked += 1e6

    def easy(seconds: float) -> Iterator[None]:
        nonlocal worked
        worked += seconds
        yield

    bad.do(hard)
    for seconds, part in gaps:
        now += seconds
        turn = anext(good.fairly(easy(min(BURST, part * seconds * TALKERS / PLACES))))
        try:
            turn.send(None)  # type: ignore[attr-defined]  # which would come back if it waited for anything
        except StopIteration:
            continue
        raise AssertionError("it waits")


@given(st.lists(SECONDS, min_size=2, max_size=6))
def test_who_shares_takes_turns(costs: list[float]) -> None:
    async def crowd() -> None:
        _, everyone = loop_time()
        done = list[int]()
        await asyncio.gather(*(work(Share(everyone), [each], done, me, 5.0) for me, each in enumerate(costs)))
        counts = [done.count(me) for me in range(len(costs))]
        assert max(counts) - min(counts) <= 2

    in_imaginary_time(crowd)


def test_for_who_is_gone_nothing_is_done_and_nobody_waits() -> None:
    async def crowd() -> None:
        _, everyone = loop_time()
        gone, done = [Share(everyone) for _ in range(1_000)], list[int]()
        waiting = [asyncio.create_task(work(share, [1.0], done, 0)) for share in gone]
        await asyncio.sleep(0)
        for share in gone:
            share.over = True
        await work(Share(everyone), [0.001], done, 1, 20.0)
        await asyncio.gather(*waiting)
        assert done.count(0) <= 1 and done.count(1) > 1

    in_imaginary_time(crowd)


def test_what_cannot_wait_is_made_up_for() -> None:
    now = worked = 0.0
    share = Share(LoopTime(lambda: now, lambda: worked))

    def work() -> None:
        nonlocal worked
        worked += BURST + 0.05

    assert share.do(lambda: None) == 0
    pause = share.do(work)
    assert pause > 0
    now += pause
    assert share.do(lambda: None) < 1e-9
    share.talk(1)
    assert share.do(work) == 0  # from its own part
    assert share.do(work) > 0
