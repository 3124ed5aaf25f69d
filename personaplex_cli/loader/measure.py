"""What there is to measure about an engine: its memory by part, the bytes a frame must read, what our step saves."""

import time
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from reference import ModuleDepformer, ModuleTransformer
from torch import nn

from personaplex_cli.engine.transformer import SPANS, Depformer, Transformer, layer_of
from personaplex_cli.library.spec import CODEBOOKS, sizes_with
from personaplex_cli.loader.memory_plan import EMBEDDINGS
from personaplex_cli.loader.random_weights import fill_randomly, unfilled

if TYPE_CHECKING:
    from personaplex_cli.engine.engine import Engine

POSITIONS = 15
NARROW = {"dim": 64, "num_heads": 4, "depformer_dim": 32, "depformer_num_heads": 4, "depformer_dim_feedforward": 132}


def memory(engine: "Engine") -> dict[str, int]:
    """Bytes of each part. `embeddings` are those tables that lie in main memory, whatever the device."""
    parts = {"layers": 0, "depformer": 0, "heads": 0, "embeddings": 0}
    for name, tensor in engine.talk.lm.state_dict().items():
        parts[_part(name)] += tensor.nbytes
    return {**parts, "mimi": _bytes(engine.mimi), "context": engine.talk.remembered_bytes}


def bytes_per_frame(engine: "Engine") -> int:
    """What one frame must read at least: all weights but the embeddings, of which it reads single rows, and the
    whole context."""
    lm: Any = engine.talk.lm
    small = [lm.depformer_text_emb, *lm.depformer_emb]
    parts = memory(engine)
    return sum(parts.values()) - parts["embeddings"] - sum(map(_bytes, small))


@torch.inference_mode()
def modules_over_lean() -> float:
    """How many times longer one position takes through moshi's own modules than through ours, on this CPU.

    At the real depth and a tiny width, where it matters how much is done and not how much is read.
    """
    lm, _mimi = unfilled(sizes_with({"lm": NARROW}), torch.float32)
    fill_randomly(lm, lambda name: torch.device("cpu"), torch.float32)
    lean = Transformer(lm, [layer_of(each) for each in lm.transformer.layers]), Depformer(lm)
    return _seconds(ModuleTransformer(lm), ModuleDepformer(lm)) / _seconds(*lean)


def _seconds(transformer: Any, depformer: Any) -> float:
    """The median time of one position."""
    x, first, token = torch.ones(1, 1, NARROW["dim"]), torch.zeros((), dtype=torch.long), torch.tensor(1)
    seconds = []
    for _ in range(POSITIONS):
        began = time.perf_counter()
        hidden = transformer(x, first, SPANS[0])
        for step in range(CODEBOOKS):
            depformer(step, token, hidden)
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def _part(name: str) -> str:
    """Which part of the language model a tensor of this name belongs to."""
    if name.startswith(EMBEDDINGS):
        return "embeddings"
    if name.startswith(("depformer", "linears.")):
        return "depformer"
    return "layers" if name.startswith("transformer.") else "heads"


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
