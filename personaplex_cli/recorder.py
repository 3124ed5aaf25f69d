"""Keeping a live conversation: both voices and the words, written while it goes on.

    FOLDER/2026-01-31_14-05-09/  conversation.wav  transcript.json  transcript.srt  transcript.md

The wav (user left, agent right) is whole after every second, so that whatever ends the program, at most the last second
is lost. A thread of its own writes: a slow disk never makes the conversation wait.
"""

import json
import threading
import wave
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from personaplex_cli import __version__
from personaplex_cli.audio.queue import SampleQueue
from personaplex_cli.audio.recording import atomic_file, pcm16
from personaplex_cli.conversation import Audio
from personaplex_cli.errors import AudioError, PersonaplexError
from personaplex_cli.events import Listener, Note, Step
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SAMPLE_RATE, Samples
from personaplex_cli.transcript import Transcript

LATEST_FRAMES = 12  # an answer that is later than a second is not kept
FLUSH_FRAMES = round(1 / FRAME_SECONDS)

Frame = tuple[Samples, Samples, str]  # heard, said, the text that came with it


class Recorder:
    """An Audio that lets sound through and keeps both sides; `step` completes a frame. Open it with `with`.

    An answer that comes late is kept as late as it came, after the silence that it left.
    Raises AudioError if the folder cannot be written. A disk that fails later ends the keeping, not the talk: the
    listener gets a Note.
    """

    def __init__(self, audio: Audio, parent: Path, settings: dict[str, Any], listen: Listener) -> None:
        self._audio = audio
        self._settings = settings
        self._listen = listen
        self._heard: Samples = np.empty(0, dtype=np.float32)
        self._said = SampleQueue(LATEST_FRAMES * FRAME)
        self._waiting: SimpleQueue[Frame | None] = SimpleQueue()
        self._transcript = Transcript()
        self._frames = 0  # written; steps count anew after a restart, the recording goes on
        self._writer = threading.Thread(target=self._write, name="keeping")
        self.folder = _new_folder(parent)
        self.files = tuple(str(self.folder / name) for name in ("conversation.wav", *_TRANSCRIPTS))

    def frames(self) -> Iterator[Samples]:
        for heard in self._audio.frames():
            self._heard = heard
            yield heard

    def play(self, pcm: Samples) -> None:
        self._audio.play(pcm)
        self._said.put(pcm)

    def step(self, step: Step) -> None:
        """The frame that was heard and played last is complete, and this is what was said in it."""
        said = self._said.take(FRAME)
        self._waiting.put((self._heard, np.pad(said, (0, FRAME - len(said))), step.text))

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._waiting.put(None)
        self._writer.join()

    def _write(self) -> None:
        try:
            self._write_transcripts()
            with (self.folder / "conversation.wav").open("wb") as file, wave.open(file, "wb") as sound:
                sound.setnchannels(2)
                sound.setsampwidth(2)
                sound.setframerate(SAMPLE_RATE)
                for frames in _by_the_second(iter(self._waiting.get, None)):
                    self._append(frames, sound, file)
        except (OSError, PersonaplexError) as error:
            self._listen(Note(f"This conversation is not kept any further: {error}"))
            for _ in iter(self._waiting.get, None):  # take what still comes, so that it does not pile up
                pass

    def _append(self, frames: list[Frame], sound: wave.Wave_write, file: IO[bytes]) -> None:
        heard, said = (np.concatenate([frame[side] for frame in frames]) for side in (0, 1))
        sound.writeframes(pcm16(heard, said))  # corrects the header as well
        file.flush()
        for _, _, text in frames:
            self._transcript.add(self._frames, text)
            self._frames += 1
        if any(text for _, _, text in frames):
            self._write_transcripts()

    def _write_transcripts(self) -> None:
        words = [asdict(word) for word in self._transcript.words()]
        about = {"personaplex": __version__, "settings": self._settings, "text": self._transcript.text, "words": words}
        contents = (
            json.dumps(about, ensure_ascii=False) + "\n",  # without indentation: ten times as fast, every second
            self._transcript.srt(),
            f"# {self._settings['persona']}, {self.folder.name}\n\n{self._transcript.markdown()}\n",
        )
        for name, content in zip(_TRANSCRIPTS, contents, strict=True):
            with atomic_file(self.folder / name) as file:
                file.write(content.encode())


_TRANSCRIPTS = ("transcript.json", "transcript.srt", "transcript.md")


def _by_the_second(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    second: list[Frame] = []
    for frame in frames:
        second.append(frame)
        if len(second) == FLUSH_FRAMES:
            yield second
            second = []
    if second:
        yield second


def _new_folder(parent: Path) -> Path:
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = (now if number == 1 else f"{now}_{number}" for number in range(1, 1000))
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = next(parent / name for name in names if not (parent / name).exists())
        folder.mkdir()
        return folder
    except OSError as error:
        raise AudioError(f"{parent} cannot be written ({error.strerror}).", "Choose another folder.") from error
