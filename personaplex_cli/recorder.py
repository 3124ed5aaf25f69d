"""Recording a live conversation: both voices, the words, the tokens and what was done to it, written while it goes on.

    FOLDER/2026-01-31_14-05-09/  conversation.wav  tokens.npy  transcript.json  transcript.srt  transcript.md

The wav (user left, agent right) and the tokens are whole after every second, so that whatever ends the program, at most
the last second is lost; of the words of a long talk perhaps the last ten seconds. They are for their owner alone. A
thread of its own writes: a slow disk never makes the conversation wait.

A recording is a whole talk: with the settings in `events` of transcript.json, the sound on the left makes the same
tokens again. For that the model hears what the wav holds, samples of 16 bits.
"""

import json
import struct
import threading
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from typing import IO, Any, NamedTuple, Self

import numpy as np

from personaplex_cli import __version__
from personaplex_cli.audio.queue import SampleQueue
from personaplex_cli.audio.recording import mark_sides
from personaplex_cli.conversation import Audio
from personaplex_cli.errors import AudioError
from personaplex_cli.events import (
    Began,
    Event,
    Hushed,
    Listener,
    Muted,
    Note,
    Recording,
    Renewed,
    Step,
    Transcribing,
    UserWords,
    as_json,
)
from personaplex_cli.files import GIGABYTE, atomic_file, for_owner, free_bytes, lock
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SAMPLE_RATE, Samples, from_pcm16, pcm16
from personaplex_cli.transcript import AGENT, USER, Transcript, Turn, as_bytes, one_line

MAX_LATE_FRAMES = 12  # an answer that is later than a second is not recorded
FLUSH_FRAMES = round(1 / FRAME_SECONDS)
SOUND, TOKENS = "conversation.wav", "tokens.npy"
PIECES_A_SECOND = 1_000  # of a longer talk the words are written less often: each time they are all written anew
TRANSCRIPTS = ("transcript.json", "transcript.srt", "transcript.md")
TOKENS_A_FRAME = 17
NO_TOKENS = (-1,) * TOKENS_A_FRAME
NPY_HEAD = 128  # bytes
MIN_FREE = GIGABYTE // 10  # bytes of a disk that are left to others


class Frame(NamedTuple):
    """80 ms: what was heard and said, the text and the tokens that came with it."""

    heard: Samples
    said: Samples
    text: str
    tokens: Sequence[int]


