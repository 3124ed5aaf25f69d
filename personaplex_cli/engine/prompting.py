"""The prompt as the model reads it: columns of 17 tokens, one per position (80 ms).

A position has 17 rows: row 0 text, rows 1-8 the agent's Mimi codes, rows 9-16 the user's. Rows of delay 1 hold a frame
one position later than rows of delay 0. The prompt forces four stretches of frames: the voice, silence, the text (one
token a frame), silence. Knows nothing of how positions are run.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor

from personaplex_cli.errors import ModelError, UsageError
from personaplex_cli.files import check_is_model_file
from personaplex_cli.library.spec import AGENT, VOICE_BYTES, ModelSpec

UNKNOWN = -1  # a token that the conversation will bring
UNGENERATED = -2  # what the reference has in places of its cache that no token was written to yet; the least value
MAX_EMBEDDING = torch.finfo(torch.float16).max
SILENT_FRAMES = 6  # 0.5 s, between the stretches


@dataclass(frozen=True)
class SavedVoice:
    """A voice of n frames as the reference saves it.

    `embeddings` [n-1, dim]: summed input embeddings of positions 0..n-2.
    `cache` [17, places]: the last columns, position p in place p % places.
    """

    embeddings: Tensor
    cache: Tensor

    @property
    def last(self) -> Tensor:
        """The column [17] of the voice's last frame."""
        return self.cache[:, len(self.embeddings) % self.cache.shape[1]]

    @property
    def following(self) -> Tensor:
        """The column [17] after it, of which the delayed rows are known."""
        return self.cache[:, (len(self.embeddings) + 1) % self.cache.shape[1]]

    def is_possible(self, spec: ModelSpec) -> bool:
        """Whether all numbers are such as half precision can hold, and all tokens such as the model has."""
        delayed = torch.tensor(spec.delays) > 0
        used = torch.cat([self.last, self.following[delayed]])
        in_range = (self.cache >= UNGENERATED) & (self.cache <= torch.tensor(spec.initial)[:, None])
        sane = self.embeddings.abs() <= MAX_EMBEDDING  # NaN is not
        return bool(in_range.all() and (used >= 0).all() and sane.all())


@dataclass(frozen=True)
class Layout:
    """A prompt ready to be run: `embeddings` [e, dim] of positions 0..e-1 (None for e = 0), then `columns` [17, m].

    The last column is the first position after the prompt: only its delayed rows are known.
    """

    embeddings: Tensor | None
    columns: Tensor

    @property
    def positions(self) -> int:
        """How many positions the prompt fills."""
        return (0 if self.embeddings is None else len(self.embeddings)) + self.columns.shape[1] - 1

    def check_room(self, context: int) -> None:
        """Raise UsageError if the prompt leaves the model no room to talk."""
        if self.positions >= context:
            raise UsageError(
                f"The prompt takes {self.positions} frames and the model remembers {context}.",
                "Shorten the persona's text or the voice sample.",
            )


def system_text(text: str) -> str:
    """The persona's text between `<system>` tags, unless it has them; an empty text stays empty."""
    text = text.strip()
    if not text or (text.startswith("<system>") and text.endswith("<system>") and len(text) > len("<system>")):
        return text
    return f"<system> {text} <system>"


def lay_out(voice: Tensor | SavedVoice, text_tokens: Sequence[int], spec: ModelSpec) -> Layout:
    """The whole prompt. `voice` is Mimi codes [8, n] or a saved voice; `text_tokens` include the tags' tokens."""
    spoken = _frames(text_tokens, spec)
    if isinstance(voice, SavedVoice):
        columns = _columns(spoken, len(voice.embeddings) + 1, spec)
        columns[:, 0] = torch.where(columns[:, 0] == UNKNOWN, voice.following, columns[:, 0])
        return Layout(voice.embeddings, torch.cat([voice.last[:, None], columns], dim=1))
    return Layout(None, _columns(torch.cat([_voice_frames(voice, spec), spoken], dim=1), 0, spec))


