"""From a model's files to an engine: on which device, in which precision, with how much context, from where.

files -> what fits -> tensors, packed as they come -> modules -> TokenGenerator -> Engine
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from moshi.models import LMModel, MimiModel
from platformdirs import user_cache_path
from sentencepiece import SentencePieceProcessor

from personaplex_cli.engine.engine import Engine
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.graphs import CudaRecorder
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.quantised import why_no_kernels
from personaplex_cli.errors import DeviceError
from personaplex_cli.events import Listener, Note
from personaplex_cli.library.spec import Sizes, sizes_of, sizes_with
from personaplex_cli.library.weights import ModelFiles
from personaplex_cli.loader.bandwidth import bus_bandwidth
from personaplex_cli.loader.checkpoint import Place, load_lm, load_mimi, load_tokenizer
from personaplex_cli.loader.demo import toy_tokenizer
from personaplex_cli.loader.device import choose_device, out_of_memory_explained
from personaplex_cli.loader.memory_plan import EMBEDDINGS, GIGABYTE, MemoryPlan, fit, needs
from personaplex_cli.loader.offload import StreamedLayers, waits_in_main_memory
from personaplex_cli.loader.precision import Precision, precision_for, quantise
from personaplex_cli.loader.quantised_cache import QuantisedCache
from personaplex_cli.loader.random_weights import fill_randomly, unfilled
from personaplex_cli.samples import FRAME_SECONDS

CPU = torch.device("cpu")
BUDGET = 1000 * FRAME_SECONDS  # milliseconds
SMALL_MODEL = 100_000_000  # parameters
CACHED_SHARE = 0.6  # of the checkpoint's size: more than what it takes in int8


@dataclass(frozen=True)
class Demand:
    """How the model shall run: the values of --device, --precision and --cpu-offload.

    `live` refuses what is bound to be slower than speech, as far as that can be told before loading.
    """

    device: str = "auto"
    precision: str = "auto"
    cpu_offload: bool = False
    live: bool = False


def load_engine(files: ModelFiles, demand: Demand, listen: Listener) -> Engine:
    """Load a model as demanded, and say what was chosen. Raises DeviceError, UsageError or ModelError."""
    device = _device(demand, listen)
    sizes = sizes_of(files.folder)
    with out_of_memory_explained():
        chosen = choose(demand, device, sizes, listen)
        tokenizer = load_tokenizer(files.tokenizer, sizes.lm["text_card"])
        mimi = load_mimi(files.mimi, sizes.mimi, device)
        cache, snapshots = _caches(files.weights, chosen.precision, device)
        lm = load_lm(files.weights, _with(chosen, sizes), chosen.precision, _places(chosen, device, sizes), cache)
        return _assemble(lm, mimi, tokenizer, chosen, device, snapshots)


def random_engine(demand: Demand, listen: Listener, sizes: Sizes | None = None) -> Engine:
    """An engine of the real sizes with weights of no meaning, for measuring speed without a download.

    Raises DeviceError and UsageError like `load_engine`.
    """
    device = _device(demand, listen)
    sizes = sizes or sizes_with({})
    with out_of_memory_explained():
        chosen = choose(demand, device, sizes, listen)
        lm, mimi = unfilled(Sizes(_with(chosen, sizes), sizes.mimi), chosen.precision.dtype)
        quantise(lm, chosen.precision)
        fill_randomly(mimi, lambda name: device, torch.float32)
        fill_randomly(lm, _places(chosen, device, sizes), chosen.precision.dtype)
        tokenizer = SentencePieceProcessor(model_proto=toy_tokenizer(480))
        return _assemble(lm, mimi, tokenizer, chosen, device, PromptCache())


def _device(demand: Demand, listen: Listener) -> torch.device:
    device, reason = choose_device(demand.device)
    listen(Note(reason))
    # Convolutions in TF32 flip Mimi's codes.
    torch.backends.cudnn.allow_tf32 = False
    return device


def choose(demand: Demand, device: torch.device, sizes: Sizes, listen: Listener) -> MemoryPlan:
    """Precision, context and how many layers stay behind; on CUDA by the memory that is free. Loads nothing.

    Raises DeviceError if it cannot fit or is bound to be too slow, UsageError for a precision that there is not.
    """
    first = precision_for(demand.precision, device)
    context: int = sizes.lm["context"]
    if device.type != "cuda":
        if demand.cpu_offload:
            listen(Note(f"CPU offload changes nothing here: it is for CUDA GPUs, and this is {device.type}."))
        if first.is_quantised:
            listen(Note(f"{first.name} saves memory here but takes much more time: its kernels are for CUDA GPUs."))
        return MemoryPlan(first, context)
    free, _ = torch.cuda.mem_get_info(device)
    names = [first.name, "int8", "int4"] if demand.precision == "auto" and not demand.cpu_offload else [first.name]
    wanted = [precision_for(name, device) for name in names]
    modules = unfilled(sizes, first.dtype)
    chosen = fit(free, [(each, needs(*modules, each)) for each in wanted], context, demand.cpu_offload)
    listen(Note(_told(chosen, free, context)))
    if chosen.precision.is_quantised and (why := why_no_kernels()):
        listen(Note(f"Without Triton ({why}) {chosen.precision.name} saves memory but takes more time than bf16."))
    if chosen.streamed:
        _check_bus(needs(*modules, chosen.precision).layer * chosen.streamed, device, demand.live, listen)
    return chosen


def _told(chosen: MemoryPlan, free: int, context: int) -> str:
    """What was chosen, in a sentence."""
    what = f"Using {chosen.precision.name}: {free / GIGABYTE:.1f} GB of the GPU's memory are free"
    if chosen.precision.name == "int4":
        what += "; int4 is experimental, and can be heard"
    if chosen.context < context:
        what += f"; the model remembers {chosen.context * FRAME_SECONDS:.0f} s instead of {context * FRAME_SECONDS:.0f}"
    return f"{what}."


def _check_bus(streamed: int, device: torch.device, live: bool, listen: Listener) -> None:
    """Tell what streaming these bytes in every frame costs. Raises DeviceError if that is too slow for a live talk."""
    expected = 1000 * streamed / bus_bandwidth(device)
    gigabytes = f"{streamed / GIGABYTE:.1f} GB come over the bus in every frame"
    if live and expected > BUDGET:
        raise DeviceError(
            f"CPU offload is too slow for talking here: {gigabytes}, about {expected:.0f} ms of the 80 there are.",
            "Use --precision int8 or int4 without --cpu-offload, `personaplex run` for files, or --force.",
        )
    listen(Note(f"CPU offload: {gigabytes}, about {expected:.0f} ms."))


def _with(chosen: MemoryPlan, sizes: Sizes) -> dict[str, Any]:
    return {**sizes.lm, "context": chosen.context}


def _places(chosen: MemoryPlan, device: torch.device, sizes: Sizes) -> Place:
    """Where each tensor of the language model goes."""

    def place(name: str) -> torch.device:
        waits = waits_in_main_memory(name, sizes.lm["num_layers"], chosen.streamed)
        return CPU if waits or name.startswith(EMBEDDINGS) else device

    return place


def _caches(weights: Path, precision: Precision, device: torch.device) -> tuple[QuantisedCache | None, PromptCache]:
    """Where what is made of this file is kept for the next time."""
    # In the hub's cache the name is a link to a file that is called by its content.
    path = weights.resolve()
    about = path.stat()
    identity = f"{path} {about.st_size} {about.st_mtime_ns} {precision.name} {precision.dtype}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:24]
    folder = user_cache_path("personaplex")
    snapshots = PromptCache(folder / "prompts", f"{digest} {device.type}")
    if not precision.is_quantised:
        return None, snapshots
    cached = folder / "quantised" / f"{precision.name}-{digest}"
    return QuantisedCache(cached, expected=int(CACHED_SHARE * about.st_size)), snapshots


def _assemble(
    lm: LMModel,
    mimi: MimiModel,
    tokenizer: SentencePieceProcessor,
    chosen: MemoryPlan,
    device: torch.device,
    snapshots: PromptCache,
) -> Engine:
    use_cores(lm, device)
    layers = StreamedLayers(lm.transformer.layers, chosen.streamed, device) if chosen.streamed else None
    recorder = CudaRecorder(device) if device.type == "cuda" else None
    return Engine(TokenGenerator(lm, layers, snapshots), mimi, tokenizer, chosen.precision.name, recorder)


def use_cores(lm: LMModel, device: torch.device) -> None:
    """How many cores a model on the CPU gets.

    Threads wait for each other by spinning: for a small model that costs more than they gain, and it starves the sound
    card. A big one gets all cores but one, which stays free for sound and screen.
    """
    if device.type == "cpu":
        small = sum(tensor.numel() for tensor in lm.state_dict().values()) < SMALL_MODEL
        torch.set_num_threads(1 if small else max(1, (os.cpu_count() or 2) - 1))
