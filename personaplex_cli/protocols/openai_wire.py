"""What OpenAI's two voice protocols share: JSON events with ids, sound as base64 in one of a few formats, errors.

An event that makes no sense is answered with an error that names it by its id, and the session goes on: clients of
these protocols send much that this model cannot do.
"""

import base64
import json
import secrets
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from personaplex_cli.audio.g711 import A_LAW, MU_LAW, PhoneReader, PhoneWriter
from personaplex_cli.audio.g711 import RATE as PHONE_RATE
from personaplex_cli.audio.pcm import PcmReader, PcmWriter
from personaplex_cli.errors import PersonaplexError, UsageError, either
from personaplex_cli.protocols.adapter import Adapter, Begin, Did, Out, Upgrade, pieces
from personaplex_cli.protocols.wire import MAX_NAME, MAX_PROMPT, Request, WireError, json_object
from personaplex_cli.samples import FRAME_SECONDS, SAMPLE_RATE, Samples

MODEL = "personaplex"  # unless the client calls it something else
MAX_SOUND_SECONDS = 20.0  # in one event
VALID_SECONDS = 86_400  # that a session is said to last; how long it may, only the server's owner knows
MAX_ID = 512  # characters, as OpenAI has it
INVALID = "invalid_request_error"


@dataclass(frozen=True)
class Format:
    """How sound travels; `rate` in hertz."""

    type: str
    rate: int

    @property
    def bytes_per_second(self) -> int:
        return self.rate * (2 if self.type == "audio/pcm" else 1)

    def reader(self) -> "PcmReader | PhoneReader":
        return PcmReader(self.rate) if self.type == "audio/pcm" else PhoneReader(_LAWS[self.type])

    def writer(self) -> "PcmWriter | PhoneWriter":
        return PcmWriter(self.rate) if self.type == "audio/pcm" else PhoneWriter(_LAWS[self.type])


PCM = Format("audio/pcm", SAMPLE_RATE)
PCM_RATES = (16_000, SAMPLE_RATE)
_LAWS = {"audio/pcmu": MU_LAW, "audio/pcma": A_LAW}
_PHONE = {name: Format(name, PHONE_RATE) for name in _LAWS}
_OLD_NAMES = {"pcm16": PCM, "g711_ulaw": _PHONE["audio/pcmu"], "g711_alaw": _PHONE["audio/pcma"]}  # of the beta
_FORMATS = {"audio/pcm": PCM, **_PHONE, **_OLD_NAMES}
_FORMAT_NAMES = f"audio/pcm with a rate of {either(map(str, PCM_RATES))}, {' and '.join(_PHONE)} with {PHONE_RATE}"


class Rejected(PersonaplexError):
    """An event that cannot be met; `code` and `param` are for programs."""

    def __init__(self, what: str, code: str = "invalid_value", param: str | None = None) -> None:
        super().__init__(what)
        self.code = code
        self.param = param


