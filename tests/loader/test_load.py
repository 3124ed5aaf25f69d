"""What is chosen for a GPU before anything is loaded, and what is told and refused. The GPU's figures are made up."""

from typing import Any

import pytest
import torch

from personaplex_cli.errors import DeviceError
from personaplex_cli.events import Note
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.loader import memory_plan
from personaplex_cli.loader.memory_plan import MemoryPlan
from personaplex_cli.options import LiveModelOptions, ModelOptions

GPU = torch.device("cuda", 0)
GB = 10**9


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set what the GPU has: memory in GB, GB/s over the bus, what is wrong with Triton."""

    def has(free: float, bus: float = 25.0, triton: str = "") -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GB), int(24 * GB)))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
        monkeypatch.setattr(memory_plan, "bus_bandwidth", lambda device: bus * GB)
        monkeypatch.setattr(memory_plan, "why_no_kernels", lambda device, dtype: triton)

    return has


def choose(options: ModelOptions) -> tuple[MemoryPlan, str]:
    heard: list[Any] = []
    chosen = memory_plan.choose_plan(options, GPU, PERSONAPLEX, heard.append)
    return chosen, " ".join(each.text for each in heard if isinstance(each, Note))


@pytest.mark.parametrize(
    ("free", "precision", "words"),
    [(23.0, "bf16", "23.0 GB"), (11.0, "int8", "11.0 GB"), (7.6, "int4", "experimental")],
)
def test_auto_says_what_it_took_and_why(gpu: Any, free: float, precision: str, words: str) -> None:
    gpu(free)
    chosen, told = choose(ModelOptions())
    assert chosen.precision.name == precision and chosen.context == 3000
    assert precision in told and words in told and "Triton" not in told


def test_a_shorter_memory_is_told_in_seconds(gpu: Any) -> None:
    gpu(9.9)
    chosen, told = choose(ModelOptions())
    assert chosen.precision.name == "int8" and chosen.context < 3000
    assert f"{chosen.context * 0.08:.0f} s instead of 240" in told


def test_without_kernels_the_user_knows_what_is_lost(gpu: Any) -> None:
    gpu(23.0, triton="it is not installed")
    chosen, told = choose(ModelOptions(precision="int8"))
    assert chosen.precision.name == "int8" and "Without Triton (it is not installed)" in told


def test_what_streams_too_slowly_is_refused_for_talking_and_told_for_files(gpu: Any) -> None:
    gpu(11.0)
    with pytest.raises(DeviceError, match=r"too slow for talking here: \d\.\d GB .* ms of 80") as refused:
        choose(LiveModelOptions(cpu_offload=True))
    assert "int8" in refused.value.hint and "--force" in refused.value.hint
    chosen, told = choose(ModelOptions(cpu_offload=True))
    assert chosen.precision.name == "bf16" and chosen.streamed > 10 and "over the bus" in told


def test_offload_streams_nothing_that_fits(gpu: Any) -> None:
    gpu(23.0)
    chosen, told = choose(LiveModelOptions(cpu_offload=True))
    assert chosen.streamed == 0 and "bus" not in told


def test_a_gpu_that_is_far_too_small_is_told_before_loading(gpu: Any) -> None:
    gpu(4.0)
    with pytest.raises(DeviceError, match=r"needs \d\.\d GB of the GPU's memory, and 4\.0 GB are free"):
        choose(ModelOptions())
