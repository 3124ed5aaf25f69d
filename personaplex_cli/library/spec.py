"""How big the model is: PersonaPlex-7B unless the model's folder says otherwise.

The published checkpoint does not hold its own sizes. A folder may carry a `personaplex.json` with entries that differ,
`{"lm": {...}, "mimi": {"seanet": {...}, "quantizer": {...}, "transformer": {...}}}`: so tiny checkpoints tell theirs.
"""

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personaplex_cli.errors import ModelError, PersonaplexError, unknown_name
from personaplex_cli.library.weights import SIZES

CODEBOOKS = 8  # Mimi codes per frame and speaker; also the depformer's steps that we run

# Keyword arguments of moshi's LMModel. The file holds 16 depformer steps; the last 8 predict the user's codes, which
# are always known, so the model is built with 8 and `checkpoint.py` leaves the others in the file.
LM: dict[str, Any] = {
    "dim": 4096,
    "text_card": 32_000,
    "existing_text_padding_id": 3,
    "n_q": 2 * CODEBOOKS,
    "dep_q": CODEBOOKS,
    "card": 2048,
    "num_heads": 32,
    "num_layers": 32,
    "hidden_scale": 4.125,
    "causal": True,
    "context": 3000,
    "max_period": 10_000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 1024,
    "depformer_dim_feedforward": 4224,
    "depformer_num_heads": 16,
    "depformer_num_layers": 6,
    "depformer_multi_linear": True,
    "depformer_context": CODEBOOKS,
    "depformer_max_period": 10_000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "delays": [0, *[0, 1, 1, 1, 1, 1, 1, 1] * 2],
}

# The configuration of moshi's `get_mimi`, with the 8 codebooks that PersonaPlex uses of the file's 32.
MIMI: dict[str, Any] = {
    "sample_rate": 24_000,
    "channels": 1,
    "frame_rate": 12.5,
    "seanet": {
        "channels": 1,
        "dimension": 512,
        "causal": True,
        "n_filters": 64,
        "n_residual_layers": 1,
        "activation": "ELU",
        "compress": 2,
        "dilation_base": 2,
        "disable_norm_outer_blocks": 0,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "norm": "none",
        "pad_mode": "constant",
        "ratios": [8, 6, 5, 4],
        "true_skip": True,
    },
    "quantizer": {
        "dimension": 256,
        "n_q": CODEBOOKS,
        "bins": 2048,
        "input_dimension": 512,
        "output_dimension": 512,
    },
    "transformer": {
        "d_model": 512,
        "num_heads": 8,
        "num_layers": 8,
        "causal": True,
        "layer_scale": 0.01,
        "context": 250,
        "conv_layout": True,
        "max_period": 10_000,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": 2048,
        "input_dimension": 512,
        "output_dimensions": [512],
    },
}


@dataclass(frozen=True)
class Sizes:
    """Complete arguments for moshi's `LMModel` (`lm`) and `get_mimi` (`mimi`)."""

    lm: dict[str, Any]
    mimi: dict[str, Any]


def sizes_of(folder: Path) -> Sizes:
    """The sizes of the model in this folder. Raises ModelError if its personaplex.json makes no sense."""
    path = folder / SIZES
    try:
        differing = json.loads(path.read_text(encoding="utf-8"))
        return sizes_with(differing)
    except FileNotFoundError:
        return sizes_with({})
    except (ValueError, TypeError, AttributeError, PersonaplexError) as error:
        raise ModelError(
            f"{path} does not describe a model: {error}", "Correct it, or remove it for the 7B."
        ) from error


def sizes_with(differing: dict[str, Any]) -> Sizes:
    """PersonaPlex-7B's sizes with some entries replaced. Raises UsageError for entries that nobody knows."""
    return Sizes(**_replaced({"lm": LM, "mimi": MIMI}, differing))


def _replaced(base: dict[str, Any], differing: dict[str, Any]) -> dict[str, Any]:
    result = deepcopy(base)
    for key, value in differing.items():
        if key not in base:
            raise unknown_name("size", key, base, "")
        result[key] = _replaced(base[key], value) if isinstance(base[key], dict) else value
    return result
