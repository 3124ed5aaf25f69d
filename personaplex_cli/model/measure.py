"""What there is to measure about an engine: its memory by part, the bytes a frame must read, the device's bandwidth."""

import time
from typing import Any

import torch
from moshi.models import LMModel
from moshi.models.loaders import get_mimi
from sentencepiece import SentencePieceProcessor
from torch import nn

from personaplex_cli.events import Listener, Note
from personaplex_cli.model.checkpoint import no_random_init
from personaplex_cli.model.demo import toy_tokenizer
from personaplex_cli.model.device import choose_device, choose_precision, out_of_memory_explained
from personaplex_cli.model.engine import Engine, use_cores
from personaplex_cli.model.sizes import CODEBOOKS, Sizes, sizes_with
from personaplex_cli.model.talk import Talk

COPY_BYTES = 256 * 2**20  # for the bandwidth: several times any cache


def random_engine(device: str, precision: str, listen: Listener, sizes: Sizes | None = None) -> Engine:
    """An engine of the real sizes with weights of no meaning, for measuring speed without a download.

    Raises DeviceError and UsageError like `load_engine`.
    """
    where, reason = choose_device(device)
    dtype = choose_precision(precision, where)
    listen(Note(reason))
    sizes = sizes or sizes_with({})
    torch.backends.cudnn.allow_tf32 = False
    with out_of_memory_explained():
        with no_random_init(), torch.device("meta"):
            mimi = get_mimi(None, sizes.mimi, device="meta", num_codebooks=CODEBOOKS)
            lm = LMModel(device="meta", dtype=dtype, **sizes.lm)
        for module in (mimi, lm):
            _fill(module, where)
        use_cores(lm)
        tokenizer = SentencePieceProcessor(model_proto=toy_tokenizer(480))
        return Engine(Talk(lm), mimi, tokenizer)


def memory(engine: Engine) -> dict[str, int]:
    """Bytes of each part: the language model's weights, Mimi's, and the keys and values of the context."""
    return {
        "lm": _bytes(engine.talk.lm),
        "mimi": _bytes(engine.mimi),
        "context": engine.talk.context_bytes,
    }


def bytes_per_frame(engine: Engine) -> int:
    """What one frame must read at least: all weights but the embeddings, of which it reads single rows, and the
    whole context."""
    lm: Any = engine.talk.lm
    embeddings = [*lm.emb, lm.text_emb, *lm.depformer_emb, lm.depformer_text_emb]
    parts = memory(engine)
    return sum(parts.values()) - sum(_bytes(each) for each in embeddings)


def bandwidth(engine: Engine) -> float:
    """Bytes that this device reads or writes in a second, by copying: the best of some copies."""
    source = torch.ones(COPY_BYTES // 4, device=engine.device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        engine.wait()
        began = time.perf_counter()
        target.copy_(source)
        engine.wait()
        best = min(best, time.perf_counter() - began)
    return 2 * COPY_BYTES / best


def _fill(module: nn.Module, device: torch.device) -> None:
    module.to_empty(device=device).requires_grad_(False).eval()
    for name, tensor in module.state_dict().items():
        if name.endswith(("alpha", "_initialized", "cluster_usage", "norm1.weight", "norm2.weight")):
            tensor.fill_(1.0)
        else:
            tensor.normal_(0.0, 0.02)


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
