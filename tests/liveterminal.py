"""`personaplex` as it is, but with a sound card made of numbers that runs in real time, and an engine without a model.

    python tests/liveterminal.py chat --record talks

LOST_AFTER is how many frames the engine answers before its device is lost. On a pseudo-terminal: `OnTerminal`.
"""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__)
SAFETY_SECONDS = 60.0
SHELL = '"$@"; code=$?; while [ $code = 148 ]; do echo SHELL; read x; fg; code=$?; done; exit $code'
SHOWN, HIDDEN = b"\x1b[?25h", b"\x1b[?25l"  # the cursor


class OnTerminal:
    """The program in a session of its own whose terminal this is; what it draws is in `drawn`."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        """A shell starts it, which waits for Enter and says `fg` when it was stopped."""
        self.master, slave = pty.openpty()
        self.before = self.settings()
        self.drawn = b""
        self._end, alive = os.pipe()  # closed by the system when the last of them has ended
        self.process = subprocess.Popen(
            ["sh", "-mc", SHELL, "sh", sys.executable, str(HERE), *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color", **environment},
            preexec_fn=_own_terminal,
            pass_fds=[alive],
        )
        os.close(slave)
        os.close(alive)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.master >= 0:
            self.hang_up()
        self.process.kill()
        self.process.wait()
        os.close(self._end)

    def until(self, words: bytes) -> None:
        """Read what is drawn until these words have come since the last call."""
        seen, end = b"", time.monotonic() + SAFETY_SECONDS
        while words not in seen:
            assert select.select([self.master], [], [], max(0.0, end - time.monotonic()))[0], seen[-2000:]
            more = self.read()
            assert more, (self.process.poll(), seen[-2000:])
            seen += more

    def read(self) -> bytes:
        """What is drawn just now; nothing once the program has ended."""
        try:
            more = os.read(self.master, 65536)
        except OSError:  # so it is on Linux
            return b""
        self.drawn += more
        return more

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.master)

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self.master)
        self.master = -1

    def send(self, number: signal.Signals) -> None:
        """To the program itself."""
        group = os.tcgetpgrp(self.master)
        assert group > 0
        os.kill(group, number)

    def end(self) -> int:
        """Wait for the end; the exit code. The terminal must be as it was."""
        while self.master >= 0 and self.read():
            pass
        assert select.select([self._end], [], [], SAFETY_SECONDS)[0]
        code = self.process.wait(SAFETY_SECONDS)
        if self.master >= 0:
            assert self.settings() == self.before
            assert self.drawn.rfind(SHOWN) >= self.drawn.rfind(HIDDEN)
        return code


def _own_terminal() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)  # however the tests were started
    os.setsid()
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def main() -> None:
    """The program, in this process."""
    import threading

    sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
    import numpy as np
    import parrot
    from fakecard import FakeCard

    from personaplex_cli.conversation import Reply
    from personaplex_cli.errors import DeviceError
    from personaplex_cli.samples import Samples

    limit = int(os.environ.get("LOST_AFTER", sys.maxsize))

    class Engine(parrot.Parrot):
        def step(self, frames: Mapping[int, Samples], *rest: Any) -> Mapping[int, Reply]:
            if any(count >= limit for count in self._heard.values()):
                raise DeviceError("The GPU has failed.")
            return super().step(frames, *rest)

    parrot.Parrot = Engine  # type: ignore[misc]
    sys.modules["personaplex_cli.loader.load"] = parrot
    minutes = np.random.default_rng(0).normal(0, 0.05, 120 * 24_000).astype(np.float32)
    card = FakeCard(microphone=minutes)
    sys.modules["sounddevice"] = card  # type: ignore[assignment]

    def run_card() -> None:
        while card.pass_time() or True:
            time.sleep(0.02)

    threading.Thread(target=run_card, daemon=True).start()
    from personaplex_cli.__main__ import main as program

    program()


if __name__ == "__main__":
    main()
