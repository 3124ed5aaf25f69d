"""The quantised kernels, compiled for GPUs that are not here: what a GPU would run, without one.

A loop over the weights is bound by reading them only if it does little else. So its machine code is counted: every load
of weights and vector takes 16 bytes, no thread waits for another, nothing is converted by the slow instruction, nothing
spills. What that is worth in time only a GPU can tell.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="there is no Triton for this system")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.errors import PTXASError  # noqa: E402

from personaplex_cli.engine import kernels  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# B300, Thor, GB10: newer than the ptxas of Triton 3.5.
GAPS = (103, 110, 121)

INT8 = (kernels._int8_rows, {"x": "", "weight": "*i8", "scale": "*fp32", "out": "", "rows": "i32", "columns": "i32"})
INT4 = (
    kernels._int4_rows,
    {"x": "", "weight": "*i8", "scale": "*fp16", "least": "*fp16", "out": "", "rows": "i32", "groups": "i32"},
)
# Weights that a thread takes in a round, instructions for each of them, registers, loads of less than 16 bytes.
LIMITS = {"int8": (64, 4.8, 56, 0), "int4": (128, 4.5, 72, 8)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def compiled(kernel: tuple[Any, dict[str, str]], arch: int | str, dtype: str, warps: int, wave: int = 32) -> Any:
    """As a launch compiles it, for addresses and sizes that are multiples of 16. A name is one of AMD's."""
    function, kinds = kernel
    names = function.arg_names
    signature = {name: kind or dtype for name, kind in kinds.items()} | {"UNITS": "constexpr"}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in kinds}
    source = ASTSource(function, signature, {(names.index("UNITS"),): 32 * warps}, aligned)
    target = GPUTarget("hip" if isinstance(arch, str) else "cuda", arch, wave)
    return triton.compile(source, target=target, options={"num_warps": warps})


def loops(code: str) -> Iterator[list[str]]:
    """The instructions of each loop in what cuobjdump prints."""
    lines = [(int(found[1], 16), found[2]) for found in re.finditer(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", code)]
    for address, text in lines:
        back = re.search(r"BRA.*?(0x[0-9a-f]+)", text)
        if back and int(back[1], 16) < address:
            yield [text for at, text in lines if int(back[1], 16) <= at <= address]


def check_is_lean(name: str, arch: int, dtype: str, warps: int, folder: Path) -> None:
    done = compiled(INT8 if name == "int8" else INT4, arch, dtype, warps)
    if not CUOBJDUMP.exists():
        pytest.skip("this Triton brings no cuobjdump: it compiles, and that is all that can be said")
    (folder / "kernel.cubin").write_bytes(done.asm["cubin"])

    def shown(what: str) -> str:
        ran = subprocess.run([CUOBJDUMP, what, folder / "kernel.cubin"], capture_output=True, text=True, check=True)
        return ran.stdout

    weights, most, most_registers, narrow = LIMITS[name]
    usage = shown("--dump-resource-usage")
    registers, stack, local = (int(re.search(rf"{each}:(\d+)", usage)[1]) for each in ("REG", "STACK", "LOCAL"))  # type: ignore[index]
    (body,) = loops(shown("-sass"))
    loads = [each for each in body if "LDG" in each]
    wide = [each for each in loads if "LDG.E.128" in each]
    figures = f"{registers} registers, {len(body) / weights:.2f} instructions a weight, {len(wide)} loads of 16 bytes"
    print(f"sm_{arch} {dtype} {name}: {figures}")  # seen with pytest -rP
    assert stack == local == 0 and registers <= most_registers
    assert len(body) / weights <= most
    assert len(loads) - len(wide) <= narrow and len(wide) >= 6
    assert not [each for each in body if re.search(r"BAR|I2F|STS|LDS|SHFL|LDL|STL", each)]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", LIMITS)
def test_it_is_lean_on_every_architecture(name: str, arch: int, tmp_path: Path) -> None:
    check_is_lean(name, arch, "*fp16" if arch < 80 else "*bf16", 4, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "warps"), [("*fp32", 4), ("*fp16", 4), ("*bf16", 2)])
@pytest.mark.parametrize("name", LIMITS)
def test_it_is_lean_in_every_dtype_and_width(name: str, dtype: str, warps: int, tmp_path: Path) -> None:
    check_is_lean(name, 90, dtype, warps, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "wave"), [("gfx942", 64), ("gfx1100", 32)])
@pytest.mark.parametrize("kernel", [INT8, INT4], ids=LIMITS)
def test_it_compiles_for_rocm(kernel: tuple[Any, dict[str, str]], arch: str, wave: int) -> None:
    code = compiled(kernel, arch, "*bf16", 4, wave).asm["amdgcn"]
    assert re.findall(r"vgpr_spill_count:\s+(\d+)", code) == ["0"] and "scratch_load" not in code


@pytest.mark.slow
@pytest.mark.parametrize("arch", GAPS)
def test_known_gaps(arch: int, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        compiled(INT8, arch, "*bf16", 4)
    except PTXASError as error:
        assert "'gpu-name'" in str(error)  # by which `why_no_kernels` knows it
        capsys.readouterr()
        pytest.xfail(f"the ptxas of Triton {triton.__version__} does not know sm_{arch}")
