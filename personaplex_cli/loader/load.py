"""From a model's files to an engine that is ready: on which device, in which precision, with how much context.

files -> what fits -> tensors, packed as they come -> modules -> LocalEngine -> warmed up
"""

import hashlib
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from moshi.models import LMModel
from platformdirs import user_cache_path
from sentencepiece import SentencePieceProcessor

from personaplex_cli.character import Character
from personaplex_cli.engine.engine import LoadedModel, LocalEngine
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.gpu import settle_on
from personaplex_cli.engine.graphs import CudaRecorder
from personaplex_cli.engine.memory import device_errors_explained
from personaplex_cli.engine.mimi import MimiCodec
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import load_saved_voice
from personaplex_cli.engine.quantised import PACKING
from personaplex_cli.errors import ModelError, UsageError
from personaplex_cli.events import Listener, Note, Phase, State, ignore
from personaplex_cli.files import damaged_hint
from personaplex_cli.library.spec import PERSONAPLEX, ModelSpec
from personaplex_cli.library.weights import ModelFiles, voice_file
from personaplex_cli.loader.checkpoint import load_lm, load_mimi, load_tokenizer, unfilled_lm, unfilled_mimi
from personaplex_cli.loader.device import choose_device
from personaplex_cli.loader.find import find_files
from personaplex_cli.loader.memory_plan import MAX_STEP_MS, choose_plan
from personaplex_cli.loader.offload import StreamedLayers, waits_in_main_memory
from personaplex_cli.loader.precision import EMBEDDINGS, Precision, precision_for, quantise
from personaplex_cli.loader.preflight import look_first
from personaplex_cli.loader.quantised_cache import QuantisedCache
from personaplex_cli.loader.random_weights import fill_randomly, toy_tokenizer
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS, SAMPLE_RATE, Samples

CPU = torch.device("cpu")
SMALL_MODEL = 100_000_000  # parameters
CACHED_SHARE = 0.6  # of the checkpoint's size: more than what it takes in int8
# A second of noise as a voice: for those who have no voices, and do not mind how it sounds.
NOISE_VOICE: Samples = np.random.default_rng(0).normal(0.0, 0.1, SAMPLE_RATE).astype(np.float32)
REHEARSAL = Character("rehearsal", "You are kind.", "noise", NOISE_VOICE)


def load(
    options: ModelOptions, listen: Listener = ignore, rehearsal: Character | None = None, slots: int | None = 1
) -> LocalEngine:
    """A model, found, downloaded if it must be, loaded and warmed up, so that a conversation can begin at once.

    It holds `slots` conversations at a time; None: as many as fit and are answered in time.

    `rehearsal` is who is spoken with to warm up: its prompt is then known, and a voice that the model does not have is
    refused here. Raises ModelError, NetworkError, DeviceError or UsageError.
    """
    engine = load_cold(options, listen, rehearsal, slots)
    listen(State(Phase.WARMING_UP))
    slow = engine.warm_up(rehearsal or REHEARSAL, MAX_STEP_MS if slots is None else None)
    if slots is None:
        listen(Note(f"Conversations at once: {engine.slots}; a step for all of them takes {slow:.0f} ms."))
    if slow > FRAME_MS:
        listen(Note(f"A frame takes {slow:.0f} ms here, more than its 80 ms: speech will break up."))
    return engine


def load_cold(
    options: ModelOptions, listen: Listener = ignore, rehearsal: Character | None = None, slots: int | None = 1
) -> LocalEngine:
    """The same, not warmed up: the first frames are slow."""
    chosen = _device(options)
    look_first(options, chosen, listen)
    files = find_files(options.model, options.revision, listen)
    sound = rehearsal.sound if rehearsal and files.spec.is_prompted else None
    if isinstance(sound, str | Path):  # one that cannot be is refused before 17 GB are read
        load_saved_voice(voice_file(files, sound) if isinstance(sound, str) else sound, files.spec)
    return _load(files, files.spec, options, chosen, listen, slots)


def load_random(
    options: ModelOptions, listen: Listener = ignore, spec: ModelSpec = PERSONAPLEX, slots: int | None = 1
) -> LocalEngine:
    """An engine of the real sizes with weights of no meaning, not warmed up: for measuring speed without a download.

    It has no voices: give characters `NOISE_VOICE`. Raises DeviceError and UsageError like `load`.
    """
    return _load(None, spec, options, _device(options), listen, slots)


def _device(options: ModelOptions) -> tuple[torch.device, str]:
    """Where the model will run, and why: known, as is the precision, before gigabytes are fetched or read."""
    device, reason = choose_device(options.device)
    settle_on(device)
    precision_for(options.precision, device)
    return device, reason


