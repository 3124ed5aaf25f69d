"""One connection to a server, from dialling to hanging up, on a thread of its own.

The engine uses plain methods that never wait for the network: `say` queues a frame to be sent, `hear` takes what has
come. asyncio stays inside. What was said while the network was too slow is lost, never sent late: delay would stay.
"""

import asyncio
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from aiohttp import ClientWebSocketResponse, WSMessage, WSMsgType

from personaplex_cli import __version__
from personaplex_cli.audio.opus import OpusReader, OpusWriter
from personaplex_cli.audio.queue import NOTHING
from personaplex_cli.conversation import Disconnected
from personaplex_cli.errors import AudioError, NetworkError
from personaplex_cli.events import Glitch, Listener, Network, Note, Notice, Phase, State
from personaplex_cli.options import RemoteOptions
from personaplex_cli.protocols import wire
from personaplex_cli.protocols.budget import Budget
from personaplex_cli.samples import Samples

# All in seconds. Those without a source are choices, not measurements.
CONNECT_TIMEOUT = 10.0
READY_TIMEOUT = 60.0  # without a message before the handshake; NVIDIA's server primes for up to 30 s, without pongs
DEAD_TIMEOUT = 10.0  # without a message afterwards, as in NVIDIA's web client
STALL_TIMEOUT = 2.0  # without a message, and sending pauses until there is one: sound would only pile up on the way
PING_INTERVAL = 1.0
METADATA_TIMEOUT = 0.25  # after the handshake, for a server to describe the conversation; not all do
CLOSE_TIMEOUT = 0.5  # for the server's closing message
TLS_CLOSE_SECONDS = 0.25  # which aiohttp recommends to wait after closing TLS, as it does not wait itself
MAX_ARRIVALS = 1_000  # not taken yet; what comes then is lost
# What a server may cost its client. A model says some 20 characters a second, and most servers have nothing to note.
MAX_MESSAGE_BYTES = 1 << 20
CHARACTERS, CHARACTERS_PER_SECOND = 10_000, 1_000
NOTES, NOTES_PER_SECOND, MAX_NOTE = 10, 1.0, 500
# What is kept of metadata.
DESCRIPTION = {"personaplex", wire.BEGIN, "model", "precision", "seed", "prompt_frames", "context", "memory"}
MAX_NUMBER = 1 << 63
# Close codes after which calling again makes no sense: the server meant it, or this client did something wrong. With
# 1001 and from 1011 on it is the server that is in trouble (RFC 6455, section 7.4); from 4000 on they are its own.
FATAL_CLOSE_CODES = {1000, 1002, 1003, *range(1007, 1011), *range(4000, 5000)}


class Arrival(NamedTuple):
    """Sound [n] or words that came, and when, on the monotonic clock."""

    at: float
    pcm: Samples = NOTHING
    text: str = ""


REFUSALS = {  # what our own servers give as the reason
    "busy": "is busy: all places are taken",
    "slow": "is busy: its model has all it can do",
    "address": "has enough conversations with your address",
    "loading": "is still loading its model",
    "shutdown": "shuts down",
}
T = TypeVar("T")

READY = Arrival(0.0)  # the handshake: what came before it belongs to the conversation before


