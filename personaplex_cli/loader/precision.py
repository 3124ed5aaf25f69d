"""In how many bits the model's numbers are held, and which of them."""

import re
import sys
from dataclasses import dataclass

import torch
from moshi.models import LMModel
from torch import nn

from personaplex_cli.engine.quantised import Int4Linear, Int8Linear, Quantised
from personaplex_cli.errors import UsageError, either

# What a frame reads most of. Heads, norms and embeddings stay as they are: they are small, and matter most.
_LINEAR = r"(self_attn\.(in|out)_projs\.\d+|gating\.(\d+\.)?linear_(in|out))"
EMBEDDINGS = ("emb.", "text_emb.")  # stay in main memory: a frame reads 17 rows of them
LAYERS = re.compile(rf"transformer\.layers\.\d+\.{_LINEAR}")
DEPFORMER = re.compile(rf"depformer\.layers\.\d+\.{_LINEAR}|depformer_in\.\d+")


@dataclass(frozen=True)
class Precision:
    """A value of --precision on a device: what is computed in (`dtype`), and which linears are held in fewer bits."""

    name: str
    dtype: torch.dtype

    @property
    def is_quantised(self) -> bool:
        return self.name not in PLAIN

    def kind(self, linear: str) -> Quantised | None:
        """How the linear module of this name in the model is held; None for as it is."""
        if self.name == "int4" and LAYERS.fullmatch(linear):
            return Int4Linear
        if self.name in ("int8", "int4") and (LAYERS.fullmatch(linear) or DEPFORMER.fullmatch(linear)):
            return Int8Linear
        return None


PLAIN = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
NAMES = ("auto", *PLAIN, "int8", "int4")


def precision_for(name: str, device: torch.device) -> Precision:
    """The precision of this name on a device. Raises UsageError for unknown ones and for bf16 where there is none.

    `auto` is the checkpoint's bf16, fp16 on GPUs before compute capability 8.0, and fp32 on the CPU.
    """
    if name not in NAMES:
        raise UsageError(f"There is no precision {name!r}.", f"Use {either(NAMES)}.")
    has_bf16 = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "bf16" and not has_bf16:
        raise UsageError(f"{torch.cuda.get_device_name(device)} cannot compute in bf16.", "Use --precision fp16.")
    usual = "fp32" if device.type == "cpu" else "bf16" if has_bf16 else "fp16"
    name = usual if name == "auto" else name
    return Precision(name, PLAIN.get(name, PLAIN[usual]))


def remedy_for(why_no_kernels: str) -> str:
    """What may bring the kernels of int8 and int4 about, by the reason why they cannot be used."""
    reason = why_no_kernels.lower()
    if "not installed" in reason:
        package = '"triton-windows<3.6"' if sys.platform == "win32" else "triton"
        return f"`pip install {package}` brings it."
    if "ptxas" in reason or "sm_" in reason:
        return (
            "Its compiler may not know this GPU: try TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas, which is CUDA's own."
        )
    if "compiler" in reason or "gcc" in reason or "python.h" in reason:
        return "It needs a C compiler and Python's headers: on Debian, `apt install gcc python3-dev`."
    return "Use bf16 if it fits, or another version of PyTorch, which brings another Triton."


def quantise(lm: LMModel, precision: Precision) -> LMModel:
    """The same model on `meta`, its linear modules replaced by such of this precision, still without values."""
    for name, module in list(lm.named_modules()):
        kind = precision.kind(name)
        if kind and isinstance(module, nn.Linear):
            parent, _, own = name.rpartition(".")
            lm.get_submodule(parent).register_module(own, kind(module.out_features, module.in_features))
    return lm
