"""CUDA graphs: a part of a frame is recorded once and then launched as a whole.

A frame is thousands of small kernels; asking for each from Python takes longer than running them. A part that is
recorded must read and write fixed tensors and never ask the device for a value. Recording runs it, so what it changes
must be put right afterwards. Where nothing is recorded, parts simply run.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch.cuda.memory import _cuda_endAllocateToPool, _cuda_releasePool  # type: ignore[attr-defined]

Part = Callable[[], None]


class CapturedGraph(Protocol):
    def replay(self) -> None: ...


GraphRecorder = Callable[[Part], CapturedGraph]


class CudaRecorder:
    """Records parts as CUDA graphs on one device. They share the memory they need in between: one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._stream: Any = None  # one for all recordings: libraries keep working memory for each that they meet

    def __call__(self, part: Part) -> CapturedGraph:
        with torch.cuda.device(self._device):
            before = torch.cuda.current_stream(self._device)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._stream = self._stream or torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(before)
            try:
                return self._record(part)
            except BaseException:
                self._give_up(before)
                raise

    def _record(self, part: Part) -> CapturedGraph:
        with torch.cuda.stream(self._stream):
            part()  # libraries set themselves up the first time, which cannot be recorded
        graph = torch.cuda.CUDAGraph()
        # It waits for the device first. Other threads may use CUDA meanwhile: only this one's mistakes count.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            part()
        return graph

    def _give_up(self, before: Any) -> None:
        """After a failure torch leaves the thread on the recording's stream, and allocates for it from then on."""
        torch.cuda.set_stream(before)
        pool, self._pool = self._pool, None
        with suppress(RuntimeError):  # torch had ended it by itself, or had not begun
            _cuda_endAllocateToPool(self._device.index, pool)
            _cuda_releasePool(self._device.index, pool)
