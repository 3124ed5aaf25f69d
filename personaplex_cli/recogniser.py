"""Speech into words: a Whisper model, which faster-whisper runs on the CPU in a process of its own (`whisper.py`).

A process, so that the talk does not notice: it has its own interpreter lock and a low priority; PyTorch and CTranslate2
each bring an OpenMP, and two of them in one process end it on some systems; and a crash ends nothing else.
"""

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from tempfile import SpooledTemporaryFile
from typing import Any, Self

import numpy as np

from personaplex_cli.audio.resample import Resampler
from personaplex_cli.errors import ModelError, PersonaplexError
from personaplex_cli.events import Listener, ignore
from personaplex_cli.samples import SAMPLE_RATE, Samples, pcm16
from personaplex_cli.transcript import USER, Word

RATE = 16_000  # Whisper's
MAX_THREADS = 4  # more is hardly faster
IN_MEMORY = 64 << 20  # bytes of sound that wait, half an hour; more of it waits on the disk

if sys.platform == "win32":
    APART: dict[str, Any] = {
        "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.BELOW_NORMAL_PRIORITY_CLASS
    }
else:
    APART: dict[str, Any] = {"start_new_session": True}  # Ctrl-C is for the talk


class Recogniser:
    """Writes down what it is given, one after the other, in that order. `close` it; what still waits then fails.

    `submit` and `close` may be called from any thread.
    """

    def __init__(self, folder: Path, name: str = "") -> None:
        """Raises ModelError if the model in the folder cannot be used."""
        self.name = name or folder.name
        self._process = self._start(folder)
        self._coming: SimpleQueue[tuple[Sequence[Samples], Future[list[Word]]] | None] = SimpleQueue()
        self._waiting: SimpleQueue[tuple[int, Future[list[Word]]] | None] = SimpleQueue()
        self._backlog = _Backlog()
        self._closing, self._closed = threading.Lock(), False
        try:
            self._answer()  # it is ready
        except PersonaplexError as error:
            self._end()
            what = f"The model {self.name} cannot write down speech: {error}"
            raise ModelError(what, "Choose another one for --asr.") from None
        self._threads = [
            threading.Thread(target=target, name="asr", daemon=True) for target in (self._keep, self._recognise)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, sound: Sequence[Samples]) -> "Future[list[Word]]":
        """Have these pieces, each [n] at 24 kHz, written down as one. Never waits.

        The words have times from the first sample on. The future ends with a PersonaplexError if that cannot be done.
        """
        words: Future[list[Word]] = Future()
        with self._closing:
            if self._closed:
                words.set_exception(PersonaplexError("It is closed."))
            else:
                self._coming.put((sound, words))
        return words

    def transcribe(self, sound: Samples) -> list[Word]:
        """The words of a whole sound, [n] at 24 kHz. Raises PersonaplexError."""
        return self.submit([sound]).result()

    def close(self) -> None:
        self._process.kill()
        with self._closing:
            self._closed = True
            self._coming.put(None)
        for thread in self._threads:
            thread.join()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Two threads: one makes what comes ready, so that it takes little memory while it waits; the other one asks.

    def _keep(self) -> None:
        for sound, words in iter(self._coming.get, None):
            try:
                heard = np.concatenate(sound) if sound else np.empty(0, np.float32)
                pcm = pcm16(Resampler(SAMPLE_RATE, RATE)(heard))
                self._backlog.put(pcm)
            except Exception as error:  # no room on the disk
                words.set_exception(PersonaplexError(f"The sound cannot be kept: {error}"))
            else:
                self._waiting.put((len(pcm), words))
        self._waiting.put(None)

    def _recognise(self) -> None:
        for size, words in iter(self._waiting.get, None):
            pcm = self._backlog.take(size)
            if not words.set_running_or_notify_cancel():
                continue
            try:
                words.set_result(self._ask(pcm))
            except Exception as error:
                words.set_exception(error)

    def _ask(self, pcm: bytes) -> list[Word]:
        assert self._process.stdin, "it is a pipe"
        with suppress(OSError):  # it is gone: there is no answer, either
            self._process.stdin.write(struct.pack("<I", len(pcm) // 2) + pcm)
            self._process.stdin.flush()
        return [Word(word, round(start, 2), round(end, 2), USER) for word, start, end in self._answer()]

    # The process.

    @staticmethod
    def _start(folder: Path) -> "subprocess.Popen[bytes]":
        threads = max(1, min(MAX_THREADS, (os.cpu_count() or 1) // 2))
        # -P: the folder that the user is in has no say in what is imported.
        command = [sys.executable, "-P", "-m", "personaplex_cli.whisper", str(folder), str(threads)]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, **APART)

    def _answer(self) -> list[tuple[str, float, float]]:
        assert self._process.stdout, "it is a pipe"
        line = self._process.stdout.readline()
        ended = {"error": "its process has ended."}
        answer: dict[str, Any] = json.loads(line) if line else ended
        if "error" in answer:
            raise PersonaplexError(answer["error"])
        return answer["words"]  # type: ignore[no-any-return]

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was written is not wanted any more
                if pipe:
                    pipe.close()
        self._backlog.close()


def open_recogniser(name: str, listen: Listener = ignore) -> Recogniser:
    """A recogniser by the name of its model, which is downloaded if it is not here; raises what `find_whisper` does."""
    from personaplex_cli.library.whisper_files import find_whisper  # only here: huggingface_hub is slow to import

    return Recogniser(find_whisper(name, listen), name)


class _Backlog:
    """Sound that waits, in memory, or on the disk once there is much of it, in a file that has no name."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._lock = threading.Lock()
        self._written = self._taken = 0

    def put(self, pcm: bytes) -> None:
        with self._lock:
            self._file.seek(self._written)
            self._file.write(pcm)
            self._written += len(pcm)

    def take(self, size: int) -> bytes:
        """The oldest of what is there."""
        with self._lock:
            self._file.seek(self._taken)
            pcm = self._file.read(size)
            self._taken += size
            if self._taken == self._written:
                self._file.seek(0)
                self._file.truncate()
                self._written = self._taken = 0
        return pcm

    def close(self) -> None:
        self._file.close()
