"""The kernels, compiled for GPUs that are not here: what a GPU would run, without one.

A loop over weights or keys is bound by reading them only if it does little else. So its machine code is counted: every
load of them takes 16 bytes, no thread waits for another, nothing is converted by the slow instruction, nothing spills.
What that is worth in time only a GPU can tell.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="there is no Triton for this system")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.errors import PTXASError  # noqa: E402

from personaplex_cli.engine import fused, kernels  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# B300, Thor, GB10: newer than the ptxas of Triton 3.5.
GAPS = (103, 110, 121)


@dataclass(frozen=True)
class Case:
    """A kernel as a launch compiles it for the real model: an argument's kind "" is the model's dtype."""

    function: Any
    kinds: dict[str, str]
    constants: dict[str, int]
    warps: int
    registers: int  # at most
    # Of a loop that must be lean: what a thread takes of weights or keys in a round, instructions for each of them at
    # most, loads of 16 bytes at least and of less than that at most, and what must not be there.
    numbers: int = 0
    instructions: float = 0.0
    wide: int = 0
    narrow: int = 0
    never: str = "BAR|I2F|STS|LDS|SHFL|LDL|STL"
    oldest: int = 75
    unaligned: tuple[str, ...] = ()  # arguments that need not be multiples of 16


SIZES = {"rows": "i32", "columns": "i32"}
INT8_MATRIX = {"x": "", "weight": "*i8", "scale": "*fp32", "out": ""}
INT4_MATRIX = {"x": "", "weight": "*i8", "scale": "*fp16", "least": "*fp16", "out": ""}
FLOATS = "*fp32"
ATTEND = {"h": "", "keys": "", "values": "", "rotation": FLOATS, "position": "*i64", "out": FLOATS, "weights": FLOATS}
ATTEND |= {"context": "i32", "slot_stride": "i32", "head_stride": "i32", "scale": "fp32"}
DRAWN = {"logits": "", "keys": "*i32", "temperature": FLOATS, "last_rank": "*i64", "out": "*i64"}
DRAWN |= {"tokens": "i32", "stride": "i32"}
DRAWN_UNALIGNED = ("keys", "temperature", "last_rank", "stride")
TILES = {"VECTORS": 16, "ROWS": 32}
# Tiles go through shared memory, which is filled some rounds ahead without a thread's help.
TILE_NEVER = "LDL|STL"

CASES = {
    "int8": Case(kernels._int8_rows, INT8_MATRIX | SIZES, {"UNITS": 128}, 4, 56, 64, 4.8, 6),
    "int4": Case(
        kernels._int4_rows, INT4_MATRIX | {"rows": "i32", "groups": "i32"}, {"UNITS": 128}, 4, 72, 128, 4.5, 6, 8
    ),
    "int8 tiles": Case(
        kernels._int8_tiles, INT8_MATRIX | {"vectors": "i32"} | SIZES, TILES | {"COLUMNS": 256}, 2, 128,
        128, 4.2, 16, 0, TILE_NEVER, 80, ("vectors",),
    ),
    "int4 tiles": Case(
        kernels._int4_tiles, INT4_MATRIX | {"vectors": "i32", "rows": "i32", "groups": "i32"}, TILES | {"UNITS": 8}, 2,
        160, 128, 6.6, 12, 9, TILE_NEVER, 80, ("vectors",),
    ),
    "ring": Case(
        fused._attend, ATTEND, {"WIDTH": 128, "KEYS": 32, "PARTS": 16}, 4, 128,
        64, 5.4, 8, 0, "BAR|I2F|STS|LDS|LDL|STL", unaligned=("context",),
    ),
    "codebooks": Case(
        fused._attend, ATTEND | {"out": ""}, {"WIDTH": 64, "KEYS": 8, "PARTS": 1}, 1, 80, unaligned=("context",)
    ),
    "joined": Case(fused._joined, {"parts": FLOATS, "weights": FLOATS, "out": ""}, {"WIDTH": 128, "PARTS": 16}, 4, 40),
    "add_norm": Case(
        fused._add_norm, {"x": "", "y": "", "alpha": "", "total": "", "normed": "", "width": "i32", "epsilon": "fp32"},
        {"WIDTH": 4096}, 8, 64,
    ),
    "gated": Case(fused._gated, {"both": "", "out": "", "width": "i32"}, {"WIDTH": 1024}, 4, 40),
    "drawn": Case(fused._drawn, DRAWN, {"TOKENS": 2048, "BITS": 16, "BLOCK": 2048}, 4, 64, unaligned=DRAWN_UNALIGNED),
    "drawn text": Case(
        fused._drawn, DRAWN, {"TOKENS": 32768, "BITS": 16, "BLOCK": 8192}, 32, 64, unaligned=DRAWN_UNALIGNED
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def compiled(case: Case, arch: int | str, dtype: str, wave: int = 32) -> Any:
    """As a launch compiles it. A name is one of AMD's."""
    names = case.function.arg_names
    signature = {name: kind or dtype for name, kind in case.kinds.items()} | dict.fromkeys(case.constants, "constexpr")
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in case.kinds.items()
        if kind != "fp32" and name not in case.unaligned
    }
    constants = {(names.index(name),): value for name, value in case.constants.items()}
    source = ASTSource(case.function, {name: signature[name] for name in names}, constants, aligned)
    target = GPUTarget("hip" if isinstance(arch, str) else "cuda", arch, wave)
    return triton.compile(source, target=target, options={"num_warps": case.warps, "num_stages": 4})


