"""CUDA graphs: a part of a frame is recorded once and then launched as a whole.

A frame is thousands of small kernels; asking for each from Python takes longer than running them. A part that is
recorded must read and write fixed tensors and never ask the device for a value. Recording runs it, so what it changes
must be put right afterwards. Where nothing is recorded, parts simply run.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

Part = Callable[[], None]


class CapturedGraph(Protocol):
    def replay(self) -> None: ...


GraphRecorder = Callable[[Part], CapturedGraph]


class CudaRecorder:
    """Records parts as CUDA graphs on one device. They share the memory they need in between: one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, part: Part) -> CapturedGraph:
        with torch.cuda.device(self._device):
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                part()  # libraries set themselves up the first time, which cannot be recorded
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other threads may use CUDA meanwhile: only this one's mistakes count.
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                part()
        return graph