class Recorder:
    """An Audio that lets sound through in 16 bits and records both sides. `hear` its conversation's events, then close.

    The folder is made when the conversation has begun; a conversation that begins again goes on in the same recording.
    An answer that comes late is recorded as late as it came, after the silence that it left. A disk that fails later
    ends the recording, not the talk: the listener gets a Note.
    """

    def __init__(self, audio: Audio, parent: Path, listen: Listener) -> None:
        self.folder: Path | None = None
        self._audio = audio
        self._parent = parent
        self._listen = listen
        self._begun: list[Began] = []
        self._heard: Samples = np.empty(0, dtype=np.float32)
        self._said = SampleQueue(MAX_LATE_FRAMES * FRAME)
        self._waiting: SimpleQueue[Frame | None] = SimpleQueue()
        self._transcript = Transcript()
        self._events: list[dict[str, Any]] = []  # what makes this talk another one, with the frame before which it came
        self._has_tokens = False
        self._recorded = 0  # frames, on their way to be written
        self._frames = 0  # written; steps count anew after a restart, the recording goes on
        self._before = 0  # frames recorded before the conversation began again
        self._has_news = False  # not written yet
        self._pieces = 0  # of the agent's words
        self._seconds = 0  # since the words were written
        # A program that is interrupted while it ends may never close this: it would wait for it. Else nothing is lost:
        # whoever ends a program closes this, which waits until all is written.
        self._writer = threading.Thread(target=self._write, name="recorder", daemon=True)

    @property
    def files(self) -> tuple[str, ...]:
        """The paths that are written."""
        names = (SOUND, *((TOKENS,) if self._has_tokens else ()), *TRANSCRIPTS)
        return tuple(str(self.folder / name) for name in names) if self.folder else ()

    @property
    def turns(self) -> list[Turn]:
        """What both have said, as far as it is written."""
        return self._transcript.turns()

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
        return self._through(self._audio.frames(wake))  # called now: it may open a sound card, or fail to

    def _through(self, frames: Iterator[Samples | None]) -> Iterator[Samples | None]:
        for heard in frames:
            if heard is not None:
                heard = self._heard = from_pcm16(pcm16(heard))
            yield heard

    def play(self, pcm: Samples) -> None:
        self._audio.play(pcm)
        self._said.put(pcm)

    def hear(self, event: Event) -> None:
        """Take what happens in the conversation. Raises AudioError if the folder cannot be written."""
        if isinstance(event, Began | Hushed | Muted | Renewed | Transcribing):
            self._events.append({"frame": self._recorded, **as_json(event)})
            self._has_news = True
        match event:
            case Began():
                if self._recorded:
                    self._begin_again(event)
                self._begun.append(event)
                self._before = self._recorded
                if event.user:
                    self._transcript.names = {AGENT: one_line(event.persona), USER: one_line(event.user)}
                if self.folder is None:
                    self.folder = new_folder(self._parent, datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
                    self._writer.start()
                    self._listen(Recording(str(self.folder)))
            case Renewed() if self.folder:
                seconds = round(event.remembered * FRAME_SECONDS)
                self._transcript.mark(self._recorded, f"Memory renewed: the persona, and the last {seconds} seconds.")
            case UserWords(text, start, end) if self.folder:
                self._transcript.add(self._before + start, text, USER, self._before + end)
                self._has_news = True
            case Step(text=text, tokens=tokens) if self.folder:  # what was heard and played last is complete now
                if not self._recorded:
                    self._has_tokens = bool(tokens)  # an engine elsewhere has none
                self._recorded += 1
                said = self._said.take(FRAME)
                self._waiting.put(Frame(self._heard, np.pad(said, (0, FRAME - len(said))), text, tokens or NO_TOKENS))

    def _begin_again(self, began: Began) -> None:
        speakers = [(each.persona, each.voice) for each in (*self._begun, began)]
        what = "The conversation begins again."
        if speakers[-1] != speakers[-2]:
            what = _speaks("From here on", began)
            if len(set(speakers[:-1])) == 1:  # until now there was no need to say who began
                self._transcript.mark(0, _speaks("First", self._begun[0]))
        self._transcript.restart(self._recorded, what)

    def mark(self, what: str) -> None:
        """Something happened beside the words, now: a sentence for the transcript. From any thread."""
        if self.folder:
            self._transcript.mark(self._recorded, what)

    def close(self) -> None:
        """Write what is left, and wait for it; from any thread, more than once does no harm.

        Of a talk in which no frame was answered nothing stays.
        """
        self._waiting.put(None)
        if self.folder:
            self._writer.join()
            if not self._recorded:
                rmtree(self.folder, ignore_errors=True)
                self.folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The writer's thread.

    def _write(self) -> None:
        assert self.folder is not None, "the thread starts when there is a folder"
        try:
            with open(self.folder / SOUND, "wb", opener=for_owner) as file:
                lock(file)  # what goes on is not deleted, whatever there is too much of
                self._write_transcripts()
                with wave.open(file, "wb") as sound:
                    sound.setnchannels(2)
                    sound.setsampwidth(2)
                    sound.setframerate(SAMPLE_RATE)
                    frames = iter(self._waiting.get, None)
                    while second := list(islice(frames, FLUSH_FRAMES)):
                        self._append(second, sound, file)
                self._write_transcripts()  # with what was marked, or came of the user's words, after the last one
                mark_sides(file)
        except Exception as error:  # whatever it is: the talk goes on
            self._listen(Recording(""))
            self._listen(Note(f"The recording of this conversation has stopped: {error}"))
            for _ in iter(self._waiting.get, None):  # take what still comes, so that it does not pile up
                pass

    def _append(self, frames: list[Frame], sound: wave.Wave_write, file: IO[bytes]) -> None:
        assert self.folder is not None, "frames are written into a folder"
        if free_bytes(self.folder) < MIN_FREE:
            raise AudioError(f"the disk has less than {MIN_FREE // 10**6} MB left.", "Make room on it.")
        heard, said, texts, tokens = zip(*frames, strict=True)
        sound.writeframes(pcm16(np.concatenate(heard), np.concatenate(said)))  # corrects the header as well
        file.flush()
        if self._has_tokens:
            _append_tokens(self.folder / TOKENS, self._frames, tokens)
        for index, text in enumerate(texts, self._frames):
            self._transcript.add(index, text)
        self._frames += len(frames)
        self._pieces += sum(map(bool, texts))
        self._has_news |= any(texts)
        self._seconds += 1
        if self._has_news and self._seconds > self._pieces // PIECES_A_SECOND:
            self._write_transcripts()

    def _write_transcripts(self) -> None:
        assert self.folder is not None, "recording begins with a conversation"
        self._has_news, self._seconds = False, 0
        personas = ", ".join(dict.fromkeys(each.persona for each in self._begun))
        who = one_line(" and ".join(filter(None, (self._begun[-1].user, personas))))
        about = {
            "personaplex": __version__,
            "settings": self._begun[-1].settings,
            "events": list(self._events),  # another thread may add to them
            "text": self._transcript.text,
            "restarts": self._transcript.restarts,
            "marks": [vars(mark) for mark in self._transcript.marks],
            "words": [vars(word) for word in self._transcript.words()],  # much faster than `asdict`
        }
        contents = (
            json.dumps(about, ensure_ascii=False) + "\n",  # without indentation: ten times as fast, every second
            self._transcript.srt(),
            f"# {who}, {self.folder.name}\n\n{self._transcript.markdown()}\n",
        )
        for name, content in zip(TRANSCRIPTS, contents, strict=True):
            with atomic_file(self.folder / name, private=True) as file:
                file.write(as_bytes(content))


def _append_tokens(path: Path, before: int, rows: Sequence[Sequence[int]]) -> None:
    """Write rows behind those `before` into a file for `numpy.load`: [frames, 17], the text's token, 8 codes of the
    agent's, 8 of the user's; -1 where there was none.

    The header, of NumPy's version 1.0, comes last: it says only what is there.
    """
    shape = (before + len(rows), TOKENS_A_FRAME)
    about = repr({"descr": "<i4", "fortran_order": False, "shape": shape}).ljust(NPY_HEAD - 11) + "\n"
    with open(path, "r+b" if before else "wb", opener=for_owner) as file:
        file.seek(NPY_HEAD + before * 4 * TOKENS_A_FRAME)
        file.write(np.array(rows, dtype="<i4").tobytes())
        file.flush()
        file.seek(0)
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(about)) + about.encode())


def _speaks(when: str, began: Began) -> str:
    return f"{when} {began.persona} speaks, with the voice {began.voice}."


def new_folder(parent: Path, name: str) -> Path:
    """Make a folder of this name in another one, or of this name and a number. Raises AudioError."""
    number = 1
    try:
        parent.mkdir(0o700, parents=True, exist_ok=True)
        while True:
            folder = parent / (name if number == 1 else f"{name}_{number}")
            with suppress(FileExistsError):  # another conversation began in this second, perhaps in another program
                folder.mkdir(0o700)
                return folder
            number += 1
    except OSError as error:
        raise AudioError(f"{parent} cannot be written ({error.strerror}).", "Choose another folder.") from error