class Connection:
    """Dials at once. `name` is the server's host and port, `metadata` what it has sent about itself.

    At most `max_unsent` frames wait to be sent; for another one the oldest is dropped, and counted in `unsent`.
    `listen` gets states, notes, glitches and the round trip, from the connection's thread.
    """

    def __init__(
        self, url: str, options: RemoteOptions, query: Mapping[str, str], max_unsent: int, listen: Listener
    ) -> None:
        self.name = urlsplit(url).netloc  # nothing secret
        self.metadata: dict[str, Any] = {}
        self._renewed: tuple[int, int] | None = None
        self.query = query
        self.unsent = 0
        self._characters = Budget(CHARACTERS, CHARACTERS_PER_SECOND)
        self._notes = Budget(NOTES, NOTES_PER_SECOND)
        self._place: int | None = None  # in the server's queue
        self._url = url
        self._options = options
        self._listen = listen
        self._error: NetworkError | None = None  # why it is over
        self._ready = False  # the handshake has come
        self._described = threading.Event()  # metadata came after the handshake, or it is over
        self._arrived: SimpleQueue[Arrival | None] = SimpleQueue()  # None: it is over
        self._waiting: deque[Samples | wire.Message] = deque(maxlen=max_unsent)  # to be sent
        self._anything = asyncio.Event()  # waits
        self._reader = OpusReader()
        self._server_step: float | None = None
        self._last_words = ""  # of the server, about what is wrong
        self._unsaid = ""  # those that came last: a note of their own, unless the server hangs up with them
        self._heard_at = 0.0
        self._pinged_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._talking = self._loop.create_task(self._talk())
        self._thread = threading.Thread(target=self._run, name="connection", daemon=True)
        self._thread.start()

    # The engine's thread.

    def wait(self, seconds: float | None = None) -> None:
        """Until the server is ready, at most for so long: in a queue it goes on as long as the server says so.

        Raises Disconnected where another attempt may help, else NetworkError.
        """
        until = None if seconds is None else time.monotonic() + seconds
        try:
            while self._next(None if until is None else max(0.0, until - time.monotonic())) is not READY:
                pass
        except Empty as error:
            queue = "" if self._place is None else f": still {self._place} before you"
            raise NetworkError(f"The wait for {self.name} takes too long{queue}.", "Try again later.") from error
        self._described.wait(METADATA_TIMEOUT)

    def begin_again(self, query: Mapping[str, str]) -> bool:
        """Ask for another conversation in place of this one; `wait` for it. False if the server cannot do that.

        `query` may ask for another character.
        """
        same = query == self.query
        if ("personaplex" if same else wire.BEGIN) not in self.metadata or not self._thread.is_alive():
            return False
        self.query = query
        self._listen(State(Phase.WARMING_UP, self.name))
        self._ready = False
        self._described.clear()
        self._call(self._waiting.clear)
        self.say(wire.Control(wire.Action.RESTART) if same else wire.Metadata({wire.BEGIN: dict(query)}))
        return True

    def say(self, what: Samples | wire.Message) -> None:
        """Queue a frame [1920] or a message to be sent."""
        self._call(self._queue, what)

    def hear(self, seconds: float) -> Arrival | None:
        """The next arrival, waiting for at most so long; None if there is none. Raises what `wait` raises."""
        with suppress(Empty):
            return self._next(max(0.0, seconds))
        return None

    def hang_up(self) -> None:
        """End it; from any thread, any number of times."""
        self._call(self._stop)
        self._thread.join(4 * CLOSE_TIMEOUT)  # looking up a name cannot be interrupted: do not wait for that

    def _next(self, seconds: float | None = None) -> Arrival:
        arrival = self._arrived.get(timeout=seconds)
        if arrival is None:
            self._arrived.put(None)  # it stays over
            raise self._error or Disconnected("The connection was ended.")
        return arrival

    def _call(self, action: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: it is over
            self._loop.call_soon_threadsafe(action, *arguments)

    # The connection's own thread.

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop), suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._talking)
        except NetworkError as error:
            self._error = error
        except Exception as error:
            what = f"The conversation with {self.name} failed ({type(error).__name__}: {error})."
            self._error = NetworkError(what, "Please report this.")
        finally:
            self._described.set()
            self._arrived.put(None)

    def _stop(self) -> None:
        if not self._talking.cancelling():  # else it is tidying up, which must not be interrupted
            self._talking.cancel()

    def _queue(self, what: Samples | wire.Message) -> None:
        if len(self._waiting) == self._waiting.maxlen:  # then the oldest is dropped
            self.unsent += 1
        self._waiting.append(what)
        self._anything.set()

    async def _talk(self) -> None:
        self._listen(State(Phase.CONNECTING, self.name))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(self._refuse_redirect)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trace_configs=[trace]) as session,
                await self._dial(session) as socket,
            ):
                self._listen(State(Phase.WARMING_UP, self.name))
                self._heard_at = time.monotonic()
                others = [asyncio.create_task(self._speak(socket)), asyncio.create_task(self._ping(socket))]
                try:
                    await self._take_in(socket)
                finally:
                    for task in others:
                        task.cancel()
                    # They fail when the connection does, for which `_take_in` has the better error.
                    await asyncio.gather(*others, return_exceptions=True)
        finally:
            if self._url.startswith("wss:"):
                await asyncio.sleep(TLS_CLOSE_SECONDS)

    async def _dial(self, session: aiohttp.ClientSession) -> ClientWebSocketResponse:
        token = self._options.token
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                return await session.ws_connect(
                    self._url,
                    params={**self.query, wire.KNOWS_METADATA: "1"},
                    headers={"Authorization": f"Bearer {token}"} if token else {},
                    ssl=not self._options.insecure,
                    autoping=False,  # our own pings measure the round trip
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
                    max_msg_size=MAX_MESSAGE_BYTES,
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a timeout is an OSError
            raise explained(self._url, bool(token), error) from error

    async def _refuse_redirect(self, *details: Any) -> NoReturn:
        """The voice and the prompt are in the query: they go where the user said, and nowhere else."""
        what = f"{self.name} redirects to another address."
        raise NetworkError(what, "Redirects are not followed: ask for its real address.")

    async def _take_in(self, socket: ClientWebSocketResponse) -> None:
        """Take what comes until it is over, which is always an error: hanging up here cancels this task."""
        while True:
            timeout = DEAD_TIMEOUT if self._ready else READY_TIMEOUT
            try:
                await self._take(await socket.receive(timeout), socket)
            except TimeoutError as error:
                hint = "" if self._ready else "It may be busy with another conversation. Try again later."
                raise Disconnected(f"{self.name} has been silent for {timeout:.0f} s.", hint) from error
            except (wire.WireError, AudioError) as error:
                what = f"{self.name} does not speak Moshi's protocol: {error}"
                raise NetworkError(what, "Is this the right address?") from error

    async def _take(self, message: WSMessage, socket: ClientWebSocketResponse) -> None:
        self._heard_at = time.monotonic()
        if self._unsaid and message.type in (WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG):
            self._note(self._unsaid)
            self._unsaid = ""
        match message.type:
            case WSMsgType.BINARY:
                self._understand(wire.unpack(message.data))
            case WSMsgType.TEXT if not self._ready and message.data[:1] == "{":  # Moshi's protocol has no JSON
                hint = f"Leave the path away: {self._url.split('://')[0]}://{self.name}"
                raise NetworkError(f"{self.name} speaks another protocol at this path.", hint)
            case WSMsgType.PING:
                await socket.pong(message.data)
            case WSMsgType.PONG if message.data == str(self._pinged_at).encode():  # of the last ping
                round_trip = 1000 * (self._heard_at - self._pinged_at)
                self._listen(Network(round(round_trip, 2), self._server_step))
            case WSMsgType.CLOSE:
                reason = self._last_words or message.extra
                what = f"{self.name} ended the conversation" + (f": {reason}" if reason else ".")
                raise NetworkError(what) if message.data in FATAL_CLOSE_CODES else Disconnected(what)
            case WSMsgType.CLOSED | WSMsgType.CLOSING | WSMsgType.ERROR:
                raise Disconnected(f"The connection to {self.name} broke off.", self._last_words)

    def _understand(self, message: wire.Message | None) -> None:
        match message:
            case wire.Handshake() if not self._ready:
                self._ready = True
                self._arrived.put(READY)
            case wire.Sound(ogg):
                self._arrive(pcm=self._reader.read(ogg))
            case wire.Words(text) if self._characters.spend(len(text)):
                self._arrive(text=text)
            case wire.Metadata(values):
                self._learn(values)
            case wire.Failure(text) if self._ready:
                self._last_words = self._unsaid = text[:MAX_NOTE]
            case wire.Failure(text):
                raise NetworkError(f"{self.name} refuses: {text[:MAX_NOTE]}", "Change the request, or try later.")

    def _arrive(self, pcm: Samples = NOTHING, text: str = "") -> None:
        if (len(pcm) or text) and self._arrived.qsize() < MAX_ARRIVALS:  # nothing at all would keep a step busy
            self._arrived.put(Arrival(self._heard_at, pcm, text))

    def renewed(self) -> tuple[int, int] | None:
        """Whether the model's memory was renewed since this was asked last: frames remembered, and taken."""
        renewed, self._renewed = self._renewed, None
        return renewed

    def _learn(self, values: dict[str, Any]) -> None:
        """What the server says about itself; this project's does, others need not."""
        if "personaplex" in values:  # an older one needs a message to know that we understand these
            self.say(wire.Metadata({"personaplex": __version__}))
        self.metadata = {**self.metadata, **{name: values[name] for name in DESCRIPTION & values.keys()}}
        if self._ready:
            self._described.set()
        if isinstance(renewed := values.get("renewed"), dict):
            self._renewed = known(renewed, "remembered", int) or 0, known(renewed, "filled", int) or 0
        if (place := known(values, "queue", int)) not in (None, self._place) and self._notes.spend():
            self._place = place
            self._listen(State(Phase.WAITING, f"at {self.name}, {place} before you"))
        if (recorded := known(values, "recorded", bool)) is not None and self._notes.spend():
            self._listen(Notice(f"{self.name} records what is said.", recorded))
        if lost := known(values, "lost", str):
            self._note(lost)
        for kind in (int, float):
            self._server_step = known(values, "step_ms", kind) or self._server_step

    def _note(self, text: str) -> None:
        if self._notes.spend():
            self._listen(Note(f"{self.name}: {text[:MAX_NOTE]}"))

    async def _speak(self, socket: ClientWebSocketResponse) -> None:
        """Send what is said, unless the network has stalled: then it waits, and the oldest frames are dropped."""
        writer = OpusWriter()
        while True:
            await self._anything.wait()
            self._anything.clear()
            while self._waiting and time.monotonic() - self._heard_at < STALL_TIMEOUT:
                what = self._waiting.popleft()
                message = wire.Sound(writer.write(what)) if isinstance(what, np.ndarray) else what
                await socket.send_bytes(wire.pack(message))

    async def _ping(self, socket: ClientWebSocketResponse) -> None:
        """Measure the round trip, and report what was not sent meanwhile."""
        reported = 0
        while True:
            if self.unsent > reported:
                reported = self.unsent
                self._listen(Glitch("unsent", reported, "the network is too slow"))
            self._pinged_at = time.monotonic()
            await socket.ping(str(self._pinged_at).encode())
            await asyncio.sleep(PING_INTERVAL)


def known(metadata: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    """What a server says about itself, None if it is missing, of another kind or absurd; true is no number."""
    value = metadata.get(name)
    if type(value) is not kind:
        return None
    if isinstance(value, int | float) and not 0 <= value < MAX_NUMBER:  # nor infinite, nor NaN
        return None
    return None if isinstance(value, str) and len(value) > MAX_NOTE else value


def explained(url: str, has_token: bool, error: Exception) -> NetworkError:
    """Why a server cannot be reached, or answers with anything but a WebSocket, and what to do."""
    name = urlsplit(url).netloc
    match error:
        case aiohttp.WSServerHandshakeError(status=401 | 403):
            what = f"{name} does not accept this token." if has_token else f"{name} requires a token."
            return NetworkError(what, "Give the one that the server was started with: --token.")
        case aiohttp.WSServerHandshakeError(status=503):
            after = error.headers.get("Retry-After", "") if error.headers else ""
            hint = f"Try again in {after} s." if re.fullmatch("[0-9]{1,5}", after) else "Try again later."
            why = error.headers.get("X-Personaplex-Error", "") if error.headers else ""
            return Disconnected(f"{name} {REFUSALS.get(why, 'is busy, or still loading its model')}.", hint)
        case aiohttp.WSServerHandshakeError(status=421):
            return NetworkError(f"{name} does not know this name.", "Use its IP address, or start it with --origin.")
        case aiohttp.WSServerHandshakeError(status=status) if status == 429 or status >= 500:
            return Disconnected(f"{name} has a problem (HTTP {status}).", "Try again later.")
        case aiohttp.WSServerHandshakeError(status=status):
            hint = f"Check it: {url.partition('?')[0]}"
            return NetworkError(f"{name} offers no conversation at this address (HTTP {status}).", hint)
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "unknown"
            return NetworkError(f"The certificate of {name} is not trusted: {reason}.", "If it is yours: --insecure.")
        case aiohttp.ClientConnectorSSLError():
            return NetworkError(f"{name} does not speak TLS.", "Try ws:// instead of wss://.")
        case aiohttp.ClientConnectorDNSError():
            return Disconnected(f"Cannot find {name}: no such host.", "Check the name, and your network.")
        case aiohttp.ClientConnectorError():
            reason = os.strerror(error.os_error.errno) if error.os_error.errno else str(error.os_error)
            return Disconnected(f"Cannot reach {name}: {reason}.", "Is `personaplex serve` running there?")
        case TimeoutError():
            return Disconnected(f"{name} does not answer.", "Check the address, and any firewall in between.")
        case aiohttp.ClientConnectionError() | aiohttp.ClientResponseError():
            return Disconnected(f"{name} hung up at once.", "A server with TLS needs wss://; check the port, too.")
        case _:
            return NetworkError(f"Cannot connect to {name}: {error}.", "Check the address.")