@device_errors_explained()
def _load(
    files: ModelFiles | None,
    spec: ModelSpec,
    options: ModelOptions,
    chosen: tuple[torch.device, str],
    listen: Listener,
    slots: int | None = 1,
) -> LocalEngine:
    """An engine with the model in these files, or with random weights if there are none."""
    name = files.name if files else "random weights"
    listen(State(Phase.LOADING, name))
    device, reason = chosen
    listen(Note(reason))
    keep_exact()
    if not spec.is_prompted:
        listen(Note(f"{name} takes neither a persona nor a voice: it speaks as it was trained."))
    plan = choose_plan(options, device, spec, listen, slots)
    precision, sizes = plan.precision, {**spec.lm, "context": plan.context}

    def place(tensor: str) -> torch.device:
        waits = waits_in_main_memory(tensor, sizes["num_layers"], plan.streamed)
        return CPU if waits or tensor.startswith(EMBEDDINGS) else device

    revision = _revision(files, precision) if files else ""
    if files:
        tokenizer = load_tokenizer(files.tokenizer, sizes["text_card"])
        mimi = load_mimi(files.mimi, spec, device)
        cache, prompts = _caches(files.weights, precision, device)
        lm = load_lm(files.weights, sizes, precision, place, cache)
    else:
        tokenizer = SentencePieceProcessor(model_proto=toy_tokenizer(480))
        mimi = fill_randomly(unfilled_mimi(spec), lambda tensor: device, torch.float32)
        prompts = PromptCache()
        lm = fill_randomly(quantise(unfilled_lm(sizes, precision.dtype), precision), place, precision.dtype)
    use_cores(lm, device)
    layers = StreamedLayers(lm.transformer.layers, plan.streamed, device) if plan.streamed else None
    model = LoadedModel(
        spec=spec,
        generator=TokenGenerator(lm, layers, plan.slots),
        codec=MimiCodec(mimi, device, plan.slots),
        tokenizer=tokenizer,
        find_voice=partial(voice_file, files) if files else _no_voice,
        name=name,
        precision=precision.name,
        settings={
            "model": options.model,
            "revision": files.revision if files else "",
            "device": str(device),
            "precision": precision.name,
            "cpu_offload": options.cpu_offload,
        },
        prompts=prompts,
        memory=round(options.memory / FRAME_SECONDS) if options.renew else 0,
        revision=revision,
    )
    return LocalEngine(model, CudaRecorder(device) if device.type == "cuda" else None, listen)


def keep_exact() -> None:
    """What torch may do quicker but less exactly, it shall not: Mimi's codes flip, the same seed says other words."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True  # some transposed convolutions add up in the order of chance
    matmul = torch.backends.cuda.matmul
    matmul.allow_fp16_reduced_precision_reduction = matmul.allow_bf16_reduced_precision_reduction = False


def _no_voice(name: str) -> Path:
    raise UsageError(f"Random weights have no voice {name}.", "Give a sample of speech.")


def _caches(weights: Path, precision: Precision, device: torch.device) -> tuple[QuantisedCache | None, PromptCache]:
    """Where what is made of this file is kept for the next time."""
    path, size, changed = _identity(weights)
    identity = f"{path} {size} {changed} {precision.name} {precision.dtype}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:24]
    folder = user_cache_path("personaplex")
    prompts = PromptCache(folder / "prompts", f"{digest} {device.type}")
    if not precision.is_quantised:
        return None, prompts
    cached = folder / "quantised" / f"{precision.name}-{PACKING}-{digest}"
    return QuantisedCache(cached, expected=int(CACHED_SHARE * size)), prompts


def _revision(files: ModelFiles, precision: Precision) -> str:
    """It changes with what voices are made of: the files of both models, and how exact the numbers are."""
    return f"{[_identity(path) for path in (files.weights, files.mimi)]} {precision.dtype}"


def _identity(path: Path) -> tuple[str, int, int]:
    """Which file it is, and whether it is still the same: its path, size and time. Raises ModelError."""
    try:
        path = path.resolve()  # in the hub's cache the name is a link to a file that is called by its content
        about = path.stat()
    except OSError as error:  # it was there a moment ago
        raise ModelError(f"{path} cannot be read ({error.strerror}).", damaged_hint(path)) from error
    return str(path), about.st_size, about.st_mtime_ns


def use_cores(lm: LMModel, device: torch.device) -> None:
    """How many cores a model on the CPU gets.

    Threads wait for each other by spinning: for a small model that costs more than they gain, and it starves the sound
    card. A big one gets all cores but one, which stays free for sound and screen.
    """
    if device.type == "cpu":
        small = sum(tensor.numel() for tensor in lm.state_dict().values()) < SMALL_MODEL
        torch.set_num_threads(1 if small else max(1, (os.cpu_count() or 2) - 1))
