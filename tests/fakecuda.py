"""torch.cuda without a GPU: what would be asked of it is written down, and nothing is launched."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from personaplex_cli.engine import graphs

# Asking torch to notice waits gives this warning, and warnings are errors in tests.
ABOUT_NOTICING_WAITS = "ignore:Synchronization debug mode is a prototype:UserWarning"


class FakeStream:
    def __init__(self, device: Any = None) -> None:
        self.device = device
        self.waited_for: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waited_for.append(other)

    def synchronize(self) -> None:
        raise AssertionError("torch takes waiting for a stream for a mistake")


class FakeEvent:
    """An event that is only good for streams that are named: the current one may be that of another device."""

    def __init__(self, log: list[Any], **kinds: bool) -> None:
        self._log = log
        self.kinds = kinds

    def record(self, stream: Any = None) -> None:
        self._log.append(("record", self, stream))

    def wait(self, stream: Any = None) -> None:
        self._log.append(("wait", self, stream))

    def synchronize(self) -> None:
        self._log.append(("synchronize", self, None))

    def elapsed_time(self, later: Any) -> float:
        return 1.0


class FakeCuda:
    """`log` holds what happened, in order; `device` is the current one, `stream` the current stream of it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[Any] = []
        self.device = torch.device("cuda", 0)
        self.stream = self.first_stream = FakeStream(self.device)
        self.streams: list[FakeStream] = []
        for name in ("set_device", "current_stream", "set_stream"):
            patch.setattr(torch.cuda, name, getattr(self, f"_{name}"))
        patch.setattr(torch.cuda, "device", self._on_device)
        patch.setattr(torch.cuda, "stream", self._on_stream)
        patch.setattr(torch.cuda, "Stream", self._new_stream)
        patch.setattr(torch.cuda, "graph", self._capture)
        patch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
        patch.setattr(torch.cuda, "graph_pool_handle", self._new_pool)
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            patch.setattr(graphs, name, lambda *rest, name=name: self._close_pool(name, *rest))
        self.pools: dict[Any, bool] = {}  # whether what is allocated goes there
        patch.setattr(torch.cuda, "Event", lambda **kinds: FakeEvent(self.log, **kinds))

    def calls(self, name: str) -> list[Any]:
        return [each for each in self.log if each[0] == name]

    def _set_device(self, device: torch.device) -> None:
        self.log.append(("set_device", device))
        self.device = device

    def _current_stream(self, device: Any = None) -> FakeStream:
        return self.stream

    def _set_stream(self, stream: FakeStream) -> None:
        self.stream = stream

    def _new_stream(self, device: Any = None) -> FakeStream:
        self.streams.append(FakeStream(device))
        return self.streams[-1]

    def _new_pool(self) -> tuple[int, int]:
        pool = (0, len(self.pools))
        self.pools[pool] = False
        return pool

    def _close_pool(self, name: str, index: int, pool: Any) -> None:
        if name == "_cuda_endAllocateToPool" and not self.pools[pool]:
            raise RuntimeError("not currently recording to this pool")
        self.log.append((name, index, pool))
        self.pools[pool] = False

    @contextmanager
    def _capture(self, graph: Any, pool: Any, stream: FakeStream, capture_error_mode: str) -> Any:
        """As torch does it: when a part fails, so does the end of the capture, and nothing is put back."""
        self.stream, before = stream, self.stream
        self.pools[pool] = True
        yield
        self.pools[pool] = False
        self.stream = before

    @contextmanager
    def _on_device(self, device: torch.device) -> Any:
        self.log.append(("device", device))
        before, self.device = self.device, device
        try:
            yield
        finally:
            self.device = before

    @contextmanager
    def _on_stream(self, stream: FakeStream | None) -> Any:
        before, self.stream = self.stream, stream or self.stream
        try:
            yield
        finally:
            self.stream = before
