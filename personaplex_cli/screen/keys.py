"""Single keys from the terminal, without Enter; Ctrl-C stays a signal.

There is no thread: waiting for a key is also how the program waits for its next drawing.
"""

import codecs
import os
import re
import select
import signal
import sys
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from typing import Self, TextIO

if sys.platform == "win32":
    import msvcrt
else:
    import termios
    import tty

WAITING = 64  # keys; the rest of a pasted text is dropped
# Arrows, function keys and pasted brackets: an escape and what belongs to it.
SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
WINDOWS_TICK = 0.01  # seconds between looks at the keyboard, where it cannot be waited for


class Keys:
    """Keys while it is open: none when the input is no terminal, or belongs to another program just now."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdin if stream is None else stream
        self._keys: deque[str] = deque(maxlen=WAITING)
        self._file: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._changed = ExitStack()  # what to undo

    def __enter__(self) -> Self:
        if self._stream is not None and not self._stream.closed and self._stream.isatty():
            self._open(self._stream.fileno())
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back as it was; again does no harm."""
        self._file = None
        self._changed.close()

    def poll(self, seconds: float = 0.0) -> str | None:
        """The next key; waits for it so long at most. Without a terminal it only waits."""
        if not self._keys:
            self._read(seconds)
        return self._keys.popleft() if self._keys else None

    if sys.platform == "win32":

        def _open(self, file: int) -> None:
            self._file = file

        def _read(self, seconds: float) -> None:
            end = time.monotonic() + seconds
            while self._file is None or not msvcrt.kbhit():
                left = end - time.monotonic()
                if left <= 0:
                    return
                time.sleep(min(left, WINDOWS_TICK))
            key = msvcrt.getwch()
            if key in "\x00\xe0":
                msvcrt.getwch()  # an arrow or a function key comes as two
            else:
                self._keys.append(key)

    else:

        def _open(self, file: int) -> None:
            with suppress(OSError):  # not the terminal that controls us: it cannot put us in the background
                if os.tcgetpgrp(file) != os.getpgrp():
                    return  # in the background we would be stopped for touching it
            self._file = file
            self._changed.enter_context(suppress(termios.error))  # a terminal that is gone needs nothing
            self._changed.callback(termios.tcsetattr, file, termios.TCSANOW, termios.tcgetattr(file))
            self._listen()
            if threading.current_thread() is threading.main_thread():
                # The shell takes the terminal back while the program is stopped.
                before = signal.signal(signal.SIGCONT, self._listen)
                self._changed.callback(signal.signal, signal.SIGCONT, before)

        def _listen(self, *_: object) -> None:
            """Each key at once, not shown; the keys that make signals still make them."""
            if self._file is not None:
                tty.setcbreak(self._file, termios.TCSANOW)

        def _read(self, seconds: float) -> None:
            if self._file is None:
                time.sleep(seconds)
            elif select.select([self._file], [], [], seconds)[0]:
                typed = b""
                with suppress(OSError):
                    typed = os.read(self._file, 1024)
                if not typed:
                    self._file = None  # the terminal is gone: its other end was closed
                self._keys.extend(SEQUENCE.sub("", self._decoder.decode(typed)))
