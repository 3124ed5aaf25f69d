"""The facts of a model, in one place: its files, its sizes, its rows of tokens, what silence looks like.

`PERSONAPLEX` is PersonaPlex-7B, `MOSHI` the model it comes from: another of the family is another `ModelSpec`. The
published checkpoints do not hold their own sizes. A folder may carry a `personaplex.json` with what differs, so that
tiny checkpoints describe themselves:

    {"spec": "moshi", "lm": {...}, "mimi": {"seanet": {...}, "quantizer": {...}, "transformer": {...}}}
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from personaplex_cli.errors import ModelError, PersonaplexError, UsageError, unknown_name

SPEC_FILE = "personaplex.json"
CONFIG_FILE = "config.json"  # only a marker
CODEBOOKS = 8  # Mimi codes per frame and speaker; also the depformer's steps that we run
VOICE_BYTES = 64 * 2**20  # of a voice's file, at most: four minutes at the 7B's size in float32 are 49 MB
TEXT, AGENT, USER = 0, slice(1, 9), slice(9, 17)  # rows of a column of tokens

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
class ModelSpec:
    """One model of the Moshi family.

    `lm` and `mimi` are complete arguments for moshi's `LMModel` and `get_mimi`. A model that `is_prompted` was trained
    to be told who it is and how it sounds; its voices lie in the archive `voices_file`.
    """

    name: str
    lm: Mapping[str, Any] = field(default_factory=lambda: LM)
    mimi: Mapping[str, Any] = field(default_factory=lambda: MIMI)
    weights_file: str = "model.safetensors"
    mimi_file: str = "tokenizer-e351c8d8-checkpoint125.safetensors"
    tokenizer_file: str = "tokenizer_spm_32k_3.model"
    voices_file: str | None = None
    is_prompted: bool = False
    # Text tokens: of a frame without a new word, and those that print nothing (EPAD 0, 1, 2 and PAD 3).
    padding: int = 3
    silent_tokens: Sequence[int] = range(4)
    # Mimi's codes of silence and of a 440 Hz tone, as the model was trained on them.
    silence: Sequence[int] = (948, 243, 1178, 546, 1736, 1030, 1978, 2008)
    tone: Sequence[int] = (430, 1268, 381, 1611, 1095, 1495, 56, 472)

    @property
    def needed_files(self) -> tuple[str, ...]:
        """What there must be, the largest last."""
        return tuple(filter(None, (self.tokenizer_file, self.voices_file, self.mimi_file, self.weights_file)))

    @property
    def delays(self) -> Sequence[int]:
        """By row: how many positions later than its frame a token lies."""
        return list(self.lm["delays"])

    @property
    def initial(self) -> Sequence[int]:
        """By row: the token that stands where no frame lies yet."""
        return [self.lm["text_card"]] + [self.lm["card"]] * self.lm["n_q"]


# What another model's sizes may be, by the name of the entry; all entries that are not here are as the program needs
# them. Beyond these ranges nothing would fit a machine, or make sense.
WIDTH, LAYERS, HEADS, PERIOD = (8, 32_768), (1, 256), (1, 256), (2, 10**9)
RANGES: dict[str, tuple[float, float]] = {
    "lm.dim": WIDTH,
    "lm.text_card": (16, 2**20),
    "lm.num_heads": HEADS,
    "lm.num_layers": LAYERS,
    "lm.hidden_scale": (0.5, 64),
    "lm.context": (32, 24_000),
    "lm.max_period": PERIOD,
    "lm.depformer_dim": WIDTH,
    "lm.depformer_dim_feedforward": (8, 2**18),
    "lm.depformer_num_heads": HEADS,
    "lm.depformer_num_layers": (1, 64),
    "lm.depformer_max_period": PERIOD,
    "mimi.seanet.dimension": WIDTH,
    "mimi.seanet.n_filters": (2, 1024),
    "mimi.quantizer.dimension": WIDTH,
    "mimi.quantizer.input_dimension": WIDTH,
    "mimi.quantizer.output_dimension": WIDTH,
    "mimi.transformer.d_model": WIDTH,
    "mimi.transformer.num_heads": HEADS,
    "mimi.transformer.num_layers": LAYERS,
    "mimi.transformer.context": (1, 24_000),
    "mimi.transformer.max_period": PERIOD,
    "mimi.transformer.layer_scale": (0, 10),
    "mimi.transformer.dim_feedforward": (8, 2**18),
    "mimi.transformer.input_dimension": WIDTH,
}
MAX_SPEC_BYTES = 100_000
MAX_EXCERPT = 80  # characters

PERSONAPLEX = ModelSpec("personaplex", voices_file="voices.tgz", is_prompted=True)
MOSHI = ModelSpec("moshi")
SPECS = {each.name: each for each in (PERSONAPLEX, MOSHI)}
# Repositories that hold another model than PersonaPlex, and no personaplex.json to say so.
KNOWN_REPOS = {"kyutai/moshiko-pytorch-bf16": MOSHI, "kyutai/moshika-pytorch-bf16": MOSHI}


def spec_of_repo(repo: str) -> ModelSpec:
    """The kind of model that a Hugging Face repository holds, before anything of it is here."""
    return KNOWN_REPOS.get(repo.lower(), PERSONAPLEX)


def spec_of_folder(folder: Path, usual: ModelSpec = PERSONAPLEX) -> ModelSpec:
    """The model in this folder; `usual` unless it says otherwise. Raises ModelError if its file makes no sense."""
    path = folder / SPEC_FILE
    try:
        if not path.exists():
            return usual
        if not path.is_file() or path.stat().st_size > MAX_SPEC_BYTES:
            raise ValueError(f"it is not a file of at most {MAX_SPEC_BYTES:,} bytes")
        spec = spec_with(json.loads(path.read_text(encoding="utf-8")), usual)
        check_sizes(spec)
        return spec
    except (OSError, ValueError, RecursionError, PersonaplexError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ModelError(f"{path} does not describe a model: {why}", "Correct it, or remove it for the 7B.") from error


def spec_with(differing: Mapping[str, Any], usual: ModelSpec = PERSONAPLEX) -> ModelSpec:
    """A model with some sizes replaced, whatever they are. Raises UsageError for unknown entries and models."""
    sizes = dict(_table("it", differing))
    name = sizes.pop("spec", usual.name)
    if not isinstance(name, str) or name not in SPECS:
        raise unknown_name("spec", excerpt(name), SPECS, "")
    spec = SPECS[name]
    return replace(spec, **_replaced({"lm": spec.lm, "mimi": spec.mimi}, sizes))


def check_sizes(spec: ModelSpec) -> None:
    """Raise UsageError for sizes of which no model can be built, or none that this program can run."""
    sizes = {**_flat("lm", spec.lm, LM), **_flat("mimi", spec.mimi, MIMI)}
    for name, usual in {**_flat("lm", LM, LM), **_flat("mimi", MIMI, MIMI)}.items():
        if name in RANGES:
            _check_range(name, sizes[name], isinstance(usual, int), *RANGES[name])
        elif name != _OUTPUTS and (type(sizes[name]) is not type(usual) or sizes[name] != usual):
            raise UsageError(f"{name} is {excerpt(sizes[name])}, and this program can run {excerpt(usual)} only.")
    for width, heads, evenly in (
        ("lm.dim", "lm.num_heads", 2),  # positions turn pairs of numbers
        ("lm.depformer_dim", "lm.depformer_num_heads", 1),
        ("mimi.transformer.d_model", "mimi.transformer.num_heads", 2),
    ):
        if sizes[width] % (sizes[heads] * evenly):
            parts = f"{sizes[heads]} {'even ' if evenly == 2 else ''}parts, one for each of {heads}"
            raise UsageError(f"{width} is {sizes[width]}, which does not make {parts}.")
    dimension = sizes["mimi.seanet.dimension"]
    for name in ("quantizer.input_dimension", "quantizer.output_dimension", "transformer.input_dimension"):
        if sizes[f"mimi.{name}"] != dimension:
            raise UsageError(f"mimi.{name} is {sizes[f'mimi.{name}']}, and mimi.seanet.dimension is {dimension}.")
    if sizes[_OUTPUTS] != [dimension]:
        raise UsageError(f"{_OUTPUTS} is {excerpt(sizes[_OUTPUTS])}, not [{dimension}].")


def excerpt(value: Any) -> str:
    """The beginning of a value from a file that anyone may have written, fit for a sentence on a terminal."""
    shown = ascii(value)[1:-1] if isinstance(value, str) else ascii(value)
    return shown if len(shown) <= MAX_EXCERPT else f"{shown[:MAX_EXCERPT]}..."


_OUTPUTS = "mimi.transformer.output_dimensions"


def _check_range(name: str, value: Any, whole: bool, low: float, high: float) -> None:
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not (is_number and low <= value <= high):
        kind = "whole number" if whole else "number"
        raise UsageError(f"{name} is {excerpt(value)}, not a {kind} from {low:,} to {high:,}.")


def _replaced(base: Mapping[str, Any], differing: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = deepcopy(dict(base))
    for key, value in differing.items():
        if key not in base:
            raise unknown_name("size", excerpt(key), base, "")
        result[key] = _replaced(base[key], _table(key, value)) if isinstance(base[key], dict) else value
    return result


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{name} is {excerpt(value)}, not a table of sizes.")
    return value


def _flat(name: str, table: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of all tables within tables that `like` has, by names such as "mimi.seanet.ratios"."""
    flat: dict[str, Any] = {}
    for key, usual in like.items():
        own = f"{name}.{key}"
        flat |= _flat(own, table[key], usual) if isinstance(usual, Mapping) else {own: table[key]}
    return flat
