"""From files to modules: reads what is needed of a checkpoint, straight to where it belongs, and nothing else.

The modules are moshi's `LMModel` and `MimiModel`. They are built on `meta` (no memory, no random numbers), then each
tensor is read from the safetensors file to its device and precision. What does not fit is a ModelError that names
the file. Knows the layout of the files; knows nothing of prompts, steps or sound.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from moshi.models import LMModel, MimiModel
from moshi.models.loaders import get_mimi
from safetensors import SafetensorError
from sentencepiece import SentencePieceProcessor
from torch import nn

from personaplex_cli.engine.quantised import pack
from personaplex_cli.errors import ModelError
from personaplex_cli.files import check_is_model_file, damaged_hint
from personaplex_cli.library.spec import CODEBOOKS, ModelSpec, excerpt
from personaplex_cli.loader.precision import Precision, quantise
from personaplex_cli.loader.quantised_cache import Place, QuantisedCache, Tensors
from personaplex_cli.loader.tensor_file import READERS, TensorFile

KINDS = ("BF16", "F16", "F32", "F64")  # safetensors' names of what weights may be stored as

Shapes = dict[str, tuple[int, ...]]
M = TypeVar("M", LMModel, MimiModel)

# What a file may hold beyond our modules: depformer steps that predict the user, Mimi codebooks past the eighth.
SURPLUS = re.compile(
    r"(depformer_in|linears|depformer_emb|depformer\.layers\.\d+\.gating|quantizer\.rvq_rest\.vq\.layers)\.\d+\."
)
# Attention weights of all depformer steps are stacked in one tensor, ours first.
_ATTENTION = re.compile(r"(.*self_attn\.)(in|out)_proj[._]weight")
STACKED = re.compile(rf"depformer\.{_ATTENTION.pattern}")


def load_lm(
    path: Path, sizes: Mapping[str, Any], precision: Precision, place: Place, cache: QuantisedCache | None = None
) -> LMModel:
    """The language model from `model.safetensors`, in `precision`, each tensor where `place` says.

    With a `cache` quantised weights are kept there, and taken from there the next time.
    Raises ModelError if the file is damaged or is not a model of these sizes.
    """
    lm = unfilled_lm(sizes, precision.dtype)
    if cache and cache.exists:
        quantise(lm, precision)
        try:
            return fill(lm, path, cache.read(place))
        except (ModelError, SafetensorError, OSError):  # the cache is damaged, not the model: make it again
            cache.forget()
            return load_lm(
                path, sizes, precision, place, None if cache.exists else cache
            )  # what cannot be removed is left aside
    shapes = file_shapes(lm)
    quantise(lm, precision)
    tensors = packed(read(path, shapes, precision.dtype, place), precision)
    return fill(lm, path, cache.keep(tensors) if cache else tensors)


def load_mimi(path: Path, spec: ModelSpec, device: torch.device) -> MimiModel:
    """The codec, always in float32: in less its codes flip. Raises ModelError like `load_lm`."""
    mimi = unfilled_mimi(spec)
    return fill(mimi, path, read(path, file_shapes(mimi), torch.float32, lambda name: device))


def load_tokenizer(path: Path, text_card: int) -> SentencePieceProcessor:
    """The text tokenizer. Raises ModelError if the file is damaged or holds more pieces than the model knows."""
    check_is_model_file(path)
    try:
        tokenizer = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise ModelError(f"{path} is not a SentencePiece tokenizer.", damaged_hint(path)) from error
    if tokenizer.get_piece_size() > text_card:
        raise ModelError(
            f"{path} has {tokenizer.get_piece_size()} pieces, the model knows {text_card}.",
            "Take all files from the same model.",
        )
    return tokenizer


def unfilled_lm(sizes: Mapping[str, Any], dtype: torch.dtype) -> LMModel:
    """The module of these sizes, on `meta`."""
    with no_random_init():
        return LMModel(device="meta", dtype=dtype, **sizes)


def unfilled_mimi(spec: ModelSpec) -> MimiModel:
    """The codec, on `meta`, with the codebooks that we use."""
    with no_random_init(), torch.device("meta"):
        return get_mimi(None, dict(spec.mimi), device="meta", num_codebooks=CODEBOOKS)


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
    (`in_proj_weight`, `out_proj.weight`), and `read` takes them apart.
    """
    shapes: Shapes = {}
    for name, tensor in module.state_dict().items():
        stacked = re.sub(r"in_projs\.\d+\.weight$", "in_proj_weight", name)
        stacked = re.sub(r"out_projs\.\d+\.weight$", "out_proj.weight", stacked)
        rows = shapes[stacked][0] if stacked in shapes else 0
        shapes[stacked] = (rows + tensor.shape[0], *tensor.shape[1:])
    return shapes


