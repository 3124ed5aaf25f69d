"""One picture of an evaluation: how the latencies are spread, and the samples that went worst.

Of the extra `eval`; matplotlib is imported when a picture is drawn.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from personaplex_cli.evaluation.benchmark import LOWER, Task
from personaplex_cli.evaluation.intervals import Interval
from personaplex_cli.evaluation.scores import Scored
from personaplex_cli.files import atomic_file

WORST = 8
LATENCY_BINS = 20
USER, AGENT, WINDOW = "#4477aa", "#ee7733", "#dddddd"
SUFFIXES = (".png", ".svg", ".pdf")


def can_be_drawn() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(path: Path, task: Task, scored: Sequence[Scored]) -> None:
    """Write the picture, in the format of the file's name. Raises AudioError if it cannot be written."""
    from matplotlib.figure import Figure

    worst = by_worst(task, scored)[:WORST]
    latencies = latencies_of(task, scored)
    heights = [2.4] * bool(latencies) + [0.7] * len(worst)
    figure = Figure(figsize=(9, sum(heights) + 0.8), layout="constrained")
    figure.suptitle(f"{task.name}, {len(scored)} samples; the worst ones: user above, agent below")
    rows = iter(figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0])
    if latencies:
        _histogram(next(rows), latencies)
    for each, axes in zip(worst, rows, strict=True):
        _lanes(axes, each)
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=150)


def by_worst(task: Task, scored: Sequence[Scored]) -> list[Scored]:
    """The samples, those first that are furthest on the wrong side: by the task's figures in their order."""

    def badness(each: Scored) -> list[float]:
        found = [(figure, each.figures.get(figure.name)) for figure in task.figures]
        return [0.0 if value is None else value if figure.better == LOWER else -value for figure, value in found]

    return sorted(scored, key=badness, reverse=True)


def latencies_of(task: Task, scored: Sequence[Scored]) -> list[float]:
    """The latencies of a task: the answers' where it has several."""
    name = "response_latency" if task.clean else "latency"
    return [value for each in scored if (value := each.figures.get(name)) is not None]


def _histogram(axes: Any, latencies: Sequence[float]) -> None:
    longest = max(1.0, *latencies)  # one second at least: the same scale for all that are quick
    axes.hist(latencies, bins=LATENCY_BINS, range=(0, longest), color=AGENT)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="seconds until the agent answers", ylabel="samples", xlim=(0, longest))


def _lanes(axes: Any, scored: Scored) -> None:
    """Without a detector of speech the agent's lane has its words."""
    words = [(word.start, word.start if word.end is None else word.end) for word in scored.words]
    if scored.window:
        axes.axvspan(*scored.window, color=WINDOW)
    for height, spoken, colour in ((1, scored.user, USER), (0, scored.agent or words, AGENT)):
        axes.broken_barh(_widths(spoken), (height + 0.1, 0.8), color=colour)
    axes.set(ylim=(0, 2), yticks=[], xlim=(0, None))
    axes.set_ylabel(scored.name, rotation=0, ha="right", va="center")


def _widths(intervals: Sequence[Interval]) -> list[tuple[float, float]]:
    return [(start, end - start) for start, end in intervals]
