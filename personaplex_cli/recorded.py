"""A talk that was recorded, read again: what the recorder wrote, also before it kept tokens and events.

A recording may be a stranger's, or cut off by a crash: what does not make sense is refused with a sentence.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from personaplex_cli.audio.recording import read_recording, shown
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.events import Began, Event, Hushed, Muted, Renewed, Transcribing, UserWords
from personaplex_cli.recorder import SOUND, TOKENS, TOKENS_A_FRAME, TRANSCRIPTS
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SOUND_SUFFIXES, Samples, frames_for
from personaplex_cli.transcript import AGENT, USER, Word

MAX_TRANSCRIPT = 10**8  # bytes
MAX_SECONDS = 10**6
MAX_DEPTH = 12
STEMS = {Path(name).stem for name in (SOUND, TOKENS, *TRANSCRIPTS)}  # of the files of a talk
KINDS: Mapping[str, type[Any]] = {kind.__name__.lower(): kind for kind in (Began, Hushed, Muted, Renewed, Transcribing)}


@dataclass(frozen=True)
class RecordedTalk:
    """What was heard and said, [n] of equal length in whole frames; words; events, each with the frame before which it
    came, of which one before the first frame is `Began`; tokens [frames, 17], None if there are none. `about` is what
    transcript.json has."""

    name: str
    heard: Samples
    said: Samples
    words: Sequence[Word]
    events: Sequence[tuple[int, Event]]
    tokens: NDArray[np.int32] | None
    about: bytes = b"{}"

    @property
    def frames(self) -> int:
        return len(self.heard) // FRAME

    @property
    def text(self) -> str:
        """All that the agent said."""
        return " ".join(word.word for word in self.words if word.speaker != USER)

    def happened(self) -> list[tuple[int, Event]]:
        """The events, and the user's words, each when it was spoken; they count frames from where it last began."""
        begins = [frame for frame, event in self.events if isinstance(event, Began)]
        happened = list(self.events)
        for word in self.words:
            if word.speaker == USER:
                start, end = (round(second / FRAME_SECONDS) for second in (word.start, word.end))
                since = max((begin for begin in begins if begin <= end), default=0)
                happened.append((end, UserWords(f" {word.word}", start - since, end - since)))
        return sorted(happened, key=lambda each: each[0])


def read_talk(place: Path) -> RecordedTalk:
    """The recording in this folder, or with this file, or the only one in the folders in it. Raises UsageError if there
    is none, AudioError for a broken one."""
    sound = _sound_of(place)
    folder = sound.parent
    heard, said = (read_recording(sound, side) for side in ("left", "right"))
    count = FRAME * frames_for(max(len(heard), len(said)))
    about, contents = _about(folder / TRANSCRIPTS[0])
    heard, said = (np.pad(side, (0, count - len(side))) for side in (heard, said))
    return RecordedTalk(folder.name, heard, said, _words(about), _events(about), _tokens(folder / TOKENS), contents)


def _sound_of(place: Path) -> Path:
    hint = "Name a folder that --record has made, or `example`."
    is_file = place.is_file()
    folder = place.parent if is_file else place
    sounds = [path for path in (folder / SOUND, *folder.glob(f"{Path(SOUND).stem}.*")) if _is_sound(path)]
    if is_file and not (sounds and place.stem in STEMS):
        raise UsageError(f"{shown(place)} is not a recorded talk.", hint)
    if sounds:
        return sounds[0]
    talks = sorted(filter(_is_sound, folder.glob(f"*/{SOUND}")))
    if not talks:
        raise UsageError(f"There is no recorded talk in {shown(folder)}.", hint)
    if len(talks) > 1:
        example = shown(talks[-1].parent)
        raise UsageError(f"{shown(folder)} has several talks.", f"Name one of them, such as {example}.")
    return talks[0]


def _is_sound(path: Path) -> bool:
    return path.suffix.lower() in SOUND_SUFFIXES and path.is_file()


