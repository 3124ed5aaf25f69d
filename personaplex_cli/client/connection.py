"""One connection to a server, from dialling to hanging up, on a thread of its own.

Whoever talks uses plain methods that never wait for the network: `say` leaves a frame to be sent, `hear` takes what has
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
from personaplex_cli.client.address import Server
from personaplex_cli.conversation import Disconnected
from personaplex_cli.errors import AudioError, NetworkError
from personaplex_cli.events import Listener, Network, Note, State
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

CONNECT_SECONDS = 10.0
READY_SECONDS = 60.0  # without a sign of life before the handshake; NVIDIA's server primes for up to 30 s, deaf
DEAD_SECONDS = 10.0  # without one afterwards
STALL_SECONDS = 2.0  # without one, and nothing more is sent until there is: it would only pile up on the way
PING_SECONDS = 1.0
INTRODUCTION_SECONDS = 0.25  # after the handshake, for a server to tell about the conversation; not all do
CLOSE_SECONDS = 0.5  # for the server to say goodbye, too
TLS_SECONDS = 0.25  # that aiohttp wants for closing TLS, which it does not wait for itself
MAX_ARRIVALS = 1_000  # that nobody took; what comes then is lost
# Goodbyes after which it makes no sense to come back: it was meant, or something about us is wrong.
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
    """Dials at once. `metadata` is what the server has told. At most `most_waiting` frames wait to be sent; the oldest
    is dropped for another one, and counted in `unsent`. `listen` hears states, notes and the round trip, from the
    connection's thread.
    """

    def __init__(self, server: Server, query: Mapping[str, str], most_waiting: int, listen: Listener) -> None:
        self.metadata: dict[str, Any] = {}
        self.unsent = 0
        self._server = server
        self._query = query
        self._most_waiting = most_waiting
        self._listen = listen
        self._error: NetworkError | None = None  # why it is over
        self._settled = threading.Event()  # the handshake has come, or it is over
        self._shaken = False
        self._over = False
        self._introduced = threading.Event()  # something was told after the handshake
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

    # The thread of whoever talks.

    def wait(self) -> None:
        """Until the server is ready. Raises NetworkError, or Disconnected where it may help to try again."""
        self._settled.wait()
        if not self._shaken:
            raise self._error or Disconnected("The connection was ended.")
        self._introduced.wait(INTRODUCTION_SECONDS)

    def begin_again(self) -> bool:
        """Ask for another conversation in place of this one, then `wait`; False if the server cannot do that."""
        if "personaplex" not in self.metadata or self._over:
            return False
        self._listen(State("warming up", self._server.name))
        self._shaken = False
        self._settled.clear()
        self._introduced.clear()
        with self._lock:
            self._waiting.clear()
        self.say(Control(Action.RESTART))
        if self._over:  # just now: nobody else would tell
            self._settled.set()
        return True

    def say(self, what: Samples | Control | Metadata) -> None:
        """Leave a frame [1920] or a wish to be sent."""
        with self._lock:
            if len(self._waiting) >= self._most_waiting:
                self._waiting.popleft()
                self.unsent += 1
            self._waiting.append(what)
        self._tell(self._anything.set)

    def hear(self, seconds: float) -> Arrival | None:
        """The oldest that came and was not taken; waits for it so long at most. Raises what `wait` raises."""
        try:
            arrival = self._arrived.get(timeout=max(0.0, seconds))
        except Empty:
            return None
        if arrival is None:
            raise self._error or Disconnected("The connection was ended.")
        return arrival

    def hang_up(self) -> None:
        """End it; from any thread, as often as you like."""
        self._tell(self._hung_up.set)
        self._thread.join(4 * CLOSE_SECONDS)  # looking up a name cannot be interrupted: do not wait for that

    def _tell(self, do: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: it is over
            self._loop.call_soon_threadsafe(do)

    # The connection's own thread.

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._until_hung_up())
        except NetworkError as error:
            self._error = error
        except Exception as error:
            self._error = NetworkError(f"Talking with {self._server.name} failed ({type(error).__name__}: {error}).")
        finally:
            self._over = True
            self._introduced.set()
            self._arrived.put(None)
            self._settled.set()

    async def _until_hung_up(self) -> None:
        talking, leaving = asyncio.create_task(self._talk()), asyncio.create_task(self._leave())
        await asyncio.wait((talking, leaving), return_when=asyncio.FIRST_COMPLETED)
        for task in (talking, leaving):
            task.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await talking
        finally:
            if self._server.url.startswith("wss:"):
                await asyncio.sleep(TLS_SECONDS)

    async def _leave(self) -> None:
        await self._hung_up.wait()

    async def _talk(self) -> None:
        self._listen(State("connecting", self._server.name))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, await self._dial(session) as socket:
            self._listen(State("warming up", self._server.name))
            self._heard_at = time.monotonic()
            others = [asyncio.create_task(self._speak(socket)), asyncio.create_task(self._ping(socket))]
            try:
                await self._take_in(socket)
            finally:
                for task in others:
                    task.cancel()
                # They fail when the connection does, of which `_take_in` tells more.
                await asyncio.gather(*others, return_exceptions=True)

    async def _dial(self, session: aiohttp.ClientSession) -> ClientWebSocketResponse:
        server = self._server
        try:
            async with asyncio.timeout(READY_SECONDS):
                return await session.ws_connect(
                    server.url,
                    params=self._query,
                    headers={"Authorization": f"Bearer {server.token}"} if server.token else {},
                    ssl=not server.insecure,
                    autoping=False,  # our own pings measure the round trip
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a timeout is an OSError
            raise explained(server, error) from error

    async def _take_in(self, socket: ClientWebSocketResponse) -> None:
        """Take what comes until it is over; that is always an error, as nobody hung up here."""
        while True:
            patience = DEAD_SECONDS if self._shaken else READY_SECONDS
            try:
                async with asyncio.timeout(patience):
                    await self._take(await socket.receive(), socket)
            except TimeoutError as error:
                hint = "" if self._shaken else "Perhaps it talks with somebody else. Try again later."
                raise Disconnected(f"{self._server.name} has been silent for {patience:.0f} s.", hint) from error
            except (WireError, AudioError) as error:
                what = f"{self._server.name} does not speak Moshi's protocol: {error}"
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
                raise Disconnected(f"The connection to {self._server.name} broke off.", self._last_words)

    def _understand(self, message: Message | None) -> None:
        match message:
            case Handshake() if not self._shaken:
                while not self._arrived.empty():  # what still came of the conversation before
                    self._arrived.get()
                self._shaken = True
                self._settled.set()
            case Sound(ogg):
                self._arrive(Arrival(self._heard_at, pcm=self._reader.read(ogg)))
            case Words(text):
                self._arrive(Arrival(self._heard_at, text=text))
            case Metadata(values):
                self._note_down(values)
            case Failure(text) if self._shaken:
                self._last_words = text
                self._listen(Note(f"{self._server.name}: {text}"))
            case Failure(text):
                raise NetworkError(f"{self._server.name} refuses: {text}", "Change what you asked for, or try later.")

    def _note_down(self, values: dict[str, Any]) -> None:
        """What the server tells about itself; ours does, others need not."""
        if "personaplex" in values:
            self.say(Metadata({"personaplex": __version__}))  # ours tells the model's pace to who knows metadata
        self.metadata = {**self.metadata, **values}
        if self._shaken:
            self._introduced.set()
        if "queue" in values:
            self._listen(State("warming up", f"{self._server.name}, {values['queue']} before you"))
        if (step := number(values.get("step_ms"))) is not None:
            self._server_step = step

    def _arrive(self, arrival: Arrival) -> None:
        if self._arrived.qsize() < MAX_ARRIVALS:
            self._arrived.put(arrival)

    def _goodbye(self, code: int, reason: str) -> NetworkError:
        """The error for a connection that the server closed in due form."""
        reason = self._last_words or reason
        what = f"{self._server.name} ended the conversation" + (f": {reason}" if reason else ".")
        return NetworkError(what) if code in FATAL_CLOSE_CODES or code >= 4000 else Disconnected(what)

    async def _speak(self, socket: ClientWebSocketResponse) -> None:
        """Send what is said, unless the network has stalled: then it waits, and the oldest is dropped."""
        writer = OpusWriter()
        while True:
            await self._anything.wait()
            self._anything.clear()
            while time.monotonic() - self._heard_at < STALL_SECONDS and (what := self._next()) is not None:
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
            await asyncio.sleep(PING_SECONDS)


def number(value: Any) -> float | None:
    """A number that a server told, None if it is anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def explained(server: Server, error: Exception) -> NetworkError:
    """Why a server cannot be reached, and what to do."""
    name = server.name
    match error:
        case aiohttp.WSServerHandshakeError():
            return _refusal(server, error)
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "unknown"
            return NetworkError(f"The certificate of {name} is not trusted: {reason}.", "If it is yours: --insecure.")
        case aiohttp.ClientConnectorSSLError():
            return NetworkError(f"{name} does not speak TLS.", "Try ws:// instead of wss://.")
        case aiohttp.ClientConnectorDNSError():
            return Disconnected(f"No host of that name is known: {name}.", "Check the name, and your network.")
        case aiohttp.ClientConnectorError():
            reason = os.strerror(error.os_error.errno) if error.os_error.errno else str(error.os_error)
            return Disconnected(f"{name} cannot be reached: {reason}.", "Is `personaplex serve` running there?")
        case TimeoutError():
            return Disconnected(f"{name} does not answer.", "Check the address, and any firewall on the way.")
        case aiohttp.ClientConnectionError() | aiohttp.ClientResponseError():
            return Disconnected(f"{name} hung up at once.", "A server with TLS needs wss://; check the port, too.")
        case _:
            return NetworkError(f"{name} cannot be called: {error}.", "Check the address.")


def _refusal(server: Server, error: aiohttp.WSServerHandshakeError) -> NetworkError:
    """The error for a server that answered, but not with a WebSocket."""
    name, status = server.name, error.status
    if status in (401, 403):
        what = f"{name} does not accept this token." if server.token else f"{name} wants a token."
        return NetworkError(what, "Give the one that the server was started with: --token.")
    if status == 503:
        after = error.headers.get("Retry-After", "") if error.headers else ""
        hint = f"Try again in {after} s." if after.isdecimal() else "Try again later."
        return Disconnected(f"{name} has no time: it talks with somebody else, or loads its model.", hint)
    if status == 429 or status >= 500:
        return Disconnected(f"{name} has a problem (HTTP {status}).", "Try again later.")
    where = server.url.partition("?")[0]
    return NetworkError(f"{name} has no conversation to offer here (HTTP {status}).", f"Check the address: {where}")
