"""Connections, below HTTP: how many there may be, and how long each may keep the server waiting.

A connection costs its client nothing, so each of its states has a clock:

    asking      from the first moment or the last answer to the end of a request's head, TLS included   HEAD_SECONDS
    answered    from there to the end of the answer                                                     ANSWER_SECONDS
    talking     a WebSocket: its session has clocks of its own
    closing     as asking: who does not take the last bytes is cut off

Where no place is left, the connection that has been asking for the longest makes room: those who ask at once are always
answered, also beside hundreds from the same address who never do.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import ClassVar, cast

from aiohttp import WSMessage, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.web_protocol import RequestHandler

from personaplex_cli.protocols.budget import Budget
from personaplex_cli.server.access import household, parsed
from personaplex_cli.server.fairness import LoopTime, Share

MAX_CONNECTIONS = 256
MAX_PER_ADDRESS = 192  # also all that come through one web server before this one
HEAD_SECONDS = 10.0
ANSWER_SECONDS = 120.0  # for the files of another client (--static) over a slow network
TLS_CLOSING_SECONDS = 2.0
# Bytes since the last request or message: of who talks, one of the longest and what may wait behind it.
MAX_UNFINISHED, MAX_ASKING = 3 << 19, 1 << 17
REQUESTS, REQUESTS_PER_SECOND = 500, 100  # of one connection
PIECE = 1 << 13  # bytes that are read in one go, then others may come first: thousands of empty messages fit into it


class Stage(Enum):
    ASKING = auto()
    ANSWERED = auto()
    TALKING = auto()


class Connections:
    """All of a server's; calling it makes the protocol of another one. `serve` makes aiohttp's part of it."""

    def __init__(self, serve: Callable[[], RequestHandler], tls: ssl.SSLContext | None) -> None:
        self.serve = serve
        self.tls = tls
        self.loop_time = LoopTime()
        self._open: set[Connection] = set()
        logging.getLogger("aiohttp").addHandler(logging.NullHandler())  # else strangers' headers go to the screen

    def __call__(self) -> "Connection":
        return Connection(self)

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: "Connection") -> bool:
        """Count it in, if need be in place of one that asks nothing. False if there is no place."""
        same = [each for each in self._open if each.address == connection.address]
        if len(same) >= MAX_PER_ADDRESS or len(self._open) >= MAX_CONNECTIONS:
            crowd = same if len(same) >= MAX_PER_ADDRESS else self._open
            asking = [each for each in crowd if each.stage is Stage.ASKING]
            if not asking:
                return False
            min(asking, key=lambda each: each.since).drop()
        self._open.add(connection)
        return True

    def forget(self, connection: "Connection") -> None:
        self._open.discard(connection)

    def close(self) -> None:
        """End what is left of them, such as those that still shake hands."""
        for connection in list(self._open):
            connection.drop()


class Connection(asyncio.Protocol):
    """Between a socket and aiohttp, which gets all that comes."""

    # By what aiohttp knows: its transport forgets everything when it is closed twice, as asyncio's of TLS does.
    _of: ClassVar[dict[RequestHandler, "Connection"]] = {}

    def __init__(self, connections: Connections) -> None:
        self.stage = Stage.ASKING
        self.since = 0.0
        self.address = ""
        self.share = Share(connections.loop_time)
        self._all = connections
        self._socket: asyncio.Transport | None = None
        self._handler: RequestHandler | None = None
        self._stream: asyncio.Transport | None = None  # the same without TLS
        self.too_big: Callable[[], None] = self.drop  # what comes has no end: aiohttp would keep it all
        self._unread = bytearray()
        self._unfinished = 0
        self._resting = self._deaf = self._lost = False
        self._wanted = True  # by aiohttp: more from the network, when it rests no more
        self._clock: asyncio.TimerHandle | None = None
        self._budget = Budget(REQUESTS, REQUESTS_PER_SECOND)

    @classmethod
    def of(cls, request: web.BaseRequest) -> "Connection | None":
        """The one that a request came by; None if it is gone."""
        return cls._of.get(request.protocol)

    def enter(self, stage: Stage) -> None:
        """Another state begins, and with it its clock."""
        if self._clock:
            self._clock.cancel()
        self.stage, self.since, self._clock = stage, time.monotonic(), None
        seconds = {Stage.ASKING: HEAD_SECONDS, Stage.ANSWERED: ANSWER_SECONDS}.get(stage)
        if seconds and not self._lost:
            self._clock = asyncio.get_running_loop().call_later(seconds, self.drop)

    def request(self) -> bool:
        """A whole head has come. False if there were too many: the connection is cut off."""
        self.enter(Stage.ANSWERED)
        self._unfinished = 0
        enough = self._budget.spend()
        if not enough:
            self.drop()
        return enough

    def drop(self) -> None:
        """End it now, whatever was still to be sent."""
        self._forget()
        if self._socket:
            self._socket.abort()

    async def receive(self, socket: web.WebSocketResponse) -> WSMessage:
        """The client's next message."""
        message = await socket.receive()
        self._unfinished = 0
        return message

    def drop_unless_read(self) -> None:
        """End it if it does not even take a goodbye."""
        if self._socket and self._socket.get_write_buffer_size():
            self.drop()

    def deafen(self) -> None:
        """Whatever else comes is thrown away unread."""
        self._deaf = True

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        self.address = _address(transport.get_extra_info("peername"))
        if not self._all.admit(self):
            self._lost = True
            self._socket.close()
            return
        self.enter(Stage.ASKING)
        if self._all.tls is None:
            self._begin(self._socket)
        else:
            self._socket.pause_reading()
            self._handshake = asyncio.create_task(self._shake_hands(self._all.tls))

    def data_received(self, data: bytes) -> None:
        if not self._over:
            self._unread += data
            if self._resting:  # aiohttp has asked for more
                self._rest()
            else:
                self._read()

    def eof_received(self) -> bool | None:
        if self._handler:
            self._handler.eof_received()
        return None

    def pause_writing(self) -> None:
        if self._handler:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler:
            self._handler.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._forget()
        if self._handler:
            self._of.pop(self._handler, None)
            self._handler.connection_lost(error)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._stream, self._handler = transport, self._all.serve()
        self._of[self._handler] = self
        self._handler.connection_made(transport)
        self._read()  # what came with the end of the handshake

    @property
    def _over(self) -> bool:
        """Whether nothing more is read."""
        return self._deaf or self._lost or bool(self._stream and self._stream.is_closing())

    def _read(self) -> None:
        """Hand over what has come, piece by piece. Nothing more is taken from the network meanwhile."""
        if not self._handler or not self._stream or self._over:
            return
        if self._resting:
            self._resting = False
            if self._wanted:
                self._stream.resume_reading()
        while self._unread and not self._over:
            piece = bytes(self._unread[:PIECE])
            del self._unread[:PIECE]
            self._unfinished += len(piece)
            pause = self.share.do(partial(self._handler.data_received, piece))
            if self._unfinished > (MAX_UNFINISHED if self.stage is Stage.TALKING else MAX_ASKING):
                self._deaf = True
                self.too_big()
            elif pause and not self._over:
                self._resting, self._wanted = True, False
                self._rest()
                asyncio.get_running_loop().call_later(pause, self._read)
                return

    def _rest(self) -> None:
        """Take nothing from the network. aiohttp may want that, too: it goes on when neither does."""
        assert self._stream, "something has come"
        self._wanted |= self._stream.is_reading()
        self._stream.pause_reading()

    async def _shake_hands(self, context: ssl.SSLContext) -> None:
        assert self._socket, "there is a connection"
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._socket,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=HEAD_SECONDS,
                ssl_shutdown_timeout=TLS_CLOSING_SECONDS,
            )
        except OSError:  # what comes is no TLS, or none came
            transport = None
        if transport is None or self._lost:
            self.drop()
        else:
            self._begin(transport)

    def _forget(self) -> None:
        self._lost = self.share.over = True
        if self._clock:
            self._clock.cancel()
        self._all.forget(self)


class AnswerClock(AbstractAccessLogger):
    """Is called by aiohttp when an answer has been sent, also one to what was no request."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if connection := Connection.of(request):
            connection.enter(Stage.ASKING)


def _address(peer: object) -> str:
    if not isinstance(peer, tuple) or not peer:
        return ""
    address = parsed(str(peer[0]))
    return household(address) if address else str(peer[0])
