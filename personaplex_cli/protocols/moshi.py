"""Moshi's protocol, on our side: binary messages as `wire` packs them, sound as one Ogg-Opus stream each way.

Text messages are ignored, as the official server does. Metadata goes only to clients that ask for it in their
query, or have sent some, and then all of it: Moshi's own clients know none, and complain about every message.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from personaplex_cli import __version__
from personaplex_cli.audio.opus import OpusReader, OpusWriter
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Began, Hushed, Renewed, Step
from personaplex_cli.protocols import wire
from personaplex_cli.protocols.adapter import (
    Adapter,
    Begin,
    Lost,
    Out,
    Pace,
    Queued,
    Recorded,
    ServerEvent,
    StopSpeaking,
    Upgrade,
    facts,
)
from personaplex_cli.protocols.wire import Action, Control, Message, Metadata, Request, WireError

# Bytes of one message: a second of the best Opus, but minutes of the worst, which would take long to decode.
MAX_OPUS_BYTES = 1 << 16
QUIET_SECONDS = 1.0  # without an event, then a ping is sent; NVIDIA's web client leaves after ten


class Moshi(Adapter):
    def __init__(self) -> None:
        self._knows_metadata = False
        self._withheld: dict[str, Any] = {}  # metadata for a client that may know it
        self._reader = OpusReader()
        self._writer = OpusWriter()
        self._busy = True  # something has happened since the last tick
        self._quiet_since = 0.0

    def open(self, upgrade: Upgrade) -> Iterator[Out]:
        self._knows_metadata = bool(upgrade.query.get(wire.KNOWS_METADATA))
        yield Begin(Request.from_query(upgrade.query))

    def decode(self, message: str | bytes) -> Iterator[Out]:
        match wire.unpack(message) if isinstance(message, bytes) else None:
            case wire.Sound(ogg) if len(ogg) > MAX_OPUS_BYTES:
                raise WireError("Too much sound came at once.", "Send it as it is spoken.")
            case wire.Sound(ogg):
                yield self._reader.read(ogg)
            case Control(Action.PAUSE):
                yield StopSpeaking()
            case Control(Action.RESTART):
                yield Begin(None)
            case Metadata(values):
                self._knows_metadata = True
                if isinstance(asked := values.get(wire.BEGIN), dict):
                    texts = {name: each for name, each in asked.items() if isinstance(each, str)}
                    yield Begin(Request.from_query(texts))
                if self._withheld:
                    yield wire.pack(Metadata(self._withheld))
                    self._withheld = {}

    def encode(self, event: ServerEvent) -> Iterator[Out]:
        self._busy = True
        for message in self._messages(event):
            if self._knows_metadata or not isinstance(message, Metadata):
                yield wire.pack(message)
            elif isinstance(event, Began | Queued | Recorded):  # which stay true
                self._withheld |= message.values

    def tick(self, now: float) -> Iterator[Out]:
        if self._busy:
            self._busy, self._quiet_since = False, now
        elif now - self._quiet_since >= QUIET_SECONDS:
            self._quiet_since = now
            yield wire.pack(wire.Ping())

    def _messages(self, event: ServerEvent) -> Iterator[Message]:
        match event:
            case np.ndarray():
                if ogg := self._writer.write(event):
                    yield wire.Sound(ogg)
            case Step(text=text) if text:
                yield wire.Words(text)
            case Pace():
                yield Metadata(vars(event))
            case Began():
                yield wire.Handshake()
                self._withheld.pop("queue", None)
                yield Metadata({"personaplex": __version__, wire.BEGIN: True, **facts(event)})
            case Lost() if self._knows_metadata:
                yield Metadata({"lost": str(event)})
            case Lost():
                yield wire.Failure(str(event))
            case Queued(position):
                yield Metadata({"queue": position})
            case Renewed(_, remembered, filled):
                yield Metadata({"renewed": {"remembered": remembered, "filled": filled}})
            case Recorded(on):
                yield Metadata({"recorded": on})
            case Hushed(on):
                yield Metadata({"hushed": on})
            case PersonaplexError():
                yield wire.Failure(f"{event} {event.hint}".strip())
