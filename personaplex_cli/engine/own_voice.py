"""A voice of the user's own, as `.pt`: made by the model that first speaks with it, in the reference's format.

Both come from one sample: what is said after the `.pt` and after the sample is the same, token for token. With the file
neither the codec has to hear the sample again, nor the reference to be given it.
"""

import hashlib
import io
import re
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from personaplex_cli.character import OwnVoice
from personaplex_cli.engine.mimi import MimiCodec
from personaplex_cli.engine.prompting import UNGENERATED, UNKNOWN, SavedVoice, load_saved_voice, voice_columns
from personaplex_cli.errors import ModelError
from personaplex_cli.files import atomic_path, keep_newest
from personaplex_cli.library.spec import ModelSpec

Embed = Callable[[Tensor], Tensor]  # columns [17, t] -> their embeddings [1, t, dim]
KEPT = 4  # of one voice: as many models, revisions and precisions


class VoiceMaker:
    """Makes the `.pt` files of one model. `model` names it, `revision` is whatever makes a difference to them."""

    def __init__(
        self,
        codec: MimiCodec,
        embed: Embed,
        spec: ModelSpec,
        model: str,
        revision: str,
    ) -> None:
        self._codec = codec
        self._embed = embed
        self._spec = spec
        self._model = re.sub(r"[^\w.-]+", "-", model.rpartition("/")[2])
        self._revision = revision

    def voice(self, own: OwnVoice) -> Generator[None, None, SavedVoice]:
        """The voice, out of the file in its folder, or made now and put there. Yields every few frames.

        A file that is damaged is made anew; where none can be written the voice speaks all the same.
        """
        path = own.folder / self.file_name(own)
        with suppress(ModelError):
            return load_saved_voice(path, self._spec)
        codes = yield from self._codec.codes_of(own.sample)
        voice = saved_voice(codes, self._embed, self._spec)
        if own.folder.is_dir():  # it may have been removed meanwhile, or be on another machine
            with suppress(OSError):
                save_voice(voice, path)
                keep_newest(own.folder.glob("*.pt"), KEPT)
        return voice

    def file_name(self, own: OwnVoice) -> str:
        """It changes with the sample and with the model."""
        digest = hashlib.sha256(self._revision.encode() + own.sample.tobytes()).hexdigest()
        return f"{self._model}-{digest[:16]}.pt"


def saved_voice(codes: Tensor, embed: Embed, spec: ModelSpec) -> SavedVoice:
    """Mimi codes [8, n] of a sample as the reference saves them, which reads them frame by frame.

    Its cache is a ring: a place keeps what an earlier position left there until it is written again.
    """
    columns = voice_columns(codes, spec)
    cache = torch.full((len(spec.delays), max(spec.delays) + 3), UNGENERATED)
    for position, column in enumerate(columns.T):
        place = position % cache.shape[1]
        cache[:, place] = torch.where(column == UNKNOWN, cache[:, place], column)
    return SavedVoice(embed(columns[:, : codes.shape[1] - 1])[0], cache)


def save_voice(voice: SavedVoice, path: Path) -> None:
    """Write a `.pt` file that only its owner can read. Raises OSError."""
    content = io.BytesIO()  # for a full disk torch has an error of its own
    torch.save({"embeddings": voice.embeddings[:, None, None].contiguous(), "cache": voice.cache[None]}, content)
    with atomic_path(path) as partial:
        partial.touch(0o600)
        partial.write_bytes(content.getvalue())
