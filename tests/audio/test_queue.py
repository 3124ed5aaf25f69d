"""Laws of the queue: a sound goes through it whole, or what is lost is the oldest, bounded and counted."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.audio.queue import DESERTED, SampleQueue
from personaplex_cli.samples import Samples

counts = st.integers(0, 5000)


def ramp(begin: int, count: int) -> Samples:
    """Samples that tell where they came from (exact in float32)."""
    return np.arange(begin, begin + count, dtype=np.float32)


@given(st.lists(counts, max_size=30), st.integers(1, 4096))
def test_any_blocks_in_any_blocks_out(sizes: list[int], count: int) -> None:
    queue = SampleQueue(limit=200_000)
    for begin, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        queue.put(ramp(begin, size))
    taken = []
    while len(queue) >= count:
        taken.append(queue.take(count))
        assert len(taken[-1]) == count
    taken.append(queue.take(count))
    assert len(queue) == 0
    assert np.array_equal(np.concatenate(taken), ramp(0, sum(sizes)))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 700)), max_size=200), st.integers(0, 2000))
def test_what_is_lost_is_the_oldest_and_counted(steps: list[tuple[bool, int]], limit: int) -> None:
    queue = SampleQueue(limit)
    came = gone = 0
    for is_put, count in steps:
        dropped = queue.dropped
        if is_put:
            queue.put(ramp(came, count))
            came += count if queue.dropped == dropped else 0  # else it was refused: nothing is taken any more
        else:
            taken = queue.take(count)
            lost = queue.dropped - dropped
            assert np.array_equal(taken, ramp(gone + lost, len(taken)))
            assert lost % count == 0 or not len(queue)
            gone += lost + len(taken)
            assert len(queue) <= limit
        assert len(queue) == came - gone <= DESERTED * limit + 700


def test_putting_never_waits_and_the_memory_is_bounded_when_nothing_is_taken() -> None:
    queue = SampleQueue(limit=1920)
    for _ in range(1000):
        queue.put(np.zeros(480, dtype=np.float32))
    assert len(queue) + queue.dropped == 480_000
    assert len(queue) <= DESERTED * 1920 + 480
    queue.take(480)
    assert len(queue) <= 1920


def test_what_is_taken_is_the_takers_own() -> None:
    queue, block = SampleQueue(1920), ramp(0, 10)
    queue.put(block)
    queue.take(10)[:] = 7
    assert np.array_equal(block, ramp(0, 10))


def test_two_threads_lose_nothing() -> None:
    queue = SampleQueue(limit=10**6)
    taken: list[Samples] = []

    def take_all() -> None:
        while sum(map(len, taken)) < 100_000:
            taken.append(queue.take(333))

    taker = threading.Thread(target=take_all)
    taker.start()
    for begin in range(0, 100_000, 250):
        queue.put(ramp(begin, 250))
    taker.join()
    assert queue.dropped == 0
    assert np.array_equal(np.concatenate(taken), ramp(0, 100_000))
