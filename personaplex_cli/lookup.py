"""From what the user chose to what is needed to talk: a loaded engine, a prompt. The same for every program.

torch is imported here and not before: looking at help or lists must be quick.
"""

import gc
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from personaplex_cli.audio.recording import read_voice_sample
from personaplex_cli.character import Prompt, Sampling
from personaplex_cli.errors import UsageError
from personaplex_cli.events import Began, Listener, Note, State
from personaplex_cli.library import weights
from personaplex_cli.library.catalog import Persona, Voice, find_named_voice, find_persona, find_voice
from personaplex_cli.library.weights import DEMO, ModelFiles
from personaplex_cli.samples import FRAME_SECONDS, SAMPLE_RATE, Samples

if TYPE_CHECKING:
    from personaplex_cli.engine.engine import Engine, Reply
    from personaplex_cli.loader.load import Demand

OWN_WORDS = "own words"  # the name of a persona that the user has written
LONG_PROMPT_FRAMES = 500  # 40 s: a voice of ten seconds, and a text of more than 300 tokens


@dataclass(frozen=True)
class Machine:
    """Which model runs where: the values of --model, --revision, --device, --precision and --cpu-offload.

    With `live`, what is bound to be slower than speech is refused.
    """

    model: str
    revision: str | None
    device: str
    precision: str
    cpu_offload: bool
    live: bool = False

    @property
    def model_name(self) -> str:
        """The model as strangers may see it: of a folder here, only the last part."""
        folder = Path(self.model).expanduser()
        return folder.resolve().name if folder.is_dir() else self.model


@dataclass(frozen=True)
class Character:
    """Who speaks and how: what --persona, --prompt, --voice and the sampling options came to."""

    persona: Persona
    voice: Voice
    sample: Samples | None  # what the voice is a recording of; None for a saved voice
    sampling: Sampling

    def prompt(self, files: ModelFiles) -> Prompt:
        """The prompt for a model. Raises UsageError or ModelError for a voice that the model has not."""
        if self.sample is not None:
            return Prompt(self.persona.prompt, self.sample, self.sampling)
        voice = self.voice.path or weights.voice_file(files, self.voice.file)
        return Prompt(self.persona.prompt, voice, self.sampling)


def choose_character(persona: str, text: str | None, voice: str | None, sampling: Sampling) -> Character:
    """Look everything up and read it, before a model is loaded. `text` replaces the persona's prompt, `@FILE` reads it.

    Without a voice the persona's own is taken. Raises UsageError for unknown names, AudioError for a voice sample.
    """
    who = find_persona(persona)
    return _character(who, None if text is None else _text(text), find_voice(voice or who.voice), sampling)


def choose_by_name(
    persona: str, text: str | None, voice: str | None, own_voice: str | None, sampling: Sampling
) -> Character:
    """The same for somebody who may not look around on this machine: names only, no paths, and text is text.

    Without a voice `own_voice` is taken, a name or a path, and without that the persona's.
    """
    who = find_persona(persona)
    sound = find_named_voice(voice) if voice else find_voice(own_voice or who.voice)
    return _character(who, text, sound, sampling)


def _character(who: Persona, text: str | None, voice: Voice, sampling: Sampling) -> Character:
    if text is not None and text.strip() != who.prompt.strip():
        who = replace(who, name=OWN_WORDS, prompt=text)  # not whom the catalog calls by that name
    recorded = voice.path is not None and voice.path.suffix.lower() != ".pt"
    sample = read_voice_sample(voice.path) if recorded and voice.path else None
    return Character(who, voice, sample, sampling)