def fill(module: M, path: Path, tensors: Tensors) -> M:
    """Give a module on `meta` the tensors that came from the file at `path`, and make it ready for inference.

    Raises ModelError for missing tensors.
    """
    module.load_state_dict(dict(tensors), strict=False, assign=True)
    left = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    if left:
        raise ModelError(f"{path} left {len(left)} tensors without values, such as {left[0]}.", damaged_hint(path))
    return module.requires_grad_(False).eval()


def read(path: Path, shapes: Shapes, dtype: torch.dtype, place: Place) -> Tensors:
    """The tensors of a file by the names they have in the modules, in `dtype`, each where `place` says.

    Nothing else is read. Several are read at once, ahead of being taken: a disk is fastest so.
    Raises ModelError for a damaged file, missing or unexpected tensors, wrong shapes, and values that are no numbers.
    """
    check_is_model_file(path)
    try:
        with TensorFile(path) as file, ThreadPoolExecutor(READERS) as readers:
            _compare(path, shapes, file.shapes)
            _check_kinds(path, {name: file.kinds[name] for name in shapes})

            def read_one(name: str) -> tuple[str, torch.Tensor]:
                whole = file.read(name, shapes[name][0] if STACKED.fullmatch(name) else None)
                if not all(map(torch.isfinite, whole.aminmax())):  # as fast as memory: a second for 17 GB on two cores
                    what = f"In {path}, {name} has values that are infinite or not numbers."
                    raise ModelError(what, damaged_hint(path))
                return name, whole.to(dtype)

            upcoming = (readers.submit(read_one, name) for name in shapes)
            reading = deque(islice(upcoming, READERS))
            while reading:
                name, tensor = reading.popleft().result()
                reading.extend(islice(upcoming, 1))
                yield from _taken_apart(name, tensor.to(place(name)))
            file.check_unchanged()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or incomplete ({excerpt(str(error))}).", damaged_hint(path)) from error


def packed(tensors: Tensors, precision: Precision) -> Tensors:
    """The same tensors with the weights of quantised linears packed, one after the other, where they lie."""
    for name, tensor in tensors:
        linear, _, own = name.rpartition(".")
        kind = precision.kind(linear) if own == "weight" else None
        if kind:
            yield from ((f"{linear}.{part}", values) for part, values in pack(kind, tensor).items())
        else:
            yield name, tensor


def _taken_apart(name: str, tensor: torch.Tensor) -> Tensors:
    """moshi's modules have one linear for each step of the weights that the file has stacked."""
    if match := _ATTENTION.fullmatch(name):
        for step, part in enumerate(tensor.chunk(CODEBOOKS if STACKED.fullmatch(name) else 1)):
            yield f"{match[1]}{match[2]}_projs.{step}.weight", part
    else:
        yield name, tensor


def _compare(path: Path, wanted: Shapes, found: Shapes) -> None:
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise ModelError(f"{path} lacks {len(missing)} tensors, such as {missing[0]}.", _WRONG_MODEL)
    strange = sorted(name for name in found.keys() - wanted.keys() if not SURPLUS.match(name))
    if strange:
        raise ModelError(f"{path} has {len(strange)} tensors too many, such as {excerpt(strange[0])}.", _WRONG_MODEL)
    for name, shape in wanted.items():
        stacked = STACKED.fullmatch(name) and found[name][0] % shape[0] == 0 and found[name][1:] == shape[1:]
        if found[name] != shape and not stacked:
            raise ModelError(
                f"In {path}, {name} has the shape {list(found[name])} instead of {list(shape)}.", _WRONG_MODEL
            )


def _check_kinds(path: Path, kinds: Mapping[str, str]) -> None:
    """Whole numbers, truth values and quantised ones would become weights, but others than were meant."""
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise ModelError(f"In {path}, {name} is stored as {kind}, not as one of {', '.join(KINDS)}.", _WRONG_MODEL)


_WRONG_MODEL = "This is not a PersonaPlex model of the expected size: check --model, or download it again."