def voice_columns(codes: Tensor, spec: ModelSpec) -> Tensor:
    """The columns [17, n + 1] of a voice's Mimi codes [8, n]; of the last one only the delayed rows are known."""
    return _columns(_voice_frames(codes, spec), 0, spec)


def no_prompt(spec: ModelSpec) -> Layout:
    """How a model begins that takes none: with a frame that it never sees, since initial tokens stand in its place."""
    return Layout(None, _columns(_frames([spec.padding], spec, pauses=False), 0, spec))


def load_saved_voice(path: Path, spec: ModelSpec) -> SavedVoice:
    """A voice from a `.pt` file, on the CPU. Raises ModelError if it is damaged or made for another model.

    The file may come from anyone. It is mapped, not read, until what it claims is known to be true: two kilobytes can
    describe a tensor of gigabytes, whose frames are all the same piece of memory.
    """
    check_is_model_file(path)
    try:
        _check_archive(path)
        with warnings.catch_warnings(action="ignore"):  # torch's own words about what is refused below
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        embeddings, cache = (saved[name].detach() for name in ("embeddings", "cache"))
        frames = len(embeddings) + 1
        fits = (
            frames >= 2
            and tuple(embeddings.shape) == (frames - 1, 1, 1, spec.lm["dim"])
            and embeddings.dtype in (torch.float32, torch.bfloat16, torch.float16)
            and tuple(cache.shape) == (1, len(spec.delays), max(spec.delays) + 3)
            and cache.dtype in (torch.int64, torch.int32)
            and embeddings.is_contiguous()
        )
        if fits and frames < spec.lm["context"]:
            voice = SavedVoice(embeddings[:, 0, 0].resolve_neg().clone(), cache[0].long())
            fits = voice.is_possible(spec)
    except Exception as error:  # torch.load raises many kinds for a file that is not what it should be
        raise ModelError(f"{path} is not a voice file.", "Remove it and download the voices again.") from error
    if not fits:
        raise ModelError(f"The voice {path} was made for another model.", "Use a voice of this model, or a wav file.")
    if frames >= spec.lm["context"]:
        what = f"The voice {path} is {frames} frames long, and the model remembers {spec.lm['context']}."
        raise ModelError(what, "Use a shorter one: ten seconds, 125 frames, are enough.")
    return voice


def _check_archive(path: Path) -> None:
    """Raise ValueError if reading this file could take more memory than it has bytes, or has too many of them."""
    if path.stat().st_size <= VOICE_BYTES:
        with ZipFile(path) as archive:
            if all(record.compress_type == ZIP_STORED for record in archive.infolist()):
                return
    raise ValueError("it is too long or compressed")


def _voice_frames(codes: Tensor, spec: ModelSpec) -> Tensor:
    frames = _frames([spec.padding] * codes.shape[1], spec, pauses=False)
    frames[AGENT] = codes
    return frames


def _frames(text_tokens: Sequence[int], spec: ModelSpec, pauses: bool = True) -> Tensor:
    """Frames [17, n], one per text token, in which the agent is silent and the user is the tone."""
    pause = [spec.padding] * (SILENT_FRAMES if pauses else 0)
    # An empty text has no stretch of its own, but both silences remain.
    text = torch.tensor([*pause, *text_tokens, *pause], dtype=torch.long)
    codes = (torch.tensor(each)[:, None].expand(-1, len(text)) for each in (spec.silence, spec.tone))
    return torch.cat([text[None], *codes])


def _columns(frames: Tensor, start: int, spec: ModelSpec) -> Tensor:
    """Frames [17, n], the first of which is frame `start`, moved by the rows' delays: columns [17, n + 1]."""
    count = frames.shape[1]
    columns = torch.full((len(spec.delays), count + 1), UNKNOWN, dtype=torch.long)
    for row, (delay, initial) in enumerate(zip(spec.delays, spec.initial, strict=True)):
        columns[row, delay : delay + count] = frames[row]
        columns[row, : max(0, delay + 1 - start)] = initial
    return columns
