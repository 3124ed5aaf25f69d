"""Telephone calls, as Twilio's Media Streams bring them: JSON messages, sound as base64 of mu-law at 8 kHz.

In: start (its customParameters say who shall talk, and carry the token), media, dtmf (a key: stop talking), mark (so
much was played), stop. Out: media all the time, each with a mark behind it; clear when the agent is hushed.

Twilio plays all that it is sent, one after the other: what comes late once stays late. The marks tell how much it has
not played yet; while that is more than it was at best, silence is left out.
"""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from personaplex_cli.audio.g711 import MU_LAW, RATE, PhoneReader, PhoneWriter
from personaplex_cli.errors import UsageError
from personaplex_cli.events import Hushed
from personaplex_cli.hush import SPEECH_LEVEL
from personaplex_cli.protocols.adapter import (
    Adapter,
    Begin,
    Closing,
    Credentials,
    Out,
    ServerEvent,
    StopSpeaking,
    Upgrade,
)
from personaplex_cli.protocols.wire import MAX_NAME, Request, WireError, json_object
from personaplex_cli.samples import Samples, level

ENCODING = "audio/x-mulaw"
MOST = 2 * RATE  # codes in one message, which has 20 ms: of more the oldest would be lost anyway
CHUNK = RATE // 50  # codes: 20 ms, the unit of telephone networks; a part of one would be played with a gap
MAX_LATE = RATE // 5  # codes that may wait beyond those that always do, which are on their way


class Twilio(Adapter):
    max_bytes = 1 << 16  # who has shown no token yet shall not make us read long JSON
    shows_token_later = True  # and who shall talk: its URL has no query

    def __init__(self) -> None:
        self._stream = ""  # Twilio's name for it; empty before `start`
        self._reader = PhoneReader(MU_LAW)
        self._writer = PhoneWriter(MU_LAW)
        self._unsent = b""  # less than a chunk
        self._sent = 0  # codes
        self._played = 0  # of those
        self._least = math.inf  # of those sent and not played, when a mark came back

    def open(self, upgrade: Upgrade) -> Iterator[Out]:
        yield from ()

    def decode(self, message: str | bytes) -> Iterator[Out]:
        if isinstance(message, bytes):
            raise WireError("A binary message came.", "Send Twilio's JSON messages as text.")
        values = json_object(message, "The message")
        match values.get("event"):
            case "start":
                yield from self._start(values)
            case "media":
                yield from self._media(_object(values, "media"))
            case "dtmf":
                yield StopSpeaking()
            case "mark":
                self._mark(_object(values, "mark").get("name"))
            case "stop":
                yield Closing("left")

    def encode(self, event: ServerEvent) -> Iterator[Out]:
        match event:
            case np.ndarray():
                yield from self._sound(event)
            case Hushed(on=True):
                yield self._message("clear")

    def _start(self, values: Mapping[str, Any]) -> Iterator[Out]:
        start = _object(values, "start")
        stream = start.get("streamSid", values.get("streamSid"))
        if self._stream or not isinstance(stream, str) or not 0 < len(stream) <= MAX_NAME:
            raise WireError("The call starts twice, or without a streamSid.", "Send `start` as Twilio does.")
        if (encoding := _object(start, "mediaFormat").get("encoding", ENCODING)) != ENCODING:
            raise UsageError(f"The sound is {encoding!r:.40}.", f"Send {ENCODING}.")
        self._stream = stream
        asked = {name: str(value) for name, value in _object(start, "customParameters").items() if value is not None}
        yield Credentials(asked.pop("token", None))
        yield Begin(Request.from_query(asked))

    def _media(self, media: Mapping[str, Any]) -> Iterator[Out]:
        if not self._stream:
            raise WireError("Sound came before the call has started.", "Send `start` first.")
        if media.get("track", "inbound") == "inbound":  # the other one is ours
            yield self._reader.read(_decoded(media.get("payload")))

    def _mark(self, name: object) -> None:
        """Twilio has played what came before this mark, or thrown it away at a `clear`."""
        if isinstance(name, str) and name.isdecimal() and len(name) <= MAX_NAME:  # else it is none of ours
            self._played = min(int(name), self._sent)
            self._least = min(self._least, self._sent - self._played)

    def _sound(self, pcm: Samples) -> Iterator[Out]:
        codes = self._writer.write(pcm)
        if self._sent - self._played > self._least + MAX_LATE and level(pcm) <= SPEECH_LEVEL:
            return
        codes = self._unsent + codes
        whole = len(codes) // CHUNK * CHUNK
        self._unsent = codes[whole:]
        if whole:
            self._sent += whole
            yield self._message("media", payload=base64.b64encode(codes[:whole]).decode())
            yield self._message("mark", name=str(self._sent))

    def _message(self, event: str, **values: str) -> str:
        return json.dumps({"event": event, "streamSid": self._stream, **({event: values} if values else {})})


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The JSON object of that name; an empty one if there is none. Raises WireError for what is no object."""
    if not isinstance(value := values.get(name) or {}, dict):
        raise WireError(f"`{name}` is not a JSON object.", "Send Twilio's messages.")
    return value


def _decoded(payload: Any) -> bytes:
    try:
        codes = base64.b64decode(payload, validate=True)
    except (TypeError, ValueError) as error:
        raise WireError("The sound is not base64.", "Send mu-law codes as base64 under `payload`.") from error
    if len(codes) > MOST:
        raise WireError(f"{len(codes) / RATE:.0f} s of sound came at once.", "Send 20 ms in a message, as Twilio does.")
    return codes
