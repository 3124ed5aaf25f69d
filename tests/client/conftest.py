"""Servers and conversations with them, closed at the end of each test, with all their threads."""

import gc
import threading
from collections.abc import Iterator

import pytest
from fakeserver import FakeServer, Script, echo
from remote import Call, Remote, Serve

from personaplex_cli.client import engine


@pytest.fixture
def talk() -> Iterator[Call]:
    talks: list[Remote] = []
    before = threading.enumerate()  # another module's server may still run

    def begin(*arguments: object, **settings: object) -> Remote:
        talks.append(Remote(*arguments, **settings))  # type: ignore[arg-type]
        return talks[-1]

    yield begin
    for each in talks:
        each.engine.close()
    talks.clear()
    gc.collect()  # a socket that is still open complains here
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread for thread in left if thread.name.startswith(("connection", "asyncio"))]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[FakeServer] = []

    def start(script: Script = echo, **settings: object) -> FakeServer:
        servers.append(FakeServer(script, **settings).__enter__())  # type: ignore[arg-type]
        return servers[-1]

    yield start
    for each in servers:
        each.__exit__()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second attempt comes at once."""
    monkeypatch.setattr(engine, "MAX_RETRY_SECONDS", 0)