class OpenAIAdapter(Adapter):
    """A protocol writes `_obey`, `encode` and `_error`."""

    subprotocols = ("realtime",)  # browsers hang up where none of those that they offer is taken
    says_who = True
    fills_silence = True  # clients are muted, push buttons to talk, or wait to be greeted

    def __init__(self) -> None:
        self._asked = Request()  # who shall talk
        self._voice_of_query: str | None = None
        self._model = MODEL
        self._format_in = self._format_out = PCM
        self._reader, self._writer = PCM.reader(), PCM.writer()
        self._noted: set[str] = set()

    def open(self, upgrade: Upgrade) -> Iterator[Out]:
        self._asked = Request.from_query(upgrade.query)
        self._voice_of_query = self._asked.voice
        self._model = upgrade.query.get("model", MODEL)[:MAX_NAME]
        yield from ()

    def decode(self, message: str | bytes) -> Iterator[Out]:
        if isinstance(message, bytes):
            raise WireError("A binary message came.", "Send JSON as text.")
        event = json_object(message, "The message")
        try:
            yield from self._obey(event)
        except Rejected as rejected:
            yield self._error(INVALID, rejected.code, str(rejected), rejected.param, text_of(event, "event_id"))
        except RecursionError:  # what could be read may still be too deep to be told again
            raise WireError("The message is nested too deeply.", "Send a flatter one.") from None

    @abstractmethod
    def _obey(self, event: Mapping[str, Any]) -> Iterator[Out]:
        """What the client's event comes to. Raises Rejected."""

    @abstractmethod
    def _error(self, kind: str, code: str | None, what: str, param: str | None, event_id: str | None) -> str:
        """The event that says that something went wrong with another one."""

    def _ask(self, instructions: str | None, voice: str | None) -> bool:
        """Take on who shall talk; None leaves it. Returns whether that is news. Raises UsageError."""
        asked = self._asked
        if instructions is not None:
            asked = replace(asked, prompt=instructions.strip() or None)
        if voice is not None:
            asked = replace(asked, voice=voice[:MAX_NAME].removesuffix(".pt") or None)
        if (length := len(asked.prompt or "")) > MAX_PROMPT:  # nobody else shall speak in their place
            raise UsageError(f"The instructions have {length} characters.", f"The model takes {MAX_PROMPT}.")
        before, self._asked = self._asked, asked
        return before != asked

    def _begin(self) -> Begin:
        """A voice of OpenAI's may be asked for in events; the query is ours."""
        return Begin(self._asked, any_voice=not self._voice_of_query or self._asked.voice != self._voice_of_query)

    def _complaint(self, error: PersonaplexError) -> str:
        """The event for an error that ends the session, or for a message that is none."""
        kind = INVALID if isinstance(error, UsageError | WireError) else "server_error"
        return self._error(kind, None, f"{error} {error.hint}".strip(), None, None)

    def _heard(self, text: object) -> Iterator[Samples]:
        """The user's sound in an event, [n] at 24 kHz, a second at a time. Raises Rejected."""
        try:
            data = base64.b64decode(text, validate=True)  # type: ignore[arg-type]  # what else it is, it says
        except (TypeError, ValueError):
            raise Rejected("The sound is not base64.", "invalid_base64", "audio") from None
        if len(data) > MAX_SOUND_SECONDS * self._format_in.bytes_per_second:
            raise Rejected("Too much sound came at once.", "string_above_max_length", "audio")
        return map(self._reader.read, pieces(data, self._format_in.bytes_per_second))

    def _said(self, pcm: Samples) -> str:
        """The agent's sound, as base64."""
        return base64.b64encode(self._writer.write(pcm)).decode()

    def _listen_in(self, format: Format) -> None:
        if format != self._format_in:
            self._format_in, self._reader = format, format.reader()

    def _speak_in(self, format: Format) -> None:
        if format != self._format_out:
            self._format_out, self._writer = format, format.writer()

    def _note(self, what: str) -> Iterator[Did]:
        """Tell the server's owner once that a client wants what the model cannot do."""
        if what not in self._noted:
            self._noted.add(what)
            yield Did(what)


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(8)}"


def event_json(kind: str, **values: Any) -> str:
    return json.dumps({"type": kind, "event_id": new_id("event"), **values})


def milliseconds(frame: int) -> int:
    """When a frame begins."""
    return round(1000 * FRAME_SECONDS * frame)


# Fields of what strangers send: what is not there is None, what is of another kind is Rejected.


def object_of(values: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The object under these names, one in the other; an empty one if there is none."""
    for at, name in enumerate(names):
        value = values.get(name)
        if value is not None and not isinstance(value, dict):
            raise Rejected(f"`{name}` is not an object.", "invalid_type", ".".join(names[: at + 1]))
        values = value or {}
    return values


def text_of(values: Mapping[str, Any], name: str) -> str | None:
    """Text; None as well if it is something else, or not fit for a reply: ids and names only."""
    value = values.get(name)
    return value if isinstance(value, str) and _is_text(value) and len(value) <= MAX_ID else None


def prose_of(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not (isinstance(value, str) and _is_text(value)):
        raise Rejected(f"`{name}` is not text.", "invalid_type", name)
    return value


def voice_of(values: Mapping[str, Any]) -> str | None:
    """The name of a voice; a voice may also be an object with an id."""
    voice = values.get("voice")
    return text_of(voice, "id") if isinstance(voice, dict) else text_of(values, "voice")


def whole_of(values: Mapping[str, Any], name: str) -> int:
    """A whole number; 0 if it is none."""
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53 else 0


def format_of(values: Mapping[str, Any], name: str) -> Format | None:
    """A format that is asked for, as an object or, as in the beta, by name; None if none is."""
    if (value := values.get(name)) is None:
        return None
    kind, rate = (value.get("type"), value.get("rate")) if isinstance(value, dict) else (value, None)
    usual = _FORMATS.get(kind) if isinstance(kind, str) else None
    if usual is None or rate not in (None, *(PCM_RATES if usual == PCM else (usual.rate,))):
        raise Rejected(f"There is no such format of sound here: there are {_FORMAT_NAMES}.", "invalid_value", name)
    return replace(usual, rate=rate or usual.rate)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
