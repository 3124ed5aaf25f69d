"""How much of a model's memory a prompt takes, counted without loading the model: its tokenizer and voices will do."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from personaplex_cli.character import Character, OwnVoice, Sound
from personaplex_cli.engine.prompting import SavedVoice, lay_out, load_saved_voice, no_prompt, system_text
from personaplex_cli.events import Listener, Note, ignore
from personaplex_cli.library import weights
from personaplex_cli.library.spec import CODEBOOKS
from personaplex_cli.library.weights import ModelFiles, voice_file
from personaplex_cli.loader.checkpoint import load_tokenizer
from personaplex_cli.loader.demo import demo_files
from personaplex_cli.loader.find import find_files
from personaplex_cli.options import DEMO
from personaplex_cli.samples import frames_for


@dataclass(frozen=True)
class PromptSize:
    """The tokens of a prompt's text, its tags included; the frames of its voice, of all of it, and of the memory."""

    tokens: int
    voice_frames: int
    frames: int
    context: int


class PromptScale:
    """Counts as one model does."""

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        self._tokenizer = load_tokenizer(files.tokenizer, files.spec.lm["text_card"])

    def size(self, character: Character) -> PromptSize:
        """Raises UsageError for a voice that the model does not have, ModelError for one that does not fit it."""
        spec = self._files.spec
        context: int = spec.lm["context"]
        if not spec.is_prompted:
            return PromptSize(0, 0, no_prompt(spec).positions, context)
        tokens = self._tokenizer.encode(system_text(character.prompt))
        voice = self._voice(character.sound)
        frames = len(voice.embeddings) + 1 if isinstance(voice, SavedVoice) else voice.shape[1]
        return PromptSize(len(tokens), frames, lay_out(voice, tokens, spec).positions, context)

    def _voice(self, sound: Sound) -> SavedVoice | Tensor:
        """The voice, or codes of the same length."""
        if isinstance(sound, str):
            sound = voice_file(self._files, sound)
        if isinstance(sound, Path):
            return load_saved_voice(sound, self._files.spec)
        sample = sound.sample if isinstance(sound, OwnVoice) else sound
        return torch.zeros(CODEBOOKS, frames_for(len(sample)), dtype=torch.long)


def scale_of(model: str, revision: str | None, listen: Listener = ignore) -> PromptScale:
    """That of a model as far as it is here, else the demo's; `listen` gets a note that says which.

    Raises ModelError for files that are damaged, UsageError for what is no name of a model.
    """
    if model == DEMO or weights.is_folder(model) or weights.cached(model, revision):
        listen(Note(f"Counted with the tokenizer and the voices of {model}."))
        return PromptScale(find_files(model, revision, ignore))
    listen(Note(f"Counted with the demo's tokenizer and voices, as {model} is not here: it may need fewer tokens."))
    return PromptScale(demo_files(ignore))
