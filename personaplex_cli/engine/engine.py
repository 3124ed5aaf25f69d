"""The model on this machine, as the `Engine` of conversations: 80 ms of a voice in, 80 ms of another one out.

    begin -> prefill (text, voice -> layout -> slot) -> step (`pipeline.py`), again and again -> end

All calls must come from one thread at a time; gradients are off whichever it is. Sound is numpy; no tensor leaves this
package.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from personaplex_cli.character import Character, fresh_seed
from personaplex_cli.conversation import NO_ONE, Reply
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.gpu import on_device
from personaplex_cli.engine.graphs import GraphRecorder
from personaplex_cli.engine.memory import out_of_memory_explained
from personaplex_cli.engine.mimi import MimiCodec
from personaplex_cli.engine.pipeline import FramePipeline
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import Layout, SavedVoice, lay_out, load_saved_voice, no_prompt, system_text
from personaplex_cli.engine.rehearsal import Scene, are_equal, are_finite, begin_alike, rehearse
from personaplex_cli.engine.slot import Slot
from personaplex_cli.errors import ModelError, UsageError
from personaplex_cli.events import Began, Event, Listener, Note, Phase, State, ignore
from personaplex_cli.library.spec import ModelSpec
from personaplex_cli.samples import FRAME_SECONDS, SILENT_FRAME, Samples

WARM_UP_FRAMES = 8
LONG_PROMPT_FRAMES = 500  # 40 s: a voice of ten seconds, and a text of more than 300 tokens


@dataclass(frozen=True)
class LoadedModel:
    """What an engine is made of: modules with their weights, and what can be said of them.

    `find_voice` gives the path of a voice in the model's archive. `name` is the model as strangers may see it,
    `settings` are those that it was loaded with.
    """

    spec: ModelSpec
    generator: TokenGenerator
    codec: MimiCodec
    tokenizer: SentencePieceProcessor
    find_voice: Callable[[str], Path]
    name: str
    precision: str
    settings: Mapping[str, Any]
    prompts: PromptCache


class LocalEngine:
    """A loaded model, ready for one conversation after another."""

    def __init__(self, model: LoadedModel, recorder: GraphRecorder | None = None, listen: Listener = ignore) -> None:
        """`recorder` makes the recordings that warming up asks for; without one, frames are simply run."""
        self.model = model
        self.device = model.generator.device
        self.context = model.generator.cache.context  # frames that the model remembers, the prompt's included
        self.recording_seconds = 0.0  # that making the recordings took
        self.slots = len(model.generator.user)
        self._recorder = recorder
        self._listen = listen
        slots = [Slot(model.generator.embeddings, model.tokenizer, model.spec) for _ in range(self.slots)]
        self.pipeline = FramePipeline(model.generator, model.codec, slots, model.prompts)
        self._waiting: dict[int, Character] = {}  # whose prompts are to be read, the first come first
        self._rehearsal: Character | None = None
        self._sample: Samples | None = None  # the voice sample that was encoded last
        self._sample_codes = torch.empty(0)

    def begin(self, slot: int, character: Character) -> None:
        self._waiting.pop(slot, None)
        self._waiting[slot] = character

    def prefill(self) -> Iterator[tuple[int, Event | Exception]] | None:
        """Read the prompt that has waited longest, all of it.

        A conversation fails with ModelError for a voice file that does not fit, UsageError for a voice that is not
        there and for a prompt longer than the context, DeviceError if memory runs out.
        """
        return self._read_next() if self._waiting else None

    def step(
        self, frames: Mapping[int, Samples], silent: Mapping[int, int] = NO_ONE
    ) -> Mapping[int, Reply | Exception]:
        try:
            with self._computing():
                return self.pipeline.run(frames, silent)
        except Exception as error:
            self._check_health()
            return dict.fromkeys(frames, error)

    def end(self, slot: int) -> None:
        self._waiting.pop(slot, None)

    def close(self) -> None:
        """Nothing to do: a model that computes cannot be interrupted."""

    def warm_up(self, character: Character) -> float:
        """Do everything once that is slow the first time; returns the p95 of a step in milliseconds afterwards.

        With a recorder the frame's parts are recorded and compared with the plain way. If they cannot be recorded, or
        differ, the listener gets a note and the plain way stays. Raises ModelError if what comes out are no numbers.
        """
        self._rehearsal = character
        with self._computing():
            return self._warm_up(character)

    @property
    def device_name(self) -> str:
        """The device as its maker calls it."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """What is launched inside goes to this engine's device, and memory that runs out is explained."""
        with on_device(self.device), out_of_memory_explained():
            yield

    def _warm_up(self, character: Character) -> float:
        plain = self._rehearse(character, every_length=self._recorder is not None)
        if not are_finite(plain):
            what = f"In {self.model.precision} this model's numbers overflow: its output is meaningless."
            raise ModelError(what, "Use another --precision; if that does not help, download the model again.")
        if self._recorder:
            self._listen(Note(self._record(self._recorder, character, plain)))
            self._rehearse(character)  # a usual conversation again, to be timed
        replies = [self.pipeline.run({0: SILENT_FRAME})[0] for _ in range(WARM_UP_FRAMES)]
        return float(np.percentile([reply.timings.total for reply in replies if reply.timings], 95))

    def _read_next(self) -> Iterator[tuple[int, Event | Exception]]:
        slot, character = next(iter(self._waiting.items()))
        del self._waiting[slot]
        yield slot, State(Phase.PRIMING)
        try:
            with self._computing():
                began = self._begin(slot, character)
        except (UsageError, ModelError) as error:  # what was asked for, not the model, is wrong
            yield slot, error
            return
        except Exception as error:
            self._check_health()
            yield slot, error
            return
        if began.prompt_frames > LONG_PROMPT_FRAMES:
            taken, whole = (f"{frames * FRAME_SECONDS:.0f}" for frames in (began.prompt_frames, began.context))
            yield slot, Note(f"This prompt takes {taken} of the {whole} s that the model remembers: shorten it.")
        yield slot, began

    @torch.inference_mode()
    def _begin(self, slot: int, character: Character) -> Began:
        """Start a conversation from nothing but the prompt."""
        model, sampling = self.model, character.sampling
        if sampling.seed is None:
            sampling = replace(sampling, seed=fresh_seed())
        layout = self._layout(character)
        layout.check_room(self.context)
        self.pipeline.begin(slot, layout, sampling)
        if self._recorder and self.pipeline.recordings and self._record_missing(self._recorder):
            self.pipeline.begin(slot, layout, sampling)  # recording left its traces
        model.codec.reset(slot)
        who = {"persona": character.persona, "prompt": character.prompt, "voice": character.voice}
        return Began(
            persona=character.persona,
            voice=character.voice,
            model=model.name,
            device=str(self.device),
            precision=model.precision,
            seed=sampling.seed,
            prompt_frames=layout.positions,
            context=self.context,
            settings={**model.settings, **who, "sampling": asdict(sampling)},
        )

    def _layout(self, character: Character) -> Layout:
        spec = self.model.spec
        if not spec.is_prompted:
            return no_prompt(spec)
        tokens = self.model.tokenizer.encode(system_text(character.prompt))
        return lay_out(self._voice(character.sound), tokens, spec)

    def _voice(self, sound: str | Path | Samples) -> Tensor | SavedVoice:
        if isinstance(sound, str):
            sound = self.model.find_voice(sound)
        if isinstance(sound, Path):
            return load_saved_voice(sound, self.model.spec)
        if self._sample is not sound:  # a restart asks for the same sample again
            self._sample, self._sample_codes = sound, self.model.codec.codes_of(sound)
        return self._sample_codes

    def _check_health(self) -> None:
        """After an error: the model must show that it is all right before anyone else talks to it. Raises if not."""
        if self._rehearsal:
            with self._computing():
                self._rehearse(self._rehearsal)

    def _record(self, recorder: GraphRecorder, character: Character, plain: list[Scene]) -> str:
        """Record the frame's parts, if that changes nothing; returns a sentence about it."""
        steady = are_equal(plain, self._rehearse(character, every_length=True))
        began = time.perf_counter()
        try:
            self.pipeline.record(recorder)
            self.recording_seconds = time.perf_counter() - began
            recorded = self._rehearse(character, every_length=True)
            if are_equal(plain, recorded) if steady else begin_alike(plain, recorded):
                checked = "equal to the plain way" if steady else "like the plain way, as far as answers vary here"
                count = len(self.pipeline.recordings)
                return f"CUDA graphs: {count} recorded in {self.recording_seconds:.1f} s, {checked}."
            why: object = "they answered differently"
        except RuntimeError as error:  # torch.OutOfMemoryError is one of these, too
            why = error
        return self._without_recordings(why)

    def _record_missing(self, recorder: GraphRecorder) -> bool:
        """Record what another top-k has in other shapes; returns whether the conversation must begin anew."""
        try:
            return self.pipeline.record(recorder)
        except RuntimeError as error:
            self._listen(Note(self._without_recordings(error)))
            return True

    def _without_recordings(self, why: object) -> str:
        self.pipeline.recordings.clear()
        first_line = next(iter(str(why).splitlines()), type(why).__name__)
        return f"No CUDA graphs here ({first_line}): a frame takes several times as long as it could."

    def _rehearse(self, character: Character, every_length: bool = False) -> list[Scene]:
        """Hold the beginning of a conversation in the first slot, always the same."""
        seeded = replace(character, sampling=replace(character.sampling, seed=character.sampling.seed or 0))
        return rehearse(self.pipeline, lambda: self._begin(0, seeded), every_length)
