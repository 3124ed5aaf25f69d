"""Standard output and error while a program runs: that they cannot be written is reported once, and no work is lost.

The disk may be full, the reader of a pipe may have seen enough (`| head`), or the shell has closed the stream (`>&-`).
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

from personaplex_cli.errors import OutputError


class ReaderLeft(OutputError):
    """The reader of standard output has seen enough: the end, but no failure."""


class Output:
    """A text stream that fails once at most: `lost` is called then, and what comes later is dropped."""

    def __init__(self, stream: TextIO, lost: Callable[[OSError], None]) -> None:
        self._stream = stream
        self._lost = lost

    def write(self, text: str) -> int:
        with self._watched():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:  # a name in bytes that are no text, or a stream that has few letters
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._watched():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            drop(self._stream)
            self._lost(error)


def drop(stream: Any) -> None:
    """What waits in the stream to be written, and what comes, goes nowhere; else Python complains when it exits."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def watched_streams() -> Iterator[None]:
    """Standard output raises OutputError at its first failure; without standard error a program goes on in silence."""
    before = sys.stdout, sys.stderr
    with ExitStack() as stack:
        out, err = (stream or stack.enter_context(_closed()) for stream in before)
        sys.stdout, sys.stderr = Output(out, _raise), Output(err, lambda error: None)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OutputError):
                    stream.flush()
            sys.stdout, sys.stderr = before


def _closed() -> TextIO:
    """In place of a stream that the shell has closed: it cannot be written either."""
    return open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")


def _raise(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        raise ReaderLeft("The reader of standard output has left.") from error
    raise OutputError(f"Standard output cannot be written ({error.strerror}).") from error