def loops(code: str) -> Iterator[list[str]]:
    """The instructions of each loop in what cuobjdump prints."""
    lines = [(int(found[1], 16), found[2]) for found in re.finditer(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", code)]
    for address, text in lines:
        back = re.search(r"BRA.*?(0x[0-9a-f]+)", text)
        if back and int(back[1], 16) < address:
            yield [text for at, text in lines if int(back[1], 16) <= at <= address]


def check_is_lean(name: str, case: Case, arch: int, dtype: str, folder: Path) -> None:
    done = compiled(case, arch, dtype)
    if not CUOBJDUMP.exists():
        pytest.skip("this Triton brings no cuobjdump: it compiles, and that is all that can be said")
    (folder / "kernel.cubin").write_bytes(done.asm["cubin"])
    command = [CUOBJDUMP, "--dump-resource-usage", *(["-sass"] if case.numbers else []), folder / "kernel.cubin"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{each}:(\d+)", shown)[1]) for each in ("REG", "STACK", "LOCAL"))  # type: ignore[index]
    about = f"sm_{arch} {dtype} {name}: {registers} registers"
    if case.numbers:
        (body,) = loops(shown)
        loads = [each for each in body if re.search(r"LDG(STS)?\.", each)]
        wide = [each for each in loads if re.search(r"LDG.*\.128", each)]
        about += f", {len(body) / case.numbers:.2f} instructions a number, {len(wide)} loads of 16 bytes"
        assert len(body) / case.numbers <= case.instructions, about
        assert len(loads) - len(wide) <= case.narrow and len(wide) >= case.wide, about
        assert not [each for each in body if re.search(case.never, each)], about
    print(about)  # seen with pytest -rP
    assert stack == local == 0 and registers <= case.registers, about


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", CASES)
def test_it_is_lean_on_every_architecture(name: str, arch: int, tmp_path: Path) -> None:
    if arch < CASES[name].oldest:
        pytest.skip("Triton knows no tensor cores there")
    check_is_lean(name, CASES[name], arch, "*fp16" if arch < 80 else "*bf16", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "warps"), [("*fp32", 4), ("*fp16", 4), ("*bf16", 2)])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_it_is_lean_in_every_dtype_and_width(name: str, dtype: str, warps: int, tmp_path: Path) -> None:
    case = replace(CASES[name], warps=warps, constants={"UNITS": 32 * warps})
    check_is_lean(name, case, 90, dtype, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "wave"), [("gfx942", 64), ("gfx1100", 32)])
@pytest.mark.parametrize("name", ["int8", "int4", "ring", "drawn"])
def test_it_compiles_for_rocm(name: str, arch: str, wave: int) -> None:
    code = compiled(CASES[name], arch, "*bf16", wave).asm["amdgcn"]
    assert re.findall(r"vgpr_spill_count:\s+(\d+)", code) == ["0"] and "scratch_load" not in code


@pytest.mark.slow
@pytest.mark.parametrize("arch", GAPS)
def test_known_gaps(arch: int, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        compiled(CASES["int8"], arch, "*bf16")
    except PTXASError as error:
        assert "'gpu-name'" in str(error)  # by which `why_no_kernels` knows it
        capsys.readouterr()
        pytest.xfail(f"the ptxas of Triton {triton.__version__} does not know sm_{arch}")
