"""From a model's files to an engine that is ready: on which device, in which precision, with how much context.

files -> what fits -> tensors, packed as they come -> modules -> LocalEngine -> warmed up
"""

import hashlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from moshi.models import LMModel
from platformdirs import user_cache_path
from sentencepiece import SentencePieceProcessor

from personaplex_cli.character import Character
from personaplex_cli.engine.engine import LoadedModel, LocalEngine
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.graphs import CudaRecorder
from personaplex_cli.engine.memory import out_of_memory_explained
from personaplex_cli.engine.mimi import MimiCodec
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.errors import UsageError
from personaplex_cli.events import Listener, Note, Phase, State, ignore
from personaplex_cli.library.spec import PERSONAPLEX, ModelSpec
from personaplex_cli.library.weights import voice_file
from personaplex_cli.loader.checkpoint import Place, load_lm, load_mimi, load_tokenizer
from personaplex_cli.loader.demo import toy_tokenizer
from personaplex_cli.loader.device import choose_device
from personaplex_cli.loader.find import find_files
from personaplex_cli.loader.memory_plan import MemoryPlan, choose_plan
from personaplex_cli.loader.offload import StreamedLayers, waits_in_main_memory
from personaplex_cli.loader.precision import EMBEDDINGS, Precision, quantise
from personaplex_cli.loader.quantised_cache import QuantisedCache
from personaplex_cli.loader.random_weights import fill_randomly, unfilled
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME_MS, SAMPLE_RATE, Samples

CPU = torch.device("cpu")
SMALL_MODEL = 100_000_000  # parameters
CACHED_SHARE = 0.6  # of the checkpoint's size: more than what it takes in int8
# A second of noise as a voice: for those who have no voices, and do not mind how it sounds.
NOISE_VOICE: Samples = np.random.default_rng(0).normal(0.0, 0.1, SAMPLE_RATE).astype(np.float32)
REHEARSAL = Character("rehearsal", "You are kind.", "noise", NOISE_VOICE)


def load(options: ModelOptions, listen: Listener = ignore, rehearsal: Character | None = None) -> LocalEngine:
    """A model, found, downloaded if it must be, loaded and warmed up, so that a conversation can begin at once.

    `rehearsal` is who is spoken with to warm up: its prompt is then known, and a voice that the model does not have is
    refused here. Raises ModelError, NetworkError, DeviceError or UsageError.
    """
    engine = load_cold(options, listen)
    listen(State(Phase.WARMING_UP))
    slow = engine.warm_up(rehearsal or REHEARSAL)
    if slow > FRAME_MS:
        listen(Note(f"A frame takes {slow:.0f} ms here, more than its 80 ms: speech will break up."))
    return engine


def load_cold(options: ModelOptions, listen: Listener = ignore) -> LocalEngine:
    """The same, not warmed up: the first frames are slow."""
    files = find_files(options.model, options.revision, listen)
    listen(State(Phase.LOADING, files.name))
    device = _device(options.device, listen)
    spec = files.spec
    if not spec.is_prompted:
        listen(Note(f"{files.name} takes neither a persona nor a voice: it speaks as it was trained."))
    with out_of_memory_explained():
        plan = choose_plan(options, device, spec, listen)
        tokenizer = load_tokenizer(files.tokenizer, spec.lm["text_card"])
        mimi = load_mimi(files.mimi, spec, device)
        cache, prompts = _caches(files.weights, plan.precision, device)
        lm = load_lm(files.weights, plan.lm_sizes(spec), plan.precision, _places(plan, device, spec), cache)
        model = LoadedModel(
            spec=spec,
            generator=_generator(lm, plan, device),
            codec=MimiCodec(mimi, device),
            tokenizer=tokenizer,
            find_voice=partial(voice_file, files),
            name=files.name,
            precision=plan.precision.name,
            settings=_settings(options, files.revision, plan, device),
            prompts=prompts,
        )
        return _engine(model, listen)


def load_random(options: ModelOptions, listen: Listener = ignore, spec: ModelSpec = PERSONAPLEX) -> LocalEngine:
    """An engine of the real sizes with weights of no meaning, not warmed up: for measuring speed without a download.

    It has no voices: give characters `NOISE_VOICE`. Raises DeviceError and UsageError like `load`.
    """
    listen(State(Phase.LOADING, "random weights"))
    device = _device(options.device, listen)
    with out_of_memory_explained():
        plan = choose_plan(options, device, spec, listen)
        lm, mimi = unfilled(replace(spec, lm=plan.lm_sizes(spec)), plan.precision.dtype)
        quantise(lm, plan.precision)
        fill_randomly(mimi, lambda name: device, torch.float32)
        fill_randomly(lm, _places(plan, device, spec), plan.precision.dtype)
        model = LoadedModel(
            spec=spec,
            generator=_generator(lm, plan, device),
            codec=MimiCodec(mimi, device),
            tokenizer=SentencePieceProcessor(model_proto=toy_tokenizer(480)),
            find_voice=_no_voice,
            name="random weights",
            precision=plan.precision.name,
            settings=_settings(options, "", plan, device),
        )
        return _engine(model, listen)


def _device(name: str, listen: Listener) -> torch.device:
    device, reason = choose_device(name)
    listen(Note(reason))
    # Convolutions in TF32 flip Mimi's codes.
    torch.backends.cudnn.allow_tf32 = False
    return device


def _places(plan: MemoryPlan, device: torch.device, spec: ModelSpec) -> Place:
    """Where each tensor of the language model goes."""

    def place(name: str) -> torch.device:
        waits = waits_in_main_memory(name, spec.lm["num_layers"], plan.streamed)
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
    prompts = PromptCache(folder / "prompts", f"{digest} {device.type}")
    if not precision.is_quantised:
        return None, prompts
    cached = folder / "quantised" / f"{precision.name}-{digest}"
    return QuantisedCache(cached, expected=int(CACHED_SHARE * about.st_size)), prompts


def _generator(lm: LMModel, plan: MemoryPlan, device: torch.device) -> TokenGenerator:
    use_cores(lm, device)
    layers = StreamedLayers(lm.transformer.layers, plan.streamed, device) if plan.streamed else None
    return TokenGenerator(lm, layers)


def _engine(model: LoadedModel, listen: Listener) -> LocalEngine:
    device = model.generator.device
    return LocalEngine(model, CudaRecorder(device) if device.type == "cuda" else None, listen)


def _settings(options: ModelOptions, revision: str, plan: MemoryPlan, device: torch.device) -> dict[str, Any]:
    """What the model was loaded with, as plain values."""
    return {
        "model": options.model,
        "revision": revision,
        "device": str(device),
        "precision": plan.precision.name,
        "cpu_offload": options.cpu_offload,
    }


def _no_voice(name: str) -> Path:
    raise UsageError(f"Random weights have no voice {name}.", "Give a sample of speech.")


def use_cores(lm: LMModel, device: torch.device) -> None:
    """How many cores a model on the CPU gets.

    Threads wait for each other by spinning: for a small model that costs more than they gain, and it starves the sound
    card. A big one gets all cores but one, which stays free for sound and screen.
    """
    if device.type == "cpu":
        small = sum(tensor.numel() for tensor in lm.state_dict().values()) < SMALL_MODEL
        torch.set_num_threads(1 if small else max(1, (os.cpu_count() or 2) - 1))
