"""From files to modules: reads what is needed of a checkpoint, straight to where it belongs, and nothing else.

The modules are moshi's `LMModel` and `MimiModel`. They are built on `meta` (no memory, no random numbers), then each
tensor is read from the safetensors file to its device and precision. Whatever does not fit is a ModelError that names
the file. Knows the layout of the files; knows nothing of prompts, steps or sound.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from moshi.models import LMModel, MimiModel
from moshi.models.loaders import get_mimi
from safetensors import SafetensorError, safe_open
from sentencepiece import SentencePieceProcessor
from torch import nn

from personaplex_cli.errors import ModelError
from personaplex_cli.model.sizes import CODEBOOKS

Place = Callable[[str], torch.device]  # the device of a tensor, by its name in the file
Shapes = dict[str, tuple[int, ...]]
M = TypeVar("M", bound=nn.Module)

# What a file may hold beyond our modules: depformer steps that predict the user, Mimi codebooks past the eighth.
SURPLUS = re.compile(
    r"(depformer_in|linears|depformer_emb|depformer\.layers\.\d+\.gating|quantizer\.rvq_rest\.vq\.layers)\.\d+\."
)
# Attention weights of all depformer steps are stacked in one tensor, ours first.
STACKED = re.compile(r"depformer\.layers\.\d+\.self_attn\.(in_proj_weight|out_proj\.weight)")


def load_lm(path: Path, sizes: dict[str, Any], dtype: torch.dtype, place: Place) -> LMModel:
    """The language model from `model.safetensors`, in `dtype`, each tensor where `place` wants it.

    Raises ModelError if the file is damaged or is not a model of these sizes.
    """
    with no_random_init():
        lm = LMModel(device="meta", dtype=dtype, **sizes)
    return fill(lm, path, dtype, place)


def load_mimi(path: Path, sizes: dict[str, Any], device: torch.device) -> MimiModel:
    """The codec, always in float32: in less its codes flip. Raises ModelError like `load_lm`."""
    with no_random_init(), torch.device("meta"):
        mimi = get_mimi(None, sizes, device="meta", num_codebooks=CODEBOOKS)
    return fill(mimi, path, torch.float32, lambda name: device)


def load_tokenizer(path: Path, text_card: int) -> SentencePieceProcessor:
    """The text tokenizer. Raises ModelError if the file is damaged or holds more pieces than the model knows."""
    refuse_pretenders(path)
    try:
        tokenizer = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise ModelError(f"{path} is not a SentencePiece tokenizer.", _remedy(path)) from error
    if tokenizer.get_piece_size() > text_card:
        raise ModelError(
            f"{path} has {tokenizer.get_piece_size()} pieces, the model knows {text_card}.",
            "Take all files from the same model.",
        )
    return tokenizer


@contextmanager
def no_random_init() -> Iterator[None]:
    """Modules built inside get no initial values: filling 8 billion of them on `meta` costs seconds for nothing."""
    names = ("trunc_normal_", "kaiming_uniform_", "normal_", "uniform_")
    originals = {name: getattr(nn.init, name) for name in names}
    try:
        for name in names:
            setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
        yield
    finally:
        for name, original in originals.items():
            setattr(nn.init, name, original)


def file_shapes(module: nn.Module) -> Shapes:
    """Names and shapes of a module's tensors as checkpoint files have them.

    moshi splits attention weights into one linear per step (`in_projs.0.weight`, ...); the files keep them stacked
    (`in_proj_weight`, `out_proj.weight`) and moshi's load hook takes them apart.
    """
    shapes: Shapes = {}
    for name, tensor in module.state_dict().items():
        stacked = re.sub(r"in_projs\.\d+\.weight$", "in_proj_weight", name)
        stacked = re.sub(r"out_projs\.\d+\.weight$", "out_proj.weight", stacked)
        rows = shapes[stacked][0] if stacked in shapes else 0
        shapes[stacked] = (rows + tensor.shape[0], *tensor.shape[1:])
    return shapes


def fill(module: M, path: Path, dtype: torch.dtype, place: Place) -> M:
    """Give a module on `meta` its tensors from a safetensors file, and make it ready for inference.

    Raises ModelError for a damaged file, missing or unexpected tensors and wrong shapes.
    """
    refuse_pretenders(path)
    try:
        state = dict(_read(path, file_shapes(module), dtype, place))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or incomplete ({error}).", _remedy(path)) from error
    module.load_state_dict(state, strict=False, assign=True)
    left = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    if left:
        raise ModelError(f"{path} left {len(left)} tensors without values, such as {left[0]}.", _remedy(path))
    return module.requires_grad_(False).eval()


def _read(path: Path, shapes: Shapes, dtype: torch.dtype, place: Place) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        _compare(path, shapes, {name: tuple(file.get_slice(name).get_shape()) for name in names})
    for device in {place(name) for name in shapes}:
        # safetensors reads straight into CUDA memory; other accelerators get their tensors by way of the CPU.
        with safe_open(path, framework="pt", device=str(device) if device.type == "cuda" else "cpu") as file:
            for name, (rows, *_) in shapes.items():
                if place(name) == device:
                    tensor = file.get_slice(name)[:rows] if STACKED.fullmatch(name) else file.get_tensor(name)
                    yield name, tensor.to(device=device, dtype=dtype)


def _compare(path: Path, wanted: Shapes, found: Shapes) -> None:
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise ModelError(f"{path} lacks {len(missing)} tensors, such as {missing[0]}.", _WRONG_MODEL)
    strange = sorted(name for name in found.keys() - wanted.keys() if not SURPLUS.match(name))
    if strange:
        raise ModelError(f"{path} has {len(strange)} tensors too many, such as {strange[0]}.", _WRONG_MODEL)
    for name, shape in wanted.items():
        stacked = STACKED.fullmatch(name) and found[name][0] % shape[0] == 0 and found[name][1:] == shape[1:]
        if found[name] != shape and not stacked:
            raise ModelError(
                f"In {path}, {name} has the shape {list(found[name])} instead of {list(shape)}.", _WRONG_MODEL
            )


_WRONG_MODEL = "This is not a PersonaPlex model of the expected size: check --model, or download it again."


def _remedy(path: Path) -> str:
    # In the hub's cache the name is a link: only without what it points to is the file fetched anew.
    return f"Remove {path.resolve()} and run `personaplex download` again."


def refuse_pretenders(path: Path) -> None:
    """Raise ModelError for a file that is missing, empty, a Git LFS pointer or a web page saved under its name."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}).", "Run `personaplex download`.") from error
    if not start:
        raise ModelError(f"{path} is empty.", _remedy(path))
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not the file itself.", "Run `git lfs pull` in that folder.")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ModelError(f"{path} is a web page, not model data.", _remedy(path))
