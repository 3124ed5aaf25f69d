"""From what the user chose to what is needed to talk: a loaded engine, a prompt. The same for every program.

torch is imported here and not before: looking at help or lists must be quick.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from personaplex_cli.audio.recording import read_voice_sample
from personaplex_cli.errors import UsageError
from personaplex_cli.events import Listener, Note, State
from personaplex_cli.library import weights
from personaplex_cli.library.catalog import Persona, Voice, find_persona, find_voice
from personaplex_cli.library.weights import DEMO, ModelFiles
from personaplex_cli.prompt import Prompt, Sampling
from personaplex_cli.samples import FRAME_SECONDS, SAMPLE_RATE, Samples

if TYPE_CHECKING:
    from personaplex_cli.model.engine import Engine

LONG_PROMPT_FRAMES = 500  # 40 s: a voice of ten seconds, and a text of more than 300 tokens


@dataclass(frozen=True)
class Machine:
    """Which model runs where: the values of --model, --revision, --device, --precision and --cpu-offload."""

    model: str
    revision: str | None
    device: str
    precision: str
    cpu_offload: bool


@dataclass(frozen=True)
class Character:
    """Who speaks and how: what --persona, --prompt, --voice and the sampling options came to."""

    persona: Persona
    text: str
    voice: Voice
    sample: Samples | None  # what the voice is a recording of; None for a saved voice
    sampling: Sampling

    def note(self) -> Note:
        """What will make the talk, in a sentence."""
        return Note(f"{self.persona.name} with the voice {self.voice.name}, seed {self.sampling.seed}.")

    def prompt(self, files: ModelFiles) -> Prompt:
        """The prompt for a model. Raises UsageError or ModelError for a voice that the model has not."""
        if self.sample is not None:
            return Prompt(self.text, self.sample, self.sampling)
        return Prompt(self.text, self.voice.path or weights.voice_file(files, self.voice.file), self.sampling)


def choose_character(persona: str, text: str | None, voice: str | None, sampling: Sampling) -> Character:
    """Look everything up and read it, before a model is loaded. `text` replaces the persona's prompt, `@FILE` reads it.

    Without a voice the persona's own is taken. Raises UsageError for unknown names, AudioError for a voice sample.
    """
    who = find_persona(persona)
    sound = find_voice(voice or who.voice)
    recorded = sound.path is not None and sound.path.suffix.lower() != ".pt"
    return Character(
        persona=who,
        text=who.prompt if text is None else _text(text),
        voice=sound,
        sample=read_voice_sample(sound.path) if recorded and sound.path else None,
        sampling=sampling,
    )


def fresh_seed() -> int:
    """A seed for a talk that nobody asked to be repeatable; it is told, so that it can be."""
    return secrets.randbelow(2**31)


def find_files(model: str, revision: str | None, listen: Listener) -> ModelFiles:
    """The files of `demo`, a folder or a Hugging Face repository, downloaded if they are not here yet."""
    if model == DEMO:
        from personaplex_cli.model.demo import demo_files

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
    from personaplex_cli.model.load import Demand, load_engine

    return load_engine(files, Demand(machine.device, machine.precision, machine.cpu_offload), listen), files


def random_start(character: Character, device: str, precision: str, listen: Listener) -> "tuple[Engine, Prompt]":
    """An engine of the real sizes that needs no files, and a prompt for it with a second of noise as the voice."""
    listen(State("loading", "random weights"))
    from personaplex_cli.model.load import Demand, random_engine

    noise = np.random.default_rng(0).normal(0.0, 0.1, SAMPLE_RATE).astype(np.float32)
    return random_engine(Demand(device, precision), listen), Prompt(character.text, noise, character.sampling)


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
        "prompt": character.text,
        "voice": character.voice.name,
        "sampling": vars(character.sampling).copy(),
    }
