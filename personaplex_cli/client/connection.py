"""One connection to a server, from dialling to hanging up, on a thread of its own.

The engine uses plain methods that never wait for the network: `say` queues a frame to be sent, `hear` takes what has
come. asyncio stays inside. What was said while the network was too slow is lost, never sent late: delay would stay.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import aiohttp
import numpy as np
from aiohttp import ClientWebSocketResponse, WSCloseCode, WSMessage, WSMsgType

from personaplex_cli import __version__
from personaplex_cli.audio.opus import OpusReader, OpusWriter
from personaplex_cli.audio.queue import NOTHING
from personaplex_cli.client.address import Address
from personaplex_cli.conversation import Disconnected
from personaplex_cli.errors import AudioError, NetworkError
from personaplex_cli.events import Listener, Network, Note, Phase, State
from personaplex_cli.protocols.wire import (
    Action,
    Control,
    Failure,
    Handshake,
    Message,
    Metadata,
    Sound,
    WireError,
    Words,
    pack,
    unpack,
)
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
# Close codes after which calling again makes no sense: the server meant it, or this client did something wrong.
FATAL_CLOSE_CODES = {
    WSCloseCode.OK,
    WSCloseCode.PROTOCOL_ERROR,
    WSCloseCode.UNSUPPORTED_DATA,
    WSCloseCode.INVALID_TEXT,
    WSCloseCode.POLICY_VIOLATION,
    WSCloseCode.MESSAGE_TOO_BIG,
    WSCloseCode.MANDATORY_EXTENSION,
}


class Arrival(NamedTuple):
    """Sound [n] or words that came, and when, on the monotonic clock."""

    at: float
    pcm: Samples = NOTHING
    text: str = ""


class Connection:
    """Dials at once. `metadata` is what the server has sent about itself. At most `max_unsent` frames wait to be sent;
    for another one the oldest is dropped, and counted in `unsent`. `listen` gets states, notes and the round trip, from
    the connection's thread.
    """

    def __init__(self, address: Address, query: Mapping[str, str], max_unsent: int, listen: Listener) -> None:
        self.metadata: dict[str, Any] = {}
        self.unsent = 0
        self._address = address
        self._query = query
        self._max_unsent = max_unsent
        self._listen = listen
        self._error: NetworkError | None = None  # why it is over
        self._settled = threading.Event()  # the handshake has come, or it is over
        self._shaken = False
        self._over = False
        self._described = threading.Event()  # metadata came after the handshake
        self._arrived: SimpleQueue[Arrival | None] = SimpleQueue()  # None: it is over
        self._waiting: deque[Samples | Control | Metadata] = deque()
        self._lock = threading.Lock()  # for what waits, held for a moment
        self._reader = OpusReader()
        self._server_step: float | None = None
        self._last_words = ""  # of the server, about what is wrong
        self._heard_at = 0.0
        self._pinged, self._pinged_at = 0, 0.0
        self._loop = asyncio.new_event_loop()
        self._anything = asyncio.Event()  # to be sent
        self._hung_up = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="connection", daemon=True)
        self._thread.start()

    # The engine's thread.

    def wait(self) -> None:
        """Until the server is ready. Raises Disconnected where another attempt may help, else NetworkError."""
        self._settled.wait()
        if not self._shaken:
            raise self._error or Disconnected("The connection was ended.")
        self._described.wait(METADATA_TIMEOUT)

    def begin_again(self) -> bool:
        """Ask for another conversation in place of this one; `wait` for it. False if the server cannot do that."""
        if "personaplex" not in self.metadata or self._over:
            return False
        self._listen(State(Phase.WARMING_UP, self._address.name))
        self._shaken = False
        self._settled.clear()
        self._described.clear()
        with self._lock:
            self._waiting.clear()
        self.say(Control(Action.RESTART))
        if self._over:  # just now, so that its thread will not set it
            self._settled.set()
        return True

    def say(self, what: Samples | Control | Metadata) -> None:
        """Queue a frame [1920] or a message to be sent."""
        with self._lock:
            if len(self._waiting) >= self._max_unsent:
                self._waiting.popleft()
                self.unsent += 1
            self._waiting.append(what)
        self._call(self._anything.set)

    def hear(self, seconds: float) -> Arrival | None:
        """The next arrival, waiting for at most so long; None if there is none. Raises what `wait` raises."""
        try:
            arrival = self._arrived.get(timeout=max(0.0, seconds))
        except Empty:
            return None
        if arrival is None:
            raise self._error or Disconnected("The connection was ended.")
        return arrival

    def hang_up(self) -> None:
        """End it; from any thread, any number of times."""
        self._call(self._hung_up.set)
        self._thread.join(4 * CLOSE_TIMEOUT)  # looking up a name cannot be interrupted: do not wait for that

    def _call(self, action: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: it is over
            self._loop.call_soon_threadsafe(action)

    # The connection's own thread.

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._until_hung_up())
        except NetworkError as error:
            self._error = error
        except Exception as error:
            what = f"The conversation with {self._address.name} failed ({type(error).__name__}: {error})."
            self._error = NetworkError(what, "Please report this.")
        finally:
            self._over = True
            self._described.set()
            self._arrived.put(None)
            self._settled.set()

    async def _until_hung_up(self) -> None:
        talking, leaving = asyncio.create_task(self._talk()), asyncio.create_task(self._hung_up.wait())
        leaving.add_done_callback(lambda _: talking.cancel())
        try:
            with suppress(asyncio.CancelledError):
                await talking
        finally:
            if self._address.url.startswith("wss:"):
                await asyncio.sleep(TLS_CLOSE_SECONDS)

    async def _talk(self) -> None:
        self._listen(State(Phase.CONNECTING, self._address.name))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session, await self._dial(session) as socket:
            self._listen(State(Phase.WARMING_UP, self._address.name))
            self._heard_at = time.monotonic()
            others = [asyncio.create_task(self._speak(socket)), asyncio.create_task(self._ping(socket))]
            try:
                await self._take_in(socket)
            finally:
                for task in others:
                    task.cancel()
                # They fail when the connection does, for which `_take_in` has the better error.
                await asyncio.gather(*others, return_exceptions=True)

    async def _dial(self, session: aiohttp.ClientSession) -> ClientWebSocketResponse:
        address = self._address
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                return await session.ws_connect(
                    address.url,
                    params=self._query,
                    headers={"Authorization": f"Bearer {address.token}"} if address.token else {},
                    ssl=not address.insecure,
                    autoping=False,  # our own pings measure the round trip
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a timeout is an OSError
            raise explained(address, error) from error

    async def _take_in(self, socket: ClientWebSocketResponse) -> None:
        """Take what comes until it is over, which is always an error: hanging up here cancels this task."""
        while True:
            timeout = DEAD_TIMEOUT if self._shaken else READY_TIMEOUT
            try:
                async with asyncio.timeout(timeout):
                    await self._take(await socket.receive(), socket)
            except TimeoutError as error:
                hint = "" if self._shaken else "It may be busy with another conversation. Try again later."
                raise Disconnected(f"{self._address.name} has been silent for {timeout:.0f} s.", hint) from error
            except (WireError, AudioError) as error:
                what = f"{self._address.name} does not speak Moshi's protocol: {error}"
                raise NetworkError(what, "Is this the right address?") from error

    async def _take(self, message: WSMessage, socket: ClientWebSocketResponse) -> None:
        self._heard_at = time.monotonic()
        match message.type:
            case WSMsgType.BINARY:
                self._understand(unpack(message.data))
            case WSMsgType.PING:
                await socket.pong(message.data)
            case WSMsgType.PONG if message.data == str(self._pinged).encode():
                round_trip = 1000 * (self._heard_at - self._pinged_at)
                self._listen(Network(round(round_trip, 2), self._server_step))
            case WSMsgType.CLOSE:
                raise self._goodbye(message.data, message.extra or "")
            case WSMsgType.CLOSED | WSMsgType.CLOSING | WSMsgType.ERROR:
                raise Disconnected(f"The connection to {self._address.name} broke off.", self._last_words)

    def _understand(self, message: Message | None) -> None:
        match message:
            case Handshake() if not self._shaken:
                while not self._arrived.empty():  # the rest of the conversation before
                    self._arrived.get()
                self._shaken = True
                self._settled.set()
            case Sound(ogg):
                self._arrive(Arrival(self._heard_at, pcm=self._reader.read(ogg)))
            case Words(text):
                self._arrive(Arrival(self._heard_at, text=text))
            case Metadata(values):
                self._learn(values)
            case Failure(text) if self._shaken:
                self._last_words = text
                self._listen(Note(f"{self._address.name}: {text}"))
            case Failure(text):
                raise NetworkError(f"{self._address.name} refuses: {text}", "Change the request, or try later.")

    def _learn(self, values: dict[str, Any]) -> None:
        """What the server says about itself; this project's does, others need not."""
        if "personaplex" in values:
            self.say(Metadata({"personaplex": __version__}))  # to clients that know metadata it sends the model's pace
        self.metadata = {**self.metadata, **values}
        if self._shaken:
            self._described.set()
        if "queue" in values:
            self._listen(State(Phase.WARMING_UP, f"{self._address.name}, {values['queue']} before you"))
        if (step := number(values.get("step_ms"))) is not None:
            self._server_step = step

    def _arrive(self, arrival: Arrival) -> None:
        if self._arrived.qsize() < MAX_ARRIVALS:
            self._arrived.put(arrival)

    def _goodbye(self, code: int, reason: str) -> NetworkError:
        """The error for a connection that the server closed properly."""
        reason = self._last_words or reason
        what = f"{self._address.name} ended the conversation" + (f": {reason}" if reason else ".")
        return NetworkError(what) if code in FATAL_CLOSE_CODES or code >= 4000 else Disconnected(what)

    async def _speak(self, socket: ClientWebSocketResponse) -> None:
        """Send what is said, unless the network has stalled: then it waits, and the oldest frames are dropped."""
        writer = OpusWriter()
        while True:
            await self._anything.wait()
            self._anything.clear()
            while time.monotonic() - self._heard_at < STALL_TIMEOUT and (what := self._next()) is not None:
                message = Sound(writer.write(what)) if isinstance(what, np.ndarray) else what
                await socket.send_bytes(pack(message))

    def _next(self) -> Samples | Control | Metadata | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    async def _ping(self, socket: ClientWebSocketResponse) -> None:
        while True:
            self._pinged += 1
            self._pinged_at = time.monotonic()
            await socket.ping(str(self._pinged).encode())
            await asyncio.sleep(PING_INTERVAL)


def number(value: Any) -> float | None:
    """A number that a server sent, None if it is anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def explained(address: Address, error: Exception) -> NetworkError:
    """Why a server cannot be reached, and what to do."""
    name = address.name
    match error:
        case aiohttp.WSServerHandshakeError():
            return _refusal(address, error)
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


def _refusal(address: Address, error: aiohttp.WSServerHandshakeError) -> NetworkError:
    """The error for a server that answered, but not with a WebSocket."""
    name, status = address.name, error.status
    if status in (401, 403):
        what = f"{name} does not accept this token." if address.token else f"{name} requires a token."
        return NetworkError(what, "Give the one that the server was started with: --token.")
    if status == 503:
        after = error.headers.get("Retry-After", "") if error.headers else ""
        hint = f"Try again in {after} s." if after.isdecimal() else "Try again later."
        return Disconnected(f"{name} is busy, or still loading its model.", hint)
    if status == 429 or status >= 500:
        return Disconnected(f"{name} has a problem (HTTP {status}).", "Try again later.")
    where = address.url.partition("?")[0]
    return NetworkError(f"{name} offers no conversation at this address (HTTP {status}).", f"Check it: {where}")
