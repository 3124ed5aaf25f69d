"""What is chosen for a GPU before anything is loaded, and what is told and refused. The GPU's figures are made up."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from personaplex_cli.errors import DeviceError
from personaplex_cli.events import Note
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.loader import memory_plan
from personaplex_cli.loader.load import load_cold
from personaplex_cli.loader.memory_plan import MemoryPlan
from personaplex_cli.loader.precision import remedy_for
from personaplex_cli.options import LiveModelOptions, ModelOptions

GPU = torch.device("cuda", 0)
GB = 10**9


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set what the GPU has: memory in GB, GB/s over the bus and of its own, what is wrong with Triton."""

    def has(free: float, bus: float = 25.0, triton: str = "", speed: float = 900) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(is_integrated=False))
        monkeypatch.setattr(memory_plan, "bandwidth", lambda device: speed * GB)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GB), int(24 * GB)))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
        monkeypatch.setattr(memory_plan, "bus_bandwidth", lambda device: bus * GB)
        for name in ("why_no_kernels", "why_plain"):
            monkeypatch.setattr(memory_plan, name, lambda device, dtype: triton)

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
    assert "pip install" in told


def test_int4_without_kernels_is_for_recordings(gpu: Any) -> None:
    gpu(7.6, triton="it is not installed")
    for precision in ("auto", "int4"):
        with pytest.raises(DeviceError, match="int4 is far too slow to talk without Triton") as refused:
            choose(LiveModelOptions(precision=precision))
        assert "pip install" in refused.value.hint and "--force" in refused.value.hint
    assert choose(LiveModelOptions(force=True))[0].precision.name == "int4"
    chosen, told = choose(ModelOptions())
    assert chosen.precision.name == "int4" and "more time than bf16" in told


@pytest.mark.parametrize(
    ("why", "system", "words"),
    [
        ("it is not installed", "linux", "pip install triton`"),
        ("it is not installed", "win32", 'pip install "triton-windows<3.6"'),
        ("PTXAS error: Internal Triton PTX codegen error", "linux", "TRITON_PTXAS_PATH="),
        ("Value 'sm_121a' is not defined for option 'gpu-name'", "linux", "TRITON_PTXAS_PATH="),
        ("Failed to find C compiler. Please specify via CC environment variable", "linux", "apt install gcc"),
        ("Command '['/usr/bin/gcc', 'main.c']' returned non-zero exit status 1.", "linux", "python3-dev"),
        ("its kernels answer wrongly", "linux", "another version"),
    ],
)
def test_the_remedy_fits_the_reason(why: str, system: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personaplex_cli.loader.precision.sys", SimpleNamespace(platform=system))
    assert words in remedy_for(why)


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


@pytest.mark.parametrize(
    ("asked", "free", "hint"),
    [
        ("bf16", 12.0, "--precision int8, which fits"),
        ("bf16", 7.5, "--precision int4, which fits"),
        ("int8", 7.5, "--precision int4, which fits"),
        ("bf16", 4.0, "Close other programs"),
        ("int4", 4.0, "Close other programs"),
        ("auto", 4.0, "Close other programs"),
    ],
)
def test_what_does_not_fit_names_the_precision_that_does(gpu: Any, asked: str, free: float, hint: str) -> None:
    gpu(free)
    with pytest.raises(DeviceError, match="of the GPU's memory") as refused:
        choose(ModelOptions(precision=asked))
    assert hint in refused.value.hint
    if "which fits" in hint:
        gpu(free)
        assert choose(ModelOptions(precision=hint.split()[1].rstrip(",")))[0].context >= memory_plan.SHORTEST_CONTEXT


@pytest.mark.parametrize(
    ("card", "free", "speed", "precision"),
    [
        ("H100", 78, 3000, "bf16"),
        ("RTX 4090", 23, 920, "bf16"),
        ("RTX 3090", 23, 850, "bf16"),
        ("A10G", 22, 540, "bf16"),
        ("L4", 22, 270, "int8"),
        ("RTX 4000 Ada", 19.5, 330, "int8"),
        ("GB10", 100, 250, "int8"),
        ("AGX Orin", 50, 185, "int8"),
        ("RTX 3060", 11.5, 330, "int8"),
    ],
)
def test_auto_takes_no_more_bits_than_the_memory_can_bring_in_time(
    gpu: Any, card: str, free: float, speed: float, precision: str
) -> None:
    gpu(free, speed=speed)
    chosen, told = choose(LiveModelOptions())
    assert (chosen.precision.name, chosen.context) == (precision, 3000), card
    assert ("ms there are" in told) == (precision == "int8" and free > 18)


def test_a_slow_memory_changes_nothing_that_was_asked_for_and_nothing_without_kernels(gpu: Any) -> None:
    gpu(22, speed=270)
    assert choose(ModelOptions(precision="bf16"))[0].precision.name == "bf16"
    gpu(22, speed=270, triton="no C compiler")
    assert choose(ModelOptions())[0].precision.name == "bf16"


def test_a_gpu_without_memory_of_its_own_has_what_the_system_can_free(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA counts the 17 GB that were just downloaded, and are kept in memory, as used."""
    gpu(12.0)
    monkeypatch.setattr("personaplex_cli.loader.device.main_memory", lambda: (100 * GB, 120 * GB))
    assert choose(ModelOptions())[0].precision.name == "int8"
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(is_integrated=1))
    chosen, told = choose(ModelOptions())
    assert chosen.precision.name == "bf16" and "99.0 GB" in told


def test_nothing_is_computed_less_exactly_to_be_quicker(random_folder: Path) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    matmul.allow_fp16_reduced_precision_reduction = matmul.allow_bf16_reduced_precision_reduction = True
    cudnn.deterministic = False
    load_cold(ModelOptions(str(random_folder), device="cpu"))
    assert not matmul.allow_tf32 and not cudnn.allow_tf32 and cudnn.deterministic
    assert not matmul.allow_fp16_reduced_precision_reduction and not matmul.allow_bf16_reduced_precision_reduction
