"""What a step is given, and how it tells what it found. Imports nothing heavy: what runs the steps needs it, too."""

import json
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Skipped(Exception):
    """A step cannot run here; the message says why."""


@dataclass(frozen=True)
class Context:
    """`reference` is a checkout of NVIDIA's repository, if there is one; `deadline` a time of `time.monotonic`."""

    dry: bool = False
    reference: Path | None = None
    facts: Path = Path("facts")
    deadline: float = math.inf

    def for_step(self, facts: Path, deadline: float) -> "Context":
        return replace(self, facts=facts, deadline=deadline)

    def tell(self, **facts: Any) -> None:
        """Write down what is known so far: it stays, whatever happens to the step afterwards."""
        with self.facts.open("a") as file:
            file.write(f"{json.dumps(_plain(facts))}\n")

    def attempt(self, name: str, measure: Callable[[], T]) -> T | None:
        """Measure something that may fail without ending the step: "NAME failed" is told then, and None returned."""
        try:
            return measure()
        except Exception as error:
            traceback.print_exc()
            self.tell(**{f"{name} failed": f"{type(error).__name__}: {error}"})
            return None

    def either(self, real: T, dry: T) -> T:
        """The first on a GPU, the second in a dry run."""
        return dry if self.dry else real

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()


def _plain(value: Any) -> Any:
    """The same, with what JSON has no word for as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)
    return value
