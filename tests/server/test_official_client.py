"""Kyutai's own client (PyPI `moshi`, `moshi.client`) against our server, without a sound card."""

import asyncio
import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from runningserver import SAFETY_SECONDS, RunningServer, connected, speech

from personaplex_cli.protocols.wire import PATH
from personaplex_cli.samples import FRAME, frame_at


class Stream:
    """In place of a stream of the sound card: the test calls the callback."""

    def __init__(self, callback: Any, **_: Any) -> None:
        self.callback = callback

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


class Printer:
    """What the client tells its user."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.errors: list[str] = []

    def log(self, level: str, text: str) -> None:
        if level == "error":
            self.errors.append(text)

    def print_token(self, token: str) -> None:
        self.tokens.append(token)

    def print_pending(self) -> None: ...
    def print_lag(self) -> None: ...
    def print_header(self) -> None: ...


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    card = SimpleNamespace(InputStream=Stream, OutputStream=Stream)
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    monkeypatch.delitem(sys.modules, "moshi.client", raising=False)
    return importlib.import_module("moshi.client")


def test_it_talks_with_us(client: ModuleType, server: RunningServer) -> None:
    printer, sound, heard = Printer(), speech(60), list[Any]()

    async def talk() -> None:
        async with asyncio.timeout(SAFETY_SECONDS), connected(server.socket(f"{PATH}?seed=3")) as socket:
            connection = client.Connection(printer, socket, asyncio.get_running_loop())
            running = asyncio.create_task(connection.run())
            sent = 0
            while len(heard) < 40:
                if sent < len(heard) + 4:  # it knows no handshake: what comes too early is lost, as with others
                    connection._in_stream.callback(frame_at(sound, sent % 60)[:, np.newaxis], FRAME, None, None)
                    sent += 1
                await asyncio.sleep(0.01)
                while not connection._output_queue.empty():
                    out = np.empty((FRAME, 1), dtype=np.float32)
                    connection._out_stream.callback(out, FRAME, None, None)
                    heard.append(out[:, 0])
                if not heard and sent == 4:
                    sent = 0
            await socket.close()
            await running

    asyncio.run(talk())
    assert printer.tokens and np.std(np.concatenate(heard)) > 0
    assert not printer.errors
