"""The program behind `personaplex replay` with other settings: the same user's sound, heard by a model again.

The talk is held as it was, restarts and hushes included, in the frames in which they came. What comes of it is a
recording like the first one, with the old answer beside it and a page about both.

    FOLDER/2026-01-31_14-05-09/  what --record writes  before.wav  before.json  comparison.html
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from personaplex_cli.audio.recording import shown, write_wav
from personaplex_cli.character import Character
from personaplex_cli.conversation import Conversation, Engine, converse_all
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.events import (
    Began,
    Ended,
    Event,
    Finished,
    Hushed,
    Listener,
    Note,
    Recording,
    Started,
    Step,
    Transcribing,
    UserWords,
)
from personaplex_cli.files import atomic_file, scratch_folder, writing
from personaplex_cli.lookup import find_recorded_character
from personaplex_cli.options import DEFAULT_MODEL, DEMO, LiveModelOptions, ModelOptions
from personaplex_cli.programs.comparison import page
from personaplex_cli.recorded import RecordedTalk, read_talk
from personaplex_cli.recorder import SOUND, Recorder, new_folder
from personaplex_cli.samples import FRAME_SECONDS, Samples, frame_at
from personaplex_cli.transcript import AGENT, USER, as_bytes, clock

KNOWN_MODELS = (DEMO, DEFAULT_MODEL)
SETTINGS = ("persona", "prompt", "voice", "model", "sampling")  # which make the same tokens
COMPARISON = "comparison.html"
COMMIT = "[0-9a-f]{40}"


class Again:
    """The user of a recorded talk as the audio of a conversation, who also begins again and wants silence as then, and
    whose words are known, if they were.

    `characters` says who begins, by frames. `hear` the events of the conversation.
    """

    def __init__(self, talk: RecordedTalk, characters: Mapping[int, Character]) -> None:
        self._talk = talk
        self._characters = characters
        hushed = {frame: event.on for frame, event in talk.events if isinstance(event, Hushed)}  # the last one counts
        self._hushes = {frame for frame, on in hushed.items() if on}
        self._words = deque(each for each in talk.happened() if isinstance(each[1], UserWords | Transcribing))
        self._next = 0  # frame

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples]:
        while self._next < self._talk.frames:
            self._next += 1
            yield frame_at(self._talk.heard, self._next - 1)

    def play(self, pcm: Samples) -> None:
        """The recorder around it keeps what is said."""

    def hear(self, event: Event, conversation: Conversation) -> None:
        """Do before the next frame what was done then."""
        begins = isinstance(event, Began) and not self._next
        if not begins and not isinstance(event, Step):
            return
        if not begins and self._next in self._characters:
            conversation.restart(self._characters[self._next])
        if self._next in self._hushes:
            conversation.hush()

    def words(self, event: Event) -> Iterator[Event]:
        """What was known of the user's words by now, after this event; all of it at the end."""
        known = inf if isinstance(event, Ended) else self._next
        if self._next in self._characters and not isinstance(event, Began | Ended):
            return  # what is known by then counts from where it begins again
        while self._words and self._words[0][0] <= known:
            yield self._words.popleft()[1]


def characters(talk: RecordedTalk, changes: Mapping[str, Any]) -> dict[int, Character]:
    """Who begins in which frame: as it was, but for the changes. Raises UsageError and AudioError."""
    begun = {frame: event for frame, event in talk.events if isinstance(event, Began)}
    return {frame: find_recorded_character(began.settings, changes) for frame, began in begun.items()}


def model_options(talk: RecordedTalk, changes: Mapping[str, Any]) -> LiveModelOptions:
    """The model as it was, but for the changes; on the device that is best here, if none is named.

    A recording may be a stranger's: a model that is not ours is only taken if the user names it. Raises UsageError.
    """
    settings = next(event.settings for _, event in talk.events if isinstance(event, Began))
    model, memory = settings.get("model"), settings.get("memory")
    if "model" not in changes and model not in KNOWN_MODELS:
        named = f"the model {shown(str(model))!r}" if model else "a model that it does not name"
        raise UsageError(f"This talk was held with {named}.", "Name the model that is to answer: --model.")
    values: dict[str, Any] = {"force": True, "renew": False}
    if isinstance(memory, int | float) and memory > 0:
        values |= {"renew": True, "memory": float(memory)}
    if changes.get("model", model) == model:
        kept = {"model": str, "precision": str, "cpu_offload": bool}
        values |= {name: settings[name] for name, kind in kept.items() if isinstance(settings.get(name), kind)}
        if re.fullmatch(COMMIT, str(settings.get("revision"))):
            values["revision"] = settings["revision"]
    own = {each.name for each in fields(ModelOptions)}
    return LiveModelOptions(**(values | {name: value for name, value in changes.items() if name in own}))


