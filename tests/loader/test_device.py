"""Where the model runs, and in which precision, by what the machine has."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from personaplex_cli.engine.memory import device_errors_explained
from personaplex_cli.errors import DeviceError, UsageError
from personaplex_cli.loader.device import choose_device
from personaplex_cli.loader.precision import precision_for


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    device, why = choose_device("auto")
    assert device.type == "cpu" and "no GPU" in why


@pytest.mark.parametrize(("name", "message"), [("cuda", "no CUDA device"), ("cuda:3", "no CUDA"), ("mps", "MPS")])
def test_a_gpu_that_is_not_there(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=message):
        choose_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "CPU "])
def test_no_such_device(name: str) -> None:
    with pytest.raises(UsageError, match="no device"):
        choose_device(name)


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ((8, 9), ["sm_80", "sm_86", "sm_90"], True),
        ((12, 0), ["sm_80", "sm_90", "compute_90"], True),  # compiled on first use
        ((12, 0), ["sm_80", "sm_90"], False),
        ((6, 1), ["sm_70", "sm_90", "compute_90"], False),
        ((9, 0), ["sm_90a"], True),
    ],
)
def test_a_gpu_this_torch_was_not_built_for(
    capability: tuple[int, int], architectures: list[str], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "is_available": True,
        "device_count": 2,
        "get_device_capability": capability,
        "get_arch_list": architectures,
        "get_device_name": "Some GPU",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    with pytest.raises(DeviceError, match="cuda:2"):
        choose_device("cuda:2")
    if fits:
        assert choose_device("cuda:1")[0] == torch.device("cuda", 1)
    else:
        with pytest.raises(DeviceError, match="not one of the GPUs"):
            choose_device("cuda:1")


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision_for("auto", torch.device("cpu")).dtype == torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    assert precision_for("auto", torch.device("cuda", 0)).name == "fp16"
    assert precision_for("int8", torch.device("cuda", 0)).dtype == torch.float16
    with pytest.raises(UsageError, match="Old GPU cannot"):
        precision_for("bf16", torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert precision_for("auto", torch.device("cuda", 0)).name == "bf16"
    with pytest.raises(UsageError, match="no precision"):
        precision_for("int3", torch.device("cpu"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.07 GB)"),
    ],
)
def test_memory_that_ran_out_is_explained(error: Exception) -> None:
    with pytest.raises(DeviceError, match="too small"), device_errors_explained():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA driver error: device not ready"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("HIP error: the operation cannot be performed in the present state"),
    ],
)
def test_a_device_that_has_failed_is_named_as_such(error: Exception) -> None:
    with pytest.raises(DeviceError, match=r"The GPU has failed \(.*\)\.$") as caught, device_errors_explained():
        raise error
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value) and caught.value.hint


def test_what_is_a_mistake_of_ours_stays_one() -> None:
    with pytest.raises(RuntimeError, match="shapes"), device_errors_explained():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


TOLD = "GPU-aaaa, 3012\nGPU-bbbb, 23011\nGPU-cccc, 23010\n"


@pytest.mark.parametrize(
    ("uuids", "told", "index", "words"),
    [
        (["aaaa", "bbbb", "cccc"], TOLD, 1, "the most free memory"),
        (["cccc", "aaaa"], TOLD, 0, "the most free memory"),  # CUDA_VISIBLE_DEVICES has an order of its own
        (["aaaa", "bbbb"], "GPU-aaaa, [N/A]\nGPU-bbbb, [N/A]\n", 0, "the first of 2"),
        (["aaaa", "dddd"], TOLD, 0, "the first of 2"),
        (["aaaa", "bbbb"], None, 0, "the first of 2"),
        (["bbbb"], "never asked", 0, "the first CUDA GPU"),
    ],
)
def test_of_several_gpus_auto_takes_the_one_with_the_most_free_memory(
    uuids: list[str], told: str | None, index: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **kinds: Any) -> Any:
        if told is None:
            raise FileNotFoundError("nvidia-smi")
        assert told != "never asked" and kinds["timeout"]
        return SimpleNamespace(stdout=told)

    monkeypatch.setattr("personaplex_cli.loader.device.subprocess.run", run)
    answers: dict[str, Any] = {"is_available": True, "device_count": len(uuids), "get_arch_list": []}
    for name, value in {**answers, "get_device_name": "Some GPU"}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda each: SimpleNamespace(uuid=uuids[each]))
    device, why = choose_device("auto")
    assert device.index == index and words in why
