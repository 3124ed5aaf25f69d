"""A tiny model of random weights: in it everything that is asked for makes a difference, at once.

It has the classes and the file names of the 7B, and goes through the real loader, the real prompt and the real loop.
What it says is noise and syllables. The fixture `random_folder` is such a model.
"""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import sentencepiece
import torch
from safetensors.torch import save_file

from personaplex_cli.engine.prompting import lay_out
from personaplex_cli.engine.slot import SPACE
from personaplex_cli.library.spec import CODEBOOKS, MOSHI, PERSONAPLEX, SPEC_FILE, ModelSpec, spec_with
from personaplex_cli.loader.checkpoint import file_shapes, unfilled_lm, unfilled_mimi
from personaplex_cli.loader.random_weights import ONES, toy_tokenizer

# What differs from the 7B. Frames, delays, codebooks and file layout are the same.
SIZES: dict[str, Any] = {
    "lm": {
        "dim": 64,
        "text_card": 480,
        "num_heads": 4,
        "num_layers": 2,
        "depformer_dim": 32,
        "depformer_dim_feedforward": 132,
        "depformer_num_heads": 4,
        "depformer_num_layers": 1,
    },
    "mimi": {
        "seanet": {"n_filters": 4, "dimension": 32},
        "quantizer": {"dimension": 16, "input_dimension": 32, "output_dimension": 32},
        "transformer": {
            "d_model": 32,
            "num_heads": 2,
            "num_layers": 1,
            "dim_feedforward": 64,
            "input_dimension": 32,
            "output_dimensions": [32],
        },
    },
}
STEPS_IN_FILE = {PERSONAPLEX.name: 2 * CODEBOOKS, MOSHI.name: CODEBOOKS}  # of the depformer
VOICE_FRAMES = 12
VOICE_NAMES = [f"{kind}{sex}{n}" for kind, count in (("NAT", 4), ("VAR", 5)) for sex in "FM" for n in range(count)]


def build_random(folder: Path, differing: Mapping[str, Any] = SIZES, spec: ModelSpec = PERSONAPLEX) -> None:
    """Write a whole model folder in the layout of `spec`, with random weights of the given sizes.

    The files are the same every time.
    """
    described = dict(differing) if spec is PERSONAPLEX else {"spec": spec.name, **differing}
    spec = spec_with(described)
    random = torch.Generator().manual_seed(7)
    lm = unfilled_lm({**spec.lm, "dep_q": STEPS_IN_FILE[spec.name]}, torch.bfloat16)
    tokenizer = toy_tokenizer(spec.lm["text_card"])
    weights = {name: _tensor(name, shape, random) for name, shape in file_shapes(lm).items()}
    weights["text_linear.weight"] *= 0.5  # all words are about as likely
    weights["text_linear.weight"][:, 0] = _liking(tokenizer, spec)
    weights["text_emb.weight"][:, 0] += 12.0  # every frame leans this way
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, folder / spec.weights_file)
    mimi = file_shapes(unfilled_mimi(spec))
    save_file({name: _tensor(name, shape, random) for name, shape in mimi.items()}, folder / spec.mimi_file)
    (folder / spec.tokenizer_file).write_bytes(tokenizer)
    (folder / SPEC_FILE).write_text(json.dumps(described, indent=1))
    if spec.voices_file:
        with tarfile.open(folder / spec.voices_file, "w:gz", compresslevel=1) as archive:
            for name in VOICE_NAMES:
                voice = _saved_voice(name, weights, spec)
                entry = tarfile.TarInfo(f"voices/{name}.pt")
                entry.size = len(voice)
                archive.addfile(entry, io.BytesIO(voice))


def _tensor(name: str, shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    """Random values for a tensor of the language model or of Mimi, so sized that numbers stay about as large."""
    if name.endswith(ONES):
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    if name.endswith("scale"):
        return torch.full(shape, 0.1)
    size: float = max(1, torch.Size(shape[1:]).numel()) ** -0.5
    if "codebook" in name:
        size = 1.0
    elif "emb" in name:
        size = 0.5
    elif name.startswith("decoder.model.14."):
        size *= 0.3  # the last layer: noise should not hurt
    return torch.randn(shape, generator=random) * size


def _liking(tokenizer: bytes, spec: ModelSpec) -> torch.Tensor:
    """How much the text head likes each token [text_card], on the axis along which every frame leans.

    Like the real model this one mostly keeps quiet, and when it speaks, prefers words to fragments of them.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    liking = torch.full((spec.lm["text_card"],), -3.0)  # bytes and fragments
    for token in range(pieces.get_piece_size()):
        if pieces.id_to_piece(token).startswith(SPACE) and len(pieces.id_to_piece(token)) > 4:
            liking[token] = 0.0
    liking[spec.padding] = 1.1
    return liking


def _saved_voice(name: str, weights: Mapping[str, torch.Tensor], spec: ModelSpec) -> bytes:
    """A voice of its own random codes, as the reference saves voices."""
    random = torch.Generator().manual_seed(crc32(name.encode()))
    codes = torch.randint(spec.lm["card"], (CODEBOOKS, VOICE_FRAMES), generator=random)
    columns = lay_out(codes, [], spec).columns
    seen = columns[:, : VOICE_FRAMES - 1]
    embedded = weights["text_emb.weight"][seen[0]]
    for row in range(1, len(seen)):
        embedded = embedded + weights[f"emb.{row - 1}.weight"][seen[row]]
    cache = torch.zeros(1, len(spec.delays), max(spec.delays) + 3, dtype=torch.long)
    for position in range(VOICE_FRAMES - 2, VOICE_FRAMES + 1):
        cache[0, :, position % cache.shape[-1]] = columns[:, position]
    file = io.BytesIO()
    torch.save({"embeddings": embedded.bfloat16()[:, None, None], "cache": cache}, file)
    return file.getvalue()
