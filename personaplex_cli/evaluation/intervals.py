"""Stretches of speech as intervals (start, end) in seconds, in order and apart from each other."""

from collections.abc import Iterable, Sequence

Interval = tuple[float, float]


def merged(intervals: Iterable[Interval], gap: float = 0.0) -> list[Interval]:
    """The intervals in order, those as one that are no more than `gap` seconds apart."""
    whole: list[Interval] = []
    for start, end in sorted(intervals):
        if whole and start - whole[-1][1] <= gap:
            whole[-1] = (whole[-1][0], max(whole[-1][1], end))
        else:
            whole.append((start, end))
    return whole


def common(some: Sequence[Interval], others: Sequence[Interval]) -> list[Interval]:
    """Where intervals of both overlap."""
    met = ((max(a, c), min(b, d)) for a, b in some for c, d in others)
    return sorted((start, end) for start, end in met if start < end)


def between(intervals: Sequence[Interval], seconds: float) -> list[Interval]:
    """What is left of a recording of so many seconds."""
    starts, ends = [0.0, *(end for _, end in intervals)], [*(start for start, _ in intervals), seconds]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


def total(intervals: Iterable[Interval]) -> float:
    return sum(end - start for start, end in intervals)


def touches(interval: Interval, window: Interval) -> bool:
    return interval[0] <= window[1] and interval[1] >= window[0]
