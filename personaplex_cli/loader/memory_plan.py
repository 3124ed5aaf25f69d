"""What fits into a GPU: precision and context by the memory that is free, worked out before anything is loaded.

Pure arithmetic of shapes; `load.py` asks the device and does what comes out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from moshi.models import LMModel, MimiModel

from personaplex_cli.errors import DeviceError
from personaplex_cli.loader.offload import PLACES
from personaplex_cli.loader.precision import LAYERS, Precision

CONTEXT_STEP = 250  # positions: 20 s
SHORTEST_CONTEXT = 1500  # positions: 2 minutes; a model that forgets sooner is no company
# For what is computed in between, the graphs and the libraries: an estimate, on the safe side.
WORKING_BYTES = 700 * 10**6
GIGABYTE = 10**9
EMBEDDINGS = ("emb.", "text_emb.")  # stay in main memory: a frame reads 17 rows of them


@dataclass(frozen=True)
class Needs:
    """Bytes on the device: of everything but the layers and the context, of one layer, of one position of context."""

    base: int
    layer: int
    layers: int
    position: int

    def total(self, context: int, streamed: int = 0) -> int:
        """Bytes with a context of so many positions, and so many layers streamed."""
        places = min(PLACES, streamed)
        return self.base + (self.layers - streamed + places) * self.layer + context * self.position


@dataclass(frozen=True)
class MemoryPlan:
    """How the model is to be loaded: `streamed` of its layers wait in main memory."""

    precision: Precision
    context: int
    streamed: int = 0


def needs(lm: LMModel, mimi: MimiModel, precision: Precision) -> Needs:
    """What an LM (without quantised linears, perhaps on `meta`) and a Mimi need in this precision."""
    size = precision.dtype.itemsize
    layers = len(lm.transformer.layers)
    base = layer = 0
    for name, parameter in lm.named_parameters():
        module = name.removesuffix(".weight")
        kind = precision.kind(module)
        held = kind.bytes_for(*parameter.shape) if kind else parameter.numel() * size
        if LAYERS.fullmatch(module):
            layer += held
        elif not name.startswith(EMBEDDINGS):
            base += held
    base += sum(parameter.nbytes for parameter in mimi.state_dict().values()) + WORKING_BYTES
    return Needs(base, layer // layers, layers, 2 * lm.dim * layers * size)


def fit(free: int, wanted: Sequence[tuple[Precision, Needs]], context: int, offload: bool = False) -> MemoryPlan:
    """The first of the wanted precisions that fits into `free` bytes, with the longest context that does.

    Where there is a choice, the first one has all of the context or is not taken: memory of the talk is worth more than
    the last bits. With `offload` the first precision is taken, and as many layers streamed as must be.
    Raises DeviceError if nothing fits.
    """
    precision, need = wanted[0]
    if offload:
        for streamed in range(need.layers + 1):
            if need.total(context, streamed) <= free:
                return MemoryPlan(precision, context, streamed)
        raise _too_small(need.total(context, need.layers), free, f"{precision.name} with CPU offload", "")
    for rank, (precision, need) in enumerate(wanted):
        all_or_nothing = rank == 0 and len(wanted) > 1
        for length in [context] if all_or_nothing else _lengths(context):
            if need.total(length) <= free:
                return MemoryPlan(precision, length)
    needed = need.total(_lengths(context)[-1])
    raise _too_small(needed, free, precision.name, "Close other programs that use the GPU, or add --cpu-offload.")


def _lengths(context: int) -> list[int]:
    """The contexts that may be tried, longest first."""
    return [context, *range((context - 1) // CONTEXT_STEP * CONTEXT_STEP, SHORTEST_CONTEXT - 1, -CONTEXT_STEP)]


def _too_small(needed: int, free: int, how: str, hint: str) -> DeviceError:
    gigabytes = f"{needed / GIGABYTE:.1f} GB of the GPU's memory, and {free / GIGABYTE:.1f} GB are free"
    return DeviceError(f"The model in {how} needs {gigabytes}.", hint or "Try --precision int8 or int4.")
