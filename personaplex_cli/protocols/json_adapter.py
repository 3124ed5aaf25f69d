"""What protocols of JSON messages share: each is an object with a `type`. Sound is 16-bit, at the client's rate.

Messages of sound may end anywhere, also within a sample: its other byte comes with the next one.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from personaplex_cli.audio.pcm import PcmReader, PcmWriter
from personaplex_cli.errors import AudioError, PersonaplexError, UsageError
from personaplex_cli.events import Began
from personaplex_cli.protocols.adapter import Adapter, Begin, Lost, Out, Recorded, ServerEvent, Upgrade, facts, pieces
from personaplex_cli.protocols.wire import Request, WireError
from personaplex_cli.samples import SAMPLE_RATE, Samples


class Unsupported(PersonaplexError):
    """A client wants what this model cannot do."""


CODES = {UsageError: "request", WireError: "message", AudioError: "sound", Unsupported: "unsupported"}


class JsonAdapter(Adapter):
    """A protocol adds to `encode` what it knows of other events, and writes `decode`."""

    rate = SAMPLE_RATE  # of the client, unless it asks for another

    def __init__(self) -> None:
        self._asked = Request()  # by the URL
        self._set_rate(self.rate)

    def open(self, upgrade: Upgrade) -> Iterator[Out]:
        self._asked = Request.from_query(upgrade.query)
        if self._asked != Request():
            yield Begin(self._asked)

    def encode(self, event: ServerEvent) -> Iterator[Out]:
        match event:
            case np.ndarray():
                if pcm := self._writer.write(event):
                    yield self._sound(pcm)
            case Began():
                yield json_message("ready", sample_rate=self.rate, **facts(event))
            case Recorded(on):
                yield json_message("recorded", on=on)
            case Lost(heard, said):
                yield json_message("lost", heard=round(heard, 2), said=round(said, 2), message=str(event))
            case PersonaplexError():
                code = CODES.get(type(event), "failed")  # for programs
                yield json_message("error", code=code, message=str(event), hint=event.hint)

    def _set_rate(self, rate: int) -> None:
        self.rate = rate
        self._reader = PcmReader(rate)
        self._writer = PcmWriter(rate)

    def _heard(self, pcm: bytes) -> Iterator[Samples]:
        """The client's sound, a second at a time."""
        return map(self._reader.read, pieces(pcm, 2 * self.rate))

    def _sound(self, pcm: bytes) -> str | bytes:
        """The message that carries sound."""
        return pcm


def json_message(kind: str, **values: Any) -> str:
    return json.dumps({"type": kind, **values})
