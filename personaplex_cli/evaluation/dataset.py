"""A data set of the benchmark: a folder for each sample, with recordings, annotations and words as JSON.

ROOT/SAMPLE/  input.wav  output.wav  output.json  and, by task, pause.json, turn_taking.json, interrupt.json, ...
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from personaplex_cli.audio.recording import read_at_own_rate
from personaplex_cli.errors import UsageError, either
from personaplex_cli.evaluation.benchmark import ANNOTATIONS, TASKS, Task, tasks_named
from personaplex_cli.evaluation.intervals import Interval
from personaplex_cli.evaluation.turn_taking import Spoken

WORDS = "output.json"
HUMAN = "icc_gt_distribution.json"  # of the benchmark: when human listeners made a sound, by sample
SLACK = 0.1  # seconds that an annotation may end after its sound: times are rounded, and sounds cut
NAMED = 5  # folders
UNLIKE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # what JSON of another form raises


@dataclass(frozen=True)
class Sample:
    """The folder of one sample. Whatever is wrong with a file in it is raised as an error when the file is read."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def window(self, task: Task) -> Interval | None:
        """The annotated seconds, None where the task has none. They are within the user's recording, if that is there.

        Raises UsageError, and AudioError if that recording cannot be read.
        """
        if task.annotation is None:
            return None
        path = self.folder / task.annotation
        content = read_json(path)
        with suppress(*UNLIKE):
            start, end = map(_number, content["timestamps"] if task.clean else content[0]["timestamp"])
            self._check(path, start, end)
            return start, end
        raise UsageError(f"{path} does not say when.", "The benchmark's files have two seconds under `timestamp`.")

    def _check(self, path: Path, start: float, end: float) -> None:
        """Raises UsageError for seconds that cannot be: any figure made from them would be wrong."""
        if not 0 <= start <= end:
            wrong = "which cannot be"
        elif self.seconds is not None and (start >= self.seconds or end > self.seconds + SLACK):
            wrong = f"but its input.wav ends after {self.seconds:.2f} s"
        else:
            return
        raise UsageError(f"{path} says {start:g} to {end:g} s, {wrong}.", "Give seconds from the start of input.wav.")

    def words(self, name: str = WORDS) -> list[Spoken]:
        """The words in a file of this sample. Raises UsageError."""
        path = self.folder / name
        content = read_json(path)
        with suppress(*UNLIKE):
            return [_spoken(chunk["text"], *chunk["timestamp"]) for chunk in content["chunks"]]
        hint = 'The benchmark\'s files have `{"chunks": [{"text": "Yes,", "timestamp": [3.36, 3.9]}]}`.'
        raise UsageError(f"{path} has no words with times.", hint)

    @cached_property
    def seconds(self) -> float | None:
        """How long the user's recording is, if there is one. Raises AudioError if it cannot be read."""
        path = self.folder / "input.wav"
        if not path.is_file():
            return None
        sound, rate = read_at_own_rate(path)
        return len(sound) / rate

    @property
    def has_words(self) -> bool:
        return (self.folder / WORDS).exists()

    @property
    def settings(self) -> dict[str, Any]:
        """What the output was made with, if this program has made it."""
        with suppress(UsageError):
            content = read_json(self.folder / WORDS)
            if isinstance(content, dict) and "personaplex" in content:
                return dict(content.get("settings", {}))
        return {}


def samples(root: Path) -> list[Sample]:
    """All samples in a folder, numbers in their order. Raises UsageError if there are none."""
    try:
        folders = list(root.iterdir())
    except OSError as error:
        raise UsageError(f"{root} cannot be read ({error.strerror}).", "Give the folder of a data set.") from error
    if found := sorted(filter(_is_sample, folders), key=_order):
        return [Sample(each) for each in found]
    if deeper := [str(each) for each in sorted(folders) if each.is_dir() and any(map(_is_sample, each.iterdir()))]:
        more = ", ..." if len(deeper) > NAMED else ""
        raise UsageError(
            f"There are no samples in {root}.", f"Its folders have some: {', '.join(deeper[:NAMED])}{more}"
        )
    raise UsageError(f"There are no samples in {root}.", "It needs folders such as 1/ with an input.wav.")


def _is_sample(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("input.wav", "output.wav", WORDS))


def task_of(name: str, found: Sequence[Sample]) -> Task:
    """The task of that name, in the version of the benchmark that these samples are of.

    Raises UsageError if there is none, or if they are of another task.
    """
    tasks = tasks_named(name)
    if fitting := next((task for task in tasks if _fits(task, found)), None):
        return fitting
    if files := [task.annotation for task in tasks if task.annotation]:
        what = f"No sample has a file {either(files)}"
    else:
        what = f"There are samples with a file {either(_annotations(found))}"
    others = [other for other in TASKS if any(task.annotation and _fits(task, found) for task in tasks_named(other))]
    hint = f"Give --task {either(others)}." if others else "Give another --task or another folder."
    raise UsageError(f"{what}: is this data for {name}?", hint)


def _fits(task: Task, found: Sequence[Sample]) -> bool:
    """Whether some samples have the task's annotation or, if it needs none, whether none has that of another task."""
    there = _annotations(found)
    return task.annotation in there if task.annotation else not there


def _annotations(found: Sequence[Sample]) -> list[str]:
    return [name for name in ANNOTATIONS if any((each.folder / name).exists() for each in found)]


def human_listeners(root: Path) -> dict[str, list[float]]:
    """When human listeners made a sound, by sample: from a file in the data set or beside it; empty without one.

    Raises UsageError if it is something else.
    """
    path = next((path for path in (root / HUMAN, root.resolve().parent / HUMAN) if path.exists()), None)
    if path is None:
        return {}
    with suppress(*UNLIKE):
        found = {name: [_number(each) for each in bins] for name, bins in read_json(path).items()}
        if all(min(bins) >= 0 < max(bins) for bins in found.values()):
            return found
    raise UsageError(f"{path} does not say when listeners made a sound.", "Copy it from the benchmark again.")


def read_json(path: Path) -> Any:
    """Raises UsageError if there is no such file or it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).", "Is this the right task and folder?") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON.", "Make or copy it again.") from error


def _order(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdecimal() else 10**9, folder.name)


def _spoken(text: str, start: float, end: float | None) -> Spoken:
    return Spoken(str(text).strip(), _number(start), None if end is None else _number(end))


def _number(value: float) -> float:
    """Raises ValueError for one that is infinite or none."""
    if not isfinite(number := float(value)):
        raise ValueError
    return number