def hold_again(engine: Engine, talk: RecordedTalk, who: Mapping[int, Character], out: Path, listen: Listener) -> Path:
    """Hold the talk again and write what came of it; returns the folder, which appears in `out` when it is whole.

    With the same settings a Note says whether the tokens are equal. Raises what ends the conversation, and AudioError
    for what cannot be written; nothing of it is kept then.
    """
    with _beside(out, listen) as scratch:
        recorder, took = _record(engine, talk, who, scratch, listen)
        if recorder.folder is None:
            raise AudioError(f"The talk {talk.name} has no sound.", "Record it again.")
        held = read_talk(recorder.folder)
        summary = [_verdict(talk, held)] if _same_settings(talk, held) else []
        for sentence in summary:
            listen(Note(sentence))
        _write_beside(recorder.folder, talk, page(talk, held, summary))
        folder = new_folder(out, recorder.folder.name)
        folder.rmdir()  # the name is ours; Windows moves nothing to where something is
        recorder.folder.rename(folder)
    files = tuple(str(folder / name) for name in (SOUND, COMPARISON))
    seconds = talk.frames * FRAME_SECONDS
    turns = tuple(_turns(recorder, held))
    listen(Finished(talk.name, files, round(seconds, 2), round(seconds / max(took, 1e-9), 2), held.text, turns))
    return folder


def _record(
    engine: Engine, talk: RecordedTalk, who: Mapping[int, Character], place: Path, listen: Listener
) -> tuple[Recorder, float]:
    """Hold the talk again, and record it in this folder; returns the recorder, closed, and the seconds it took."""
    failures: list[AudioError] = []

    def tell(event: Event) -> None:
        if not isinstance(event, Recording):  # its folder is none that stays
            listen(event)
        elif not event.folder:
            failures.append(AudioError("The new answer cannot be written.", "Make room, or choose another folder: -o."))

    again = Again(talk, who)
    begun = 0.0
    recorder = Recorder(again, place, tell)
    conversation = Conversation(who[0], recorder)
    with recorder, closing(converse_all(engine, [conversation])) as events:
        for _, event in events:
            if error := next(iter(failures), event.error if isinstance(event, Ended) else None):
                raise error
            event = _with_user(event, talk) if isinstance(event, Began) else event
            recorder.hear(event)
            again.hear(event, conversation)
            listen(replace(event, source=talk.name) if isinstance(event, Step) else event)
            if isinstance(event, Began) and not begun:
                begun = time.perf_counter()
                listen(Started(talk.name, talk.frames))
            for words in again.words(event):
                recorder.hear(words)
                listen(words)
    for failure in failures:  # at the very end
        raise failure
    return recorder, time.perf_counter() - begun


@contextmanager
def _beside(out: Path, listen: Listener) -> Iterator[Path]:
    """A folder for a recording that is not whole: a later replay would take it for a talk."""
    with writing(out):
        out.mkdir(0o700, parents=True, exist_ok=True)
        with scratch_folder(out) as scratch:
            try:
                yield scratch
            except BaseException:
                listen(Note("The new answer was not finished, so nothing of it is kept."))
                raise


def _with_user(began: Began, talk: RecordedTalk) -> Began:
    """With the other persona who is heard, if there is one."""
    then = next(event for _, event in talk.events if isinstance(event, Began))
    return replace(began, user=then.user, settings={**began.settings, "user": then.left}) if then.user else began


def _turns(recorder: Recorder, held: RecordedTalk) -> Iterator[tuple[str, str]]:
    """Who spoke, by name if both are personas, and what."""
    began = next(event for _, event in held.events if isinstance(event, Began))
    names = {AGENT: began.persona, USER: began.user} if began.user else {}
    for turn in recorder.turns:
        yield names.get(turn.speaker, turn.speaker), turn.text


def _same_settings(before: RecordedTalk, after: RecordedTalk) -> bool:
    """Whether the same personas spoke in the same way; what an older recording does not say was the same."""
    old, new = ([each.settings for _, each in talk.events if isinstance(each, Began)] for talk in (before, after))
    pairs = zip(old, new, strict=False)
    return all(was.get(name, now.get(name)) == now.get(name) for was, now in pairs for name in SETTINGS)


def _verdict(before: RecordedTalk, after: RecordedTalk) -> str:
    if before.tokens is None or after.tokens is None:
        return "The recording has no tokens to compare with."
    count = min(len(before.tokens), len(after.tokens))
    different = np.flatnonzero((before.tokens[:count] != after.tokens[:count]).any(axis=1))
    if len(different):
        return f"The tokens are other ones from {clock(different[0] * FRAME_SECONDS)} on, frame {different[0]}."
    return f"All tokens are the same, in {count} frames."


def _write_beside(folder: Path, talk: RecordedTalk, html: str) -> None:
    """The old answer and the page, beside the new recording."""
    wav, words, comparison = (folder / name for name in ("before.wav", "before.json", COMPARISON))
    with atomic_file(wav, private=True) as file:
        write_wav(file, talk.heard, talk.said)
    with atomic_file(words, private=True) as file:
        file.write(talk.about)
    with atomic_file(comparison, private=True) as file:
        file.write(as_bytes(html))
