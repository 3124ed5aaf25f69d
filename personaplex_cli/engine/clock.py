"""How long each stage of a frame takes."""

import time
from collections.abc import Iterator
from typing import Any

import torch


class StageClock:
    """Milliseconds between laps: by the device's own events on CUDA, where calls return before the work is done."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []  # CUDA events, or seconds

    def start(self) -> None:
        self._marks.clear()
        self.lap()

    def lap(self) -> None:
        if self._cuda:
            self._marks.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._marks[-1].record()
        else:
            self._marks.append(time.perf_counter())

    def milliseconds(self) -> Iterator[float]:
        """Each stage's duration. On CUDA the last lap's work must be done."""
        for earlier, later in zip(self._marks, self._marks[1:], strict=False):
            yield earlier.elapsed_time(later) if self._cuda else 1000 * (later - earlier)
