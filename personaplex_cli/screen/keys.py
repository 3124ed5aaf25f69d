"""What comes from the terminal: single keys, without Enter, and its answers to questions. Ctrl-C stays a signal.

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
# Arrows, function keys, pasted brackets and the terminal's answers: an escape and what belongs to it.
TEXT = r"[\]P^_X]"  # what begins a text of any length, such as an answer; it ends with BEL or ESC \
SEQUENCE = re.compile(rf"\x1b({TEXT}[^\x07\x1b]*(?:\x07|\x1b\\)|\[[0-?]*[ -/]*[@-~]|O.|[^\]P^_X\[O])", re.DOTALL)
UNFINISHED = re.compile(rf"\x1b({TEXT}[^\x07\x1b]*\x1b?|\[[0-?]*[ -/]*|O)?\Z", re.DOTALL)  # the rest comes later
LONGEST = 256  # characters of a sequence that are kept
PATIENCE = 0.5  # seconds without the rest of a sequence; then it was a key such as Esc
BACKGROUND = "\x1b]11;?\x1b\\"  # asks for the colour of the background: OSC 11, from xterm
RGB = re.compile(r"\]11;rgba?:([0-9a-fA-F]{2})[0-9a-fA-F]*/([0-9a-fA-F]{2})[0-9a-fA-F]*/([0-9a-fA-F]{2})")
WINDOWS_TICK = 0.01  # seconds between looks at the keyboard, where it cannot be waited for


class Keys:
    """Keys while it is open: none when the input is no terminal, or belongs to another program just now."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdin if stream is None else stream
        self._keys: deque[str] = deque(maxlen=WAITING)
        self._file: int | None = None
        self.in_background = False  # another program has the terminal
        self._unfinished, self._begun = "", 0.0  # the beginning of a sequence, and when it came
        self._answers: deque[str] = deque(maxlen=WAITING)
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

    @property
    def usable(self) -> bool:
        """Whether there is somebody who can press keys."""
        return self._file is not None

    def background(self, seconds: float) -> tuple[int, int, int] | None:
        """The colour behind the terminal's text, as it says; None if it does not say so in time."""
        end = time.monotonic() + seconds
        self._answers.clear()
        if not self._ask(BACKGROUND):
            return None
        while (left := end - time.monotonic()) > 0:
            self._read(left)
            for answer in self._answers:
                if told := RGB.match(answer):
                    red, green, blue = (int(part, 16) for part in told.groups())
                    return red, green, blue
        return None

    def poll(self, seconds: float = 0.0) -> str | None:
        """The next key; waits for it so long at most. Without a terminal it only waits."""
        if not self._keys:
            self._read(seconds)
        return self._keys.popleft() if self._keys else None

    if sys.platform == "win32":

        def _open(self, file: int) -> None:
            self._file = file

        def _ask(self, question: str) -> bool:
            return False  # what a console there answers does not come as keys

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
                self.in_background = os.tcgetpgrp(file) != os.getpgrp()
            if self.in_background:
                return  # we would be stopped for touching it
            self._file = file
            self._changed.enter_context(suppress(termios.error))  # a terminal that is gone needs nothing
            self._before = termios.tcgetattr(file)
            self._changed.callback(termios.tcsetattr, file, termios.TCSANOW, self._before)
            self._listen()
            if threading.current_thread() is threading.main_thread():
                # The shell takes the terminal back while the program is stopped.
                for number, action in ((signal.SIGCONT, self._listen), (signal.SIGTSTP, self._sleep)):
                    self._changed.callback(signal.signal, number, signal.signal(number, action))

        def _listen(self, *_: object) -> None:
            """Each key at once, not shown; the keys that make signals still make them."""
            if self._file is not None:
                with suppress(termios.error):  # it may be gone: a window that is closed wakes its programs
                    tty.setcbreak(self._file, termios.TCSANOW)

        def _sleep(self, *_: object) -> None:
            """Ctrl-Z: the terminal as it was, until the shell continues us."""
            if self._file is not None:
                with suppress(termios.error):
                    termios.tcsetattr(self._file, termios.TCSANOW, self._before)
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, self._sleep)

        def _ask(self, question: str) -> bool:
            """Whether the terminal could be asked."""
            if self._file is None:
                return False
            with suppress(OSError):
                return os.write(self._file, question.encode()) > 0
            return False

        def _read(self, seconds: float) -> None:
            if self._file is None:
                time.sleep(seconds)
            elif select.select([self._file], [], [], seconds)[0]:
                typed = b""
                with suppress(OSError):
                    typed = os.read(self._file, 1024)
                if not typed:
                    self._file = None  # the terminal is gone: its other end was closed
                self._take(self._decoder.decode(typed))

        def _take(self, typed: str) -> None:
            """Sort what was typed from what the terminal says."""
            now = time.monotonic()
            if now - self._begun > PATIENCE:
                self._unfinished = ""
            typed, going_on = self._unfinished + typed, bool(self._unfinished)
            begun = UNFINISHED.search(typed)
            rest = begun.group() if begun else ""
            typed = typed.removesuffix(rest)
            self._unfinished = rest if len(rest) < LONGEST else rest[:2]
            self._begun = self._begun if going_on and not typed else now
            self._answers.extend(sequence.group(1) or "" for sequence in SEQUENCE.finditer(typed))
            self._keys.extend(SEQUENCE.sub("", typed))
