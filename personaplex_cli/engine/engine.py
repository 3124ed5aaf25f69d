"""The model on this machine, as the `Engine` of conversations: 80 ms of a voice in, 80 ms of another one out.

    begin -> prefill (text, voice -> layout -> slot) -> step (`pipeline.py`), again and again -> end

All calls must come from one thread at a time; gradients are off whichever it is. Sound is numpy; no tensor leaves this
package.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from personaplex_cli.character import Character, OwnVoice, Sound, fresh_seed
from personaplex_cli.conversation import NO_ONE, Reply
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.gpu import on_device
from personaplex_cli.engine.graphs import GraphRecorder
from personaplex_cli.engine.memory import device_errors_explained
from personaplex_cli.engine.mimi import MimiCodec
from personaplex_cli.engine.own_voice import VoiceMaker
from personaplex_cli.engine.pipeline import FramePipeline
from personaplex_cli.engine.prefill import AT_ONCE
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import Layout, SavedVoice, lay_out, load_saved_voice, no_prompt, system_text
from personaplex_cli.engine.rehearsal import Scene, are_equal, are_finite, begin_alike, rehearse
from personaplex_cli.engine.renewal import Renewals
from personaplex_cli.engine.slot import Slot
from personaplex_cli.errors import ModelError, UsageError
from personaplex_cli.events import Began, Event, Listener, Note, Phase, Renewed, State, ignore
from personaplex_cli.hush import SPEECH_LEVEL
from personaplex_cli.library.spec import ModelSpec
from personaplex_cli.samples import FRAME_SECONDS, SILENT_FRAME, Samples, level

WARM_UP_FRAMES = 8
ROUND_MS = 60  # for a step and a piece of a prompt, of the 80 that there are
TIMED_POSITIONS, FEWEST_POSITIONS = 64, 32  # of a prompt: read to see how long they take; read in any case
SAMPLES = 16  # of voices that are kept as the model reads them, some 2 MB each
LONG_PROMPT_FRAMES = 500  # 40 s: a voice of ten seconds, and a text of more than 300 tokens


@dataclass(frozen=True)
class LoadedModel:
    """What an engine is made of: modules with their weights, and what can be said of them.

    `find_voice` gives the path of a voice in the model's archive. `name` is the model as strangers may see it,
    `settings` are those that it was loaded with, `revision` changes with its files and its precision.
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
    memory: int = 0  # frames of a talk that are remembered when its memory is renewed; 0: it is not
    revision: str = ""