def _about(path: Path) -> tuple[dict[str, Any], bytes]:
    """What transcript.json has, and its bytes; nothing if it is no file."""
    if not path.is_file():  # a pipe would keep the reader waiting
        return {}, b"{}"
    try:
        if path.stat().st_size > MAX_TRANSCRIPT:
            raise ValueError("it is too large")
        about = json.loads(contents := path.read_bytes())
        if not isinstance(about, dict):
            raise TypeError("it is no object")
        if _is_deep([about.get("settings"), about.get("events")]):  # events are copied level by level
            raise ValueError("it is nested too deeply")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise AudioError(f"{shown(path)} is not a valid transcript: {error}.", "Copy the recording again.") from error
    return about, contents


def _is_deep(values: list[Any]) -> bool:
    """Whether what is in these is nested deeper than in any recording of ours."""
    for _ in range(MAX_DEPTH):
        values = [inner for each in values if isinstance(each, dict | list) for inner in _inside(each)]
    return bool(values)


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _words(about: Mapping[str, Any]) -> list[Word]:
    """Its words in the order of time; what is no word is left out."""
    words = []
    for each in _list(about.get("words")):
        match each:
            case {"word": str(word), "start": int() | float() as start, "end": int() | float() as end}:
                if word.strip() and 0 <= start <= end < MAX_SECONDS:
                    words.append(Word(word.strip(), start, end, USER if each.get("speaker") == USER else AGENT))
    return sorted(words, key=lambda word: word.start)


def _events(about: Mapping[str, Any]) -> list[tuple[int, Event]]:
    """Its events in the order of time; those of older recordings are where it began, by seconds."""
    events: list[tuple[int, Event]] = []
    for each in _list(about.get("events")):
        match each:
            case {"frame": int(frame), "event": str(kind)} if kind in KINDS and 0 <= frame < MAX_SECONDS:
                events += [(frame, event)] if (event := _event(KINDS[kind], each)) else []
    if not any(isinstance(event, Began) and not frame for frame, event in events):
        settings = about.get("settings")
        began = _began(settings if isinstance(settings, dict) else {})
        seconds = [each for each in _list(about.get("restarts")) if isinstance(each, int | float)]
        again = [round(each / FRAME_SECONDS) for each in seconds if math.isfinite(each) and 0 < each < MAX_SECONDS]
        events += [(frame, began) for frame in (0, *again)]
    return sorted(events, key=lambda each: each[0])


def _event(kind: type[Any], values: Mapping[str, Any]) -> Event | None:
    """The event in its JSON; None if there are not all of its fields, or their values have other types."""
    types = {name: dict if get_origin(hint) is Mapping else hint for name, hint in get_type_hints(kind).items()}
    own = {name: values[name] for name in types if name in values}
    if not all(isinstance(value, types[name]) for name, value in own.items()):
        return None
    try:
        event: Event = kind(**own)
    except TypeError:
        return None
    return event


def _began(settings: Mapping[str, Any]) -> Began:
    """What is known of a talk by its settings alone."""
    sampling = settings.get("sampling")
    seed = sampling.get("seed") if isinstance(sampling, dict) else None
    persona, voice, model, device, precision = (
        str(settings.get(name, "")) for name in ("persona", "voice", "model", "device", "precision")
    )
    return Began(persona, voice, model, device, precision, seed if isinstance(seed, int) else None, 0, 0, settings)


def _tokens(path: Path) -> NDArray[np.int32] | None:
    if not path.is_file():
        return None
    try:
        tokens = np.load(path, allow_pickle=False)
        if tokens.ndim != 2 or tokens.shape[1] != TOKENS_A_FRAME or tokens.dtype.kind != "i":
            raise ValueError(f"not [frames, {TOKENS_A_FRAME}]")
    except Exception as error:  # numpy raises many kinds for a header that is none
        raise AudioError(
            f"{shown(path)} holds no tokens: {error}.", "Remove it, or copy the recording again."
        ) from error
    return np.asarray(tokens, dtype=np.int32)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
