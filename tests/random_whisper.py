"""The smallest model that faster-whisper loads: Whisper's format and tokens, 8 wide, of random weights."""

from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEADS, MELS, POSITIONS, LONGEST = 8, 2, 80, 1500, 448
SPECIAL = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
    "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>", *(f"<|{0.02 * index:.2f}|>" for index in range(1501)),
]  # fmt: skip


def write_random_whisper(folder: Path, seed: int = 0) -> Path:
    """Write the model into the folder. It needs ctranslate2 and tokenizers, which come with faster-whisper."""
    from ctranslate2.specs.whisper_spec import WhisperSpec
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={each: index for index, each in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = [*letters, *SPECIAL]

    random = np.random.default_rng(seed)

    def weights(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.5).astype(np.float32)

    spec = WhisperSpec(1, HEADS, 1, HEADS)
    spec.encoder.conv1.weight, spec.encoder.conv1.bias = weights(WIDTH, MELS, 3), weights(WIDTH)
    spec.encoder.conv2.weight, spec.encoder.conv2.bias = weights(WIDTH, WIDTH, 3), weights(WIDTH)
    spec.encoder.position_encodings.encodings = weights(POSITIONS, WIDTH)
    spec.decoder.position_encodings.encodings = weights(LONGEST, WIDTH)
    spec.decoder.embeddings.weight = weights(len(tokens), WIDTH)
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    for side in (spec.encoder, spec.decoder):
        _norm(side.layer_norm)
        for layer in side.layer:
            _attention(layer.self_attention, [3, 1], weights)
            if hasattr(layer, "attention"):
                _attention(layer.attention, [1, 2, 1], weights)
            _norm(layer.ffn.layer_norm)
            for linear in (layer.ffn.linear_0, layer.ffn.linear_1):
                linear.weight, linear.bias = weights(WIDTH, WIDTH), weights(WIDTH)
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], []
    spec.config.lang_ids, spec.config.alignment_heads = [tokens.index("<|en|>")], [[0, 0]]
    spec.register_vocabulary(tokens)
    spec.validate()
    spec.save(str(folder))
    return folder


def _attention(attention: Any, blocks: list[int], weights: Any) -> None:
    _norm(attention.layer_norm)
    for linear, times in zip(attention.linear, blocks, strict=True):
        linear.weight, linear.bias = weights(times * WIDTH, WIDTH), weights(times * WIDTH)


def _norm(norm: Any) -> None:
    norm.gamma, norm.beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