class LocalAgent:
    """The model on this machine, as the `Agent` of a conversation.

    `start` raises ModelError, NetworkError, DeviceError or UsageError.
    """

    def __init__(self, machine: Machine, character: Character, listen: Listener) -> None:
        self._machine = machine
        self._character = character
        self._listen = listen

    def start(self) -> None:
        self._engine, self._files = start_engine(self._machine, self._listen)
        self._prompt = self._character.prompt(self._files)

    def warm_up(self) -> None:
        self._listen(State("warming up"))
        slow = self._engine.warm_up(self._prompt, self._listen)
        if slow > 1000 * FRAME_SECONDS:
            self._listen(Note(f"A frame takes {slow:.0f} ms here, more than its 80 ms: speech will break up."))
        # What is loaded stays: looking through all of it for garbage would take longer than a frame.
        gc.collect()
        gc.freeze()

    def begin(self) -> Began:
        self._listen(State("priming"))
        frames = self._engine.begin(self._prompt)
        if note := long_prompt(frames, self._engine):
            self._listen(note)
        return Began(
            persona=self._character.persona.name,
            voice=self._character.voice.name,
            model=self._files.name,
            device=str(self._engine.device),
            precision=self._engine.precision,
            seed=self._character.sampling.seed,
            prompt_frames=frames,
            context=self._engine.context,
        )

    @property
    def settings(self) -> dict[str, Any]:
        return describe(self._machine, self._character, self._engine, self._files)

    def speaking_as(self, character: Character, listen: Listener) -> "LocalAgent":
        """The same loaded model for another conversation. Raises UsageError or ModelError for a voice it has not."""
        other = LocalAgent(self._machine, character, listen)
        other._engine, other._files = self._engine, self._files
        other._prompt = character.prompt(self._files)
        return other

    def step(self, frame: Samples) -> "Reply":
        return self._engine.step(frame)

    def hush(self) -> None:
        self._engine.hush()

    @property
    def hushed(self) -> bool:
        return self._engine.hushed

    def close(self) -> None:
        """Nothing to do: a model that loads or computes hears nothing."""


def fresh_seed() -> int:
    """A seed for a talk that nobody asked to be repeatable; it is told, so that it can be."""
    return secrets.randbelow(2**31)


def find_files(model: str, revision: str | None, listen: Listener) -> ModelFiles:
    """The files of `demo`, a folder or a Hugging Face repository, downloaded if they are not here yet."""
    if model == DEMO:
        from personaplex_cli.loader.demo import demo_files

        return demo_files(listen)
    folder = Path(model).expanduser()
    if folder.is_dir() or model.startswith((".", "/", "~")):
        return weights.open_folder(folder)
    if here := weights.cached(model, revision):
        return here
    listen(State("downloading", model))
    return weights.download(model, revision, listen)


def start_engine(machine: Machine, listen: Listener) -> "tuple[Engine, ModelFiles]":
    """Find the model and load it. Raises ModelError, NetworkError, DeviceError or UsageError."""
    files = find_files(machine.model, machine.revision, listen)
    listen(State("loading", files.name))
    from personaplex_cli.loader.load import load_engine

    return load_engine(files, _demand(machine), listen), files


def random_start(machine: Machine, character: Character, listen: Listener) -> "tuple[Engine, Prompt]":
    """An engine of the real sizes that needs no files, and a prompt for it with a second of noise as the voice."""
    listen(State("loading", "random weights"))
    from personaplex_cli.loader.load import random_engine

    noise = np.random.default_rng(0).normal(0.0, 0.1, SAMPLE_RATE).astype(np.float32)
    return random_engine(_demand(machine), listen), Prompt(character.persona.prompt, noise, character.sampling)


def _demand(machine: Machine) -> "Demand":
    from personaplex_cli.loader.load import Demand

    return Demand(machine.device, machine.precision, machine.cpu_offload, machine.live)


def long_prompt(frames: int, engine: "Engine") -> Note | None:
    """A warning about a prompt that leaves the model little to remember of the talk; None for a usual one."""
    if frames <= LONG_PROMPT_FRAMES:
        return None
    seconds, whole = frames * FRAME_SECONDS, engine.context * FRAME_SECONDS
    return Note(f"This prompt takes {seconds:.0f} of the {whole:.0f} seconds that the model remembers: shorten it.")


def _text(text: str) -> str:
    if not text.startswith("@"):
        return text
    path = Path(text[1:]).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The prompt file {path} cannot be read.", "Give --prompt @FILE with a text file.") from error


def describe(machine: Machine, character: Character, engine: "Engine", files: ModelFiles) -> dict[str, Any]:
    """All settings of a conversation as plain values, enough to hold it again."""
    return {
        "model": machine.model,
        "revision": files.revision,
        "device": str(engine.device),
        "precision": engine.precision,
        "cpu_offload": machine.cpu_offload,
        "persona": character.persona.name,
        "prompt": character.persona.prompt,
        "voice": character.voice.name,
        "sampling": vars(character.sampling).copy(),
    }
