"""Servers that speak Moshi's protocol by heart, without a model, and a wire between that can be slow, cut or stuck.

In tests: `with FakeServer(echo) as server: ... server.url`. A script is a coroutine that is given the `Guest`; when it
returns the connection is closed. `Wire(server)` is a TCP proxy with the same `url`.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import WSMsgType, web

HANDSHAKE, SOUND, WORDS, CONTROL, METADATA, FAILURE = (bytes([kind]) for kind in range(6))


@dataclass
class Guest:
    """A client, as a script sees it; `said` is what it has sent, in order."""

    socket: web.WebSocketResponse
    request: web.Request
    said: list[bytes] = field(default_factory=list)

    async def hear(self) -> bytes | None:
        """The client's next message; None when it has left."""
        message = await self.socket.receive()
        if message.type is not WSMsgType.BINARY:
            return None
        self.said.append(message.data)
        return message.data

    async def say(self, message: bytes) -> None:
        await self.socket.send_bytes(message)

    def cut(self) -> None:
        """The connection ends without a goodbye."""
        assert self.request.transport
        self.request.transport.abort()


Script = Callable[[Guest], Awaitable[None]]


async def echo(guest: Guest) -> None:
    """Ready at once; sends sound back as it came, and nothing else."""
    await guest.say(HANDSHAKE)
    while (message := await guest.hear()) is not None:
        if message[:1] == SOUND:
            await guest.say(message)


async def echo_on(guest: Guest) -> None:
    """`echo` without the handshake."""
    while (message := await guest.hear()) is not None:
        if message[:1] == SOUND:
            await guest.say(message)


def answers(status: int, **headers: str) -> Callable[[web.Request], web.Response | None]:
    return lambda request: web.Response(
        status=status, headers={name.replace("_", "-"): headers[name] for name in headers}
    )


async def leaves(guest: Guest) -> None:
    guest.cut()


def says(*messages: bytes, code: int | None = None) -> Script:
    async def script(guest: Guest) -> None:
        for message in messages:
            await guest.say(message)
        if code is None:
            await guest.hear()
        else:
            await guest.socket.close(code=code, message=b"because")

    return script


async def settle() -> None:
    """Let asyncio do what it has put off: a connection is accepted, or closed, in some rounds of its loop.

    One that is being accepted while its server closes is never closed (in Python 3.11).
    """
    for _ in range(5):
        await asyncio.sleep(0)


class Server:
    """Something on an event loop in a thread of its own."""

    port = 0

    def __enter__(self) -> Self:
        ready: Future[int] = Future()
        self.loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        self.port = ready.result(timeout=30)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self, ready: "Future[int]") -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._serve(ready))

    async def _serve(self, ready: "Future[int]") -> None:
        raise NotImplementedError


@dataclass
class FakeServer(Server):
    """`refuse` answers instead of a WebSocket, if it returns something. `guests` are all who came."""

    script: Script = echo
    refuse: Callable[[web.Request], web.Response | None] = lambda request: None
    tls: ssl.SSLContext | None = None
    port: int = 0
    guests: list[Guest] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://127.0.0.1:{self.port}"

    async def _serve(self, ready: "Future[int]") -> None:
        app = web.Application()
        app.router.add_get("/api/chat", self._chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self.tls).start()
            ready.set_result(runner.addresses[0][1])
            await self._over.wait()
            await settle()
        except OSError as error:
            ready.set_exception(error)
        finally:
            for guest in self.guests:
                guest.cut() if guest.request.transport else None
            await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if (answer := self.refuse(request)) is not None:  # an answer without a body counts as false
            return answer
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        guest = Guest(socket, request)
        self.guests.append(guest)
        with contextlib.suppress(ConnectionError):
            await self.script(guest)
            await socket.close()
        return socket


@dataclass
class Wire(Server):
    """A TCP proxy. `delay` holds every byte back for so many seconds; nothing goes through while `stuck`."""

    to: FakeServer | Any
    delay: float = 0.0
    stuck: bool = False

    def __post_init__(self) -> None:
        self._visits: list[asyncio.Task[Any]] = []
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """End all connections, without a goodbye."""
        self.loop.call_soon_threadsafe(lambda: [visit.cancel() for visit in self._visits])

    async def _serve(self, ready: "Future[int]") -> None:
        listening = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        ready.set_result(listening.sockets[0].getsockname()[1])
        await self._over.wait()
        await settle()
        listening.close()  # from Python 3.12 on, `async with` would wait for all connections first
        for visit in self._visits:
            visit.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)
        for writer in self._writers:  # also of visits that were over before they began
            writer.transport.abort()
        await settle()

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._visits.append(asyncio.create_task(self._visit(reader, writer)))

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self.to.port)
            try:
                await asyncio.gather(self._pump(reader, there), self._pump(there_reader, writer))
            finally:
                there.transport.abort()
        except asyncio.CancelledError:
            pass  # asyncio would complain
        finally:
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await asyncio.sleep(self.delay)
                while self.stuck:
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()
        writer.close()