class LocalEngine:
    """A loaded model, ready for conversations: as many at a time as it has slots, one after the other in each."""

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
        self._reading: dict[int, Beginning] = {}  # the one that is being read
        self._talking: set[int] = set()
        self._renewals = Renewals(model.generator, slots, model.memory)
        self._at_once = AT_ONCE  # positions of a prompt that are read between two frames of others
        self._rehearsal: Character | None = None
        self._own_voices = VoiceMaker(model.codec, model.generator.embed, model.spec, model.name, model.revision)
        # The voice samples that were heard last, and what came of each: of a chat's favourites, all.
        self._samples: deque[tuple[Samples | OwnVoice, Tensor | SavedVoice]] = deque(maxlen=SAMPLES)

    def begin(self, slot: int, character: Character) -> None:
        self.end(slot)
        self._waiting[slot] = character

    def prefill(self) -> Iterable[tuple[int, Event | Exception]] | None:
        """Read the prompt that has waited longest: all of it, or a piece while others talk. Or renew a memory.

        A conversation fails with ModelError for a voice file that does not fit, UsageError for a voice that is not
        there and for a prompt longer than the context, DeviceError if memory runs out.
        """
        waiting = bool(self._waiting or self._reading)
        with self._computing():
            renewed = self._renewals.go_on(self._at_once, waiting)
        for slot, event in renewed or ():
            if isinstance(event, Renewed):
                self.pipeline.skip_to(slot, event.filled)
        return self._read_on() if renewed is None and waiting else renewed

    def step(
        self, frames: Mapping[int, Samples], silent: Mapping[int, int] = NO_ONE
    ) -> Mapping[int, Reply | Exception]:
        try:
            with self._computing():
                replies = self.pipeline.run(frames, silent)
        except Exception as error:
            self._check_health(next(iter(frames)))
            return dict.fromkeys(frames, error)
        for slot, reply in replies.items() if self.model.memory else ():
            if isinstance(reply, Reply):
                self._renewals.hear(slot, quiet=max(level(frames[slot]), level(reply.pcm)) < SPEECH_LEVEL)
        return replies

    def end(self, slot: int) -> None:
        self._waiting.pop(slot, None)
        self._reading.pop(slot, None)
        self._talking.discard(slot)
        self._renewals.end(slot)
        with suppress(RuntimeError):  # of a device that is lost: the next step says so
            self.pipeline.leave(slot)

    def close(self) -> None:
        """Nothing to do: a model that computes cannot be interrupted."""

    def warm_up(self, character: Character, in_time: float | None = None) -> float:
        """Do everything once that is slow the first time; returns the p95 of a step in milliseconds afterwards.

        The engine gives up slots until that is at most `in_time`. With a recorder the frame's parts are recorded and
        compared with the plain way. If they cannot be recorded, or differ, the listener gets a note and the plain way
        stays. Raises ModelError if what comes out are no numbers.
        """
        self._rehearsal = character
        with self._computing():
            self._warm_up(character)
            while (taken := self._step_time(character, in_time is not None)) > (in_time or taken) and self.slots > 1:
                self.slots = max(size for size in self.pipeline.sizes if size < self.slots)
            if self.model.generator.is_streamed:
                self._at_once = AT_ONCE  # the layers come over the bus for each piece
            elif self.slots > 1 or self.model.memory:
                self._at_once = self._positions_beside(taken)
            return taken

    @property
    def device_name(self) -> str:
        """The device as its maker calls it."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """What is launched inside goes to this engine's device, and its failures are explained."""
        with on_device(self.device), device_errors_explained():
            yield

    def _warm_up(self, character: Character) -> None:
        plain = self._rehearse_all(character)
        if not are_finite(plain):
            what = f"In {self.model.precision} this model's numbers overflow: its output is meaningless."
            raise ModelError(what, "Use another --precision; if that does not help, download the model again.")
        if self._recorder:
            self._listen(Note(self._record(self._recorder, character, plain)))

    def _step_time(self, character: Character, at_worst: bool) -> float:
        """The p95 in milliseconds of a step that is computed for all slots; `at_worst` each has talked for long."""
        last = self.slots - 1
        self._rehearse(character, last)
        for slot in range(self.slots) if at_worst else ():
            self.pipeline.skip_to(slot, self.context)
        replies = [self.pipeline.run({last: SILENT_FRAME})[last] for _ in range(WARM_UP_FRAMES)]
        for slot in range(self.slots):
            self.pipeline.leave(slot)
        totals = [reply.timings.total for reply in replies if isinstance(reply, Reply) and reply.timings]
        return float(np.percentile(totals, 95))

    @torch.inference_mode()
    def _positions_beside(self, step: float) -> int:
        """How many positions of a prompt can be read between two steps of so many milliseconds."""
        generator, count = self.model.generator, TIMED_POSITIONS
        prompt = torch.zeros(1, count, generator.lm.dim, dtype=generator.dtype, device=self.device)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            start = torch.zeros(1, dtype=torch.long, device=self.device)
            generator.read(prompt, start, generator.cache.of(0, generator.cache.span_for(count))).cpu()
            times.append(1000 * (time.perf_counter() - began))
        return min(AT_ONCE, max(FEWEST_POSITIONS, int(count * (ROUND_MS - step) / min(times))))

    def _read_on(self) -> Iterator[tuple[int, Event | Exception]]:
        if not self._reading:
            slot, character = next(iter(self._waiting.items()))
            del self._waiting[slot]
            self._reading[slot] = self._beginning(slot, character, self._at_once if self._talking else AT_ONCE)
            yield slot, State(Phase.PRIMING)
        for slot, beginning in list(self._reading.items()):
            began: Began | Exception
            try:
                with self._computing():
                    while True:
                        next(beginning)
                        if self._talking:
                            return  # they come first
            except StopIteration as end:
                began = end.value
                self._talking.add(slot)
            except (UsageError, ModelError) as error:  # what was asked for, not the model, is wrong
                began = error
            except Exception as error:
                self._check_health(slot)
                began = error
            self._reading.pop(slot, None)
            if isinstance(began, Began) and began.prompt_frames > LONG_PROMPT_FRAMES:
                taken, whole = (f"{frames * FRAME_SECONDS:.0f}" for frames in (began.prompt_frames, began.context))
                yield slot, Note(f"This prompt takes {taken} of the {whole} s that the model remembers: shorten it.")
            if isinstance(began, Began) and began.memory < self.model.memory:
                kept, wanted = (f"{frames * FRAME_SECONDS:.0f}" for frames in (began.memory, self.model.memory))
                fits = f"{kept} s of the talk, not {wanted}" if began.memory else "too little to renew its memory"
                yield slot, Note(f"With this prompt the model can keep {fits}.")
            yield slot, began

    def _begin(self, slot: int, character: Character) -> Began:
        """Start a conversation from nothing but the prompt, at once."""
        beginning = self._beginning(slot, character)
        while True:
            try:
                next(beginning)
            except StopIteration as end:
                began: Began = end.value
                return began

    @torch.inference_mode()
    def _beginning(self, slot: int, character: Character, at_once: int = AT_ONCE) -> "Beginning":
        """The same in pieces."""
        model, sampling = self.model, character.sampling
        if sampling.seed is None:
            sampling = replace(sampling, seed=fresh_seed())
        layout = yield from self._layout(character)
        layout.check_room(self.context)
        yield from self.pipeline.begin(slot, layout, sampling, at_once)
        if self._recorder and self.pipeline.recordings:
            self._record_missing(self._recorder)
        memory = self._renewals.begin(slot, layout)
        who = {"persona": character.persona, "prompt": character.prompt, "voice": character.voice}
        how = {"memory": model.memory * FRAME_SECONDS, "batch_size": self.slots}
        return Began(
            persona=character.persona,
            voice=character.voice,
            model=model.name,
            device=str(self.device),
            precision=model.precision,
            seed=sampling.seed,
            prompt_frames=layout.positions,
            context=self.context,
            memory=memory,
            settings={**model.settings, **who, **how, "sampling": asdict(sampling)},
        )

    def _layout(self, character: Character) -> Generator[None, None, Layout]:
        spec = self.model.spec
        if not spec.is_prompted:
            return no_prompt(spec)
        tokens = self.model.tokenizer.encode(system_text(character.prompt))
        voice = yield from self._voice(character.sound)
        return lay_out(voice, tokens, spec)

    def _voice(self, sound: Sound) -> Generator[None, None, Tensor | SavedVoice]:
        if isinstance(sound, str):
            sound = self.model.find_voice(sound)
        if isinstance(sound, Path):
            return load_saved_voice(sound, self.model.spec)
        for sample, heard in self._samples:  # a restart asks for the same sample again
            if sample is sound:
                return heard
        if isinstance(sound, OwnVoice):
            voice: Tensor | SavedVoice = yield from self._own_voices.voice(sound)
        else:
            voice = yield from self.model.codec.codes_of(sound)
        self._samples.append((sound, voice))
        return voice

    def _check_health(self, slot: int) -> None:
        """After an error the model must show in its slot that it is all right before it goes on. Raises if not."""
        if self._rehearsal:
            with self._computing():
                self._rehearse(self._rehearsal, slot)

    def _record(self, recorder: GraphRecorder, character: Character, plain: list[Scene]) -> str:
        """Record the frame's parts, if that changes nothing; returns a sentence about it."""
        steady = are_equal(plain, self._rehearse_all(character))
        began = time.perf_counter()
        try:
            self.pipeline.record(recorder)
            self.recording_seconds = time.perf_counter() - began
            recorded = self._rehearse_all(character)
            if are_equal(plain, recorded) if steady else begin_alike(plain, recorded):
                checked = "equal to the plain way" if steady else "like the plain way, as far as answers vary here"
                count = len(self.pipeline.recordings)
                return f"CUDA graphs: {count} recorded in {self.recording_seconds:.1f} s, {checked}."
            why: object = "they answered differently"
        except RuntimeError as error:  # torch.OutOfMemoryError is one of these, too
            why = error
        return self._without_recordings(why)

    def _record_missing(self, recorder: GraphRecorder) -> None:
        """Record what another top-k has in other shapes."""
        try:
            self.pipeline.record(recorder)
        except RuntimeError as error:
            self._listen(Note(self._without_recordings(error)))

    def _without_recordings(self, why: object) -> str:
        self.pipeline.recordings.clear()
        first_line = next(iter(str(why).splitlines()), type(why).__name__)
        return f"No CUDA graphs here ({first_line}): a frame takes several times as long as it could."

    def _rehearse_all(self, character: Character) -> list[Scene]:
        """All that is recorded: in each size of the batch all lengths of the ring, or one scene without a recorder."""
        every_length = self._recorder is not None
        sizes = self.pipeline.sizes if every_length else self.pipeline.sizes[:1]
        return [scene for size in sizes for scene in self._rehearse(character, size - 1, every_length)]

    def _rehearse(self, character: Character, slot: int, every_length: bool = False) -> list[Scene]:
        """Hold the beginning of a conversation in this slot, always the same."""
        seeded = replace(character, sampling=replace(character.sampling, seed=character.sampling.seed or 0))
        scenes = rehearse(self.pipeline, slot, lambda: self._begin(slot, seeded), every_length)
        self._renewals.end(slot)
        self.pipeline.leave(slot)
        return scenes


Beginning = Generator[None, None, Began]
