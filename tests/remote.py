"""A conversation with a server, driven by hand: what `converse_all` does with a `RemoteEngine`, a call at a time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from fakeserver import FakeServer

from personaplex_cli.audio.opus import OpusReader, OpusWriter
from personaplex_cli.audio.queue import NOTHING
from personaplex_cli.character import Character
from personaplex_cli.client.engine import connect
from personaplex_cli.conversation import Reply
from personaplex_cli.events import Began, Event, Phase, State
from personaplex_cli.lookup import find_character
from personaplex_cli.options import RemoteOptions
from personaplex_cli.samples import FRAME, SILENT_FRAME, Samples

CHARACTER = find_character()
MANY = 500  # steps: more than any test needs


class Lost(Exception):
    """The connection is lost, and `began` tries another one."""


class Remote:
    """An engine, its events and one conversation. What ends the conversation is raised, and Lost."""

    def __init__(self, url: str, seed: int | None = None, paced: bool = False, **options: Any) -> None:
        self.events: list[Event] = []
        self.engine = connect(RemoteOptions(url, **options), self.events.append, paced)
        self.character = replace(CHARACTER, sampling=replace(CHARACTER.sampling, seed=seed))

    def begin(self, character: Character | None = None) -> Began:
        self.engine.begin(0, character or self.character)
        return self.began()

    def began(self) -> Began:
        """The beginning that waits, of the first conversation or after a broken connection."""
        happened = self.engine.prefill()
        assert happened is not None and [slot for slot, _ in happened] == [0]
        event = happened[0][1]
        if isinstance(event, Exception):
            raise event
        return event

    def step(self, frame: Samples = SILENT_FRAME, silent: bool = False) -> Reply:
        replies = self.engine.step({0: frame}, {0: silent} if silent else {})
        reply = replies.get(0, Lost())
        if isinstance(reply, Exception):
            raise reply
        return reply

    def until(self, true: Callable[[], bool]) -> Samples:
        """Say silence until something is true; returns what was heard."""
        heard = [NOTHING]
        for _ in range(MANY):
            if true():
                return np.concatenate(heard)
            heard.append(self.step().pcm)
        raise AssertionError(f"it never came true: {self.events[-5:]}")

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def states(self) -> list[Phase]:
        return [state.name for state in self.of(State)]


Call = Callable[..., Remote]
Serve = Callable[..., FakeServer]


def noise(frames: int) -> Samples:
    return (np.random.default_rng(0).standard_normal((frames, FRAME)) * 0.1).astype(np.float32)


def through_opus(frames: Samples) -> Samples:
    """What is heard of frames [n, 1920] at the other end, [n * 1920]."""
    writer, reader = OpusWriter(), OpusReader()
    return np.concatenate([reader.read(writer.write(frame)) for frame in frames])
