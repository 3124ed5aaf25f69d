"""Which device is launched on, which stream is meant, how an answer is waited for, on a fake `torch.cuda`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fakecuda import ABOUT_NOTICING_WAITS, FakeCuda

from personaplex_cli.character import Character, Sampling
from personaplex_cli.engine import quantised
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.engine.graphs import CudaRecorder
from personaplex_cli.engine.pipeline import StageClock
from personaplex_cli.engine.quantised import why_no_kernels
from personaplex_cli.loader import load as loader
from personaplex_cli.loader.load import load_cold
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import SILENT_FRAME

SECOND = torch.device("cuda", 1)
KIND = Character("kind", "You are kind.", "NATF2", "NATF2.pt", Sampling(seed=3))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


@pytest.fixture
def engine(random_folder: Path) -> LocalEngine:
    """On the CPU, but it believes to be on the second GPU."""
    engine = load_cold(ModelOptions(str(random_folder), device="cpu"))
    engine.device = SECOND
    return engine


def test_the_thread_that_loads_settles_on_the_device(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "choose_device", lambda name: (SECOND, "as asked"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    loader._device(ModelOptions(device="cuda:1"))
    assert cuda.log == [("set_device", SECOND)] and cuda.device == SECOND


def test_whatever_an_engine_runs_it_runs_on_its_own_device(
    cuda: FakeCuda, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any thread: one that did not load has another current device."""
    seen: list[torch.device] = []
    read = engine.model.generator.read
    monkeypatch.setattr(engine.model.generator, "read", lambda *rest: seen.append(cuda.device) or read(*rest))
    engine.warm_up(KIND)
    engine.model.prompts.clear()
    engine.begin(0, KIND)
    list(engine.prefill() or ())
    engine.step({0: SILENT_FRAME})
    assert set(seen) == {SECOND} and cuda.device.index == 0
    seen.clear()
    monkeypatch.setattr(engine.pipeline, "_fetch", lambda rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.step({0: SILENT_FRAME})  # the look after a failure, too
    assert len(seen) == 2 and set(seen) == {SECOND}


def test_kernels_are_tried_where_they_will_run(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []
    monkeypatch.setattr(quantised, "_agree", lambda device, dtype: not tried.append((device, cuda.device)))
    why_no_kernels.cache_clear()
    for index in (0, 1, 1):
        assert why_no_kernels(torch.device("cuda", index), torch.bfloat16) == ""
    why_no_kernels.cache_clear()
    assert tried == [(torch.device("cuda", index),) * 2 for index in (0, 1)]


def test_every_event_is_told_its_stream(cuda: FakeCuda) -> None:
    clock = StageClock(SECOND)
    for _ in range(3):
        clock.lap()
    assert clock.milliseconds() == [1.0, 1.0, 1.0]
    assert [stream for _, _, stream in cuda.calls("record")] == [cuda.first_stream] * 4


def test_an_answer_is_waited_for_by_one_event_that_spins_on_no_core(
    cuda: FakeCuda, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by its stream, which torch's look for hidden waits takes for one."""
    pipeline = engine.pipeline
    event: Any = torch.cuda.Event(blocking=True)
    for name, value in {"_cuda": True, "_device": SECOND, "_arrived": event}.items():
        monkeypatch.setattr(pipeline, name, value)
    first, second = pipeline._fetch(1), pipeline._fetch(1)
    assert first.data_ptr() != second.data_ptr()
    assert cuda.log == [("record", event, cuda.first_stream), ("synchronize", event, None)] * 2


@pytest.mark.filterwarnings(ABOUT_NOTICING_WAITS)
def test_the_look_for_hidden_waits_can_be_asked_for_where_warnings_are_errors() -> None:
    if hasattr(torch._C, "_cuda_set_sync_debug_mode"):  # a build with CUDA
        torch._C._cuda_set_sync_debug_mode(0)


def test_all_is_recorded_on_one_stream_and_with_one_pool(cuda: FakeCuda) -> None:
    recorder = CudaRecorder(SECOND)
    seen: list[Any] = []
    for _ in range(3):
        recorder(lambda: seen.append((cuda.stream, cuda.device)))
    assert len(cuda.streams) == len(cuda.pools) == 1
    assert seen == [(cuda.streams[0], SECOND)] * 6  # each is run once and recorded once
    assert cuda.stream is cuda.first_stream and cuda.streams[0].waited_for == [cuda.first_stream] * 3


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_recording_that_fails_leaves_stream_and_pool_as_they_were(cuda: FakeCuda, fails_at: int) -> None:
    recorder = CudaRecorder(SECOND)
    recorder(lambda: None)
    runs: list[int] = []

    def part() -> None:
        runs.append(1)
        if len(runs) == fails_at:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        recorder(part)
    assert cuda.stream is cuda.first_stream and cuda.device.index == 0
    assert not any(cuda.pools.values())
    ended = ["_cuda_endAllocateToPool", "_cuda_releasePool"] if fails_at == 2 else []
    assert [each[0] for each in cuda.log if "Pool" in each[0]] == ended
    recorder(lambda: None)
    assert len(cuda.pools) == 2 and len(cuda.streams) == 1


def test_where_nothing_tells_when_work_is_done_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append(1))
    clock = StageClock(torch.device("mps"))
    clock.lap()
    assert len(waited) == 2 and clock.milliseconds()[0] >= 0
    StageClock(torch.device("cpu"))
    assert len(waited) == 2


def test_what_does_not_depend_on_a_frame_is_known_before_it_comes(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.device = torch.device("cpu")
    pipeline, done = engine.pipeline, []
    slot, staged = pipeline._slots[0], engine.model.generator.inputs
    for where, name in ((slot, "prepare"), (staged, "send"), (pipeline, "_run"), (pipeline, "_fetch")):
        call = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *rest, call=call, name=name: done.append(name) or call(*rest))
    engine._begin(0, KIND)
    for silent in ({}, {0: 1}, {}):
        before = ["prepare", "send"] if silent else []  # only now is it known that nothing is to be said
        done.clear()
        engine.step({0: SILENT_FRAME}, silent)
        assert done == [*before, *["_run"] * 4, "_fetch", "prepare", "send"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8", "int4"])
def test_norms_are_of_the_dtype_they_are_applied_in(random_folder: Path, precision: str) -> None:
    """Only then are they one kernel on CUDA, not six."""
    generator = load_cold(ModelOptions(str(random_folder), device="cpu", precision=precision)).model.generator
    norms = {each.dtype for name, each in generator.lm.state_dict().items() if name.endswith("alpha")}
    assert norms == {generator.dtype}
