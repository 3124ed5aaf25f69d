"""Weights of no meaning in modules of any size: what speed is measured with where nothing is downloaded."""

import io

import sentencepiece
import torch

from personaplex_cli.loader.checkpoint import M
from personaplex_cli.loader.quantised_cache import Place

ONES = ("alpha", "_initialized", "cluster_usage", "norm1.weight", "norm2.weight")
PACKED = (".scale", ".least")  # of quantised linears


def fill_randomly(module: M, place: Place, dtype: torch.dtype) -> M:
    """Give a module on `meta` values that keep numbers within bounds, in `dtype` like the loader would."""
    values = {}
    for name, tensor in module.state_dict().items():
        as_they_are = not tensor.is_floating_point() or name.endswith(PACKED)
        value = torch.empty(tensor.shape, dtype=tensor.dtype if as_they_are else dtype, device=place(name))
        if name.endswith(ONES):
            value.fill_(1.0)
        elif not value.is_floating_point():
            value.random_(0, 127)
        elif name.endswith(PACKED):
            value.fill_(0.02 / 127)
        else:
            value.normal_(0.0, 0.02)
        values[name] = value
    module.load_state_dict(values, assign=True)
    return module.requires_grad_(False).eval()


def toy_tokenizer(pieces: int) -> bytes:
    """A toy SentencePiece model trained on a few hundred made-up sentences."""
    who = ["the teacher", "my neighbour", "a friendly voice", "the old captain", "your friend", "the cook"]
    does = ["is talking about", "listens to", "knows a story of", "asks about", "would like to hear", "laughs at"]
    what = [
        "the weather and the sea",
        "a question in the morning",
        "good music",
        "what happened yesterday",
        "bread, butter and tea",
        "how machines speak",
        "a long journey home",
    ]
    sentences = [f"{a} {b} {c}." for a in who for b in does for c in what]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=pieces,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        # The ids of the real tokenizer: silence is 3.
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
    )
    return model.getvalue()
