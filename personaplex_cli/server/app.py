"""The program behind `personaplex serve`: one model for whoever connects, one conversation at a time.

    /api/chat     Moshi's protocol: NVIDIA's web client, moshi.client, our own `--server`
    /pcm, /       16-bit sound and JSON, for robots, scripts and the web page
    /ws           JSON with base64 sound, for interview trainers
    /health       what the server does (open to all)
    /api/info     voices, personas, URLs
    /metrics      figures for Prometheus
    /             the web page, or the files of another client

The port opens at once; while the model loads, and while others talk, clients are told so before their connection
becomes a WebSocket. The event loop of the network does no work of the model's, which has a thread of its own.
"""

import asyncio
import hmac
import ipaddress
import logging
import re
import signal
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from personaplex_cli import __version__
from personaplex_cli.character import Sampling
from personaplex_cli.errors import NetworkError, PersonaplexError, UsageError
from personaplex_cli.events import Listener, Note, State
from personaplex_cli.library.catalog import personas, voices
from personaplex_cli.lookup import LocalAgent, Machine, choose_character
from personaplex_cli.protocols.adapter import Adapter, Interview, Moshi, Pcm
from personaplex_cli.protocols.wire import PATH
from personaplex_cli.server.admission import Admission
from personaplex_cli.server.house import House, Terms
from personaplex_cli.server.metrics import Metrics
from personaplex_cli.server.session import SHUTDOWN, Session
from personaplex_cli.worker import ModelWorker

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8998
MAX_MESSAGE_BYTES = 1 << 20  # bytes: 21 seconds of raw sound
MAX_CONNECTIONS = 256
PING_SECONDS = 20.0  # between two pings; a client that does not answer for half of that is gone
CLOSING_SECONDS = 2.0  # that a client gets to close its side
SHUTDOWN_SECONDS = 10.0
RETRY_SECONDS = 5  # what a client that is refused is told to wait
PAGE = Path(__file__).parent / "page"
SOCKETS: dict[str, Callable[[], Adapter]] = {PATH: Moshi, "/pcm": Pcm, "/ws": Interview}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Access:
    """How the server is reached, and by whom. `port` 0 takes any that is free; `origins` are those of other web pages
    that may connect; `static` holds another client than our own page.

    Raises UsageError for what cannot be.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token: str | None = None
    ssl_cert: Path | None = None
    ssl_key: Path | None = None
    origins: tuple[str, ...] = ()
    static: Path | None = None

    def __post_init__(self) -> None:
        if self.token == "":
            raise UsageError("The token is empty.", "Give a long one that is hard to guess, or none.")
        if (self.ssl_cert is None) != (self.ssl_key is None):
            raise UsageError("A certificate and its key belong together.", "Give both --ssl-cert and --ssl-key.")
        if self.static is not None and not (self.static / "index.html").is_file():
            raise UsageError(f"{self.static} has no index.html.", "Give the folder of a built web client to --static.")

    def context(self) -> ssl.SSLContext | None:
        """What TLS needs; None without a certificate. Raises UsageError for one that cannot be used."""
        if self.ssl_cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.ssl_cert, self.ssl_key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"The certificate cannot be used: {error}.", "Give PEM files that fit together."
            ) from error
        return context

    def warning(self) -> Note | None:
        """What whoever starts the server should know about who can reach it."""
        lacks = [] if self.token else ["--token (anybody may talk)"]
        lacks += [] if self.ssl_cert else ["--ssl-cert and --ssl-key (what is said can be overheard)"]
        if not lacks or _is_local(self.host):
            return None
        return Note(f"Others can reach this server, and it runs without {' and without '.join(lacks)}.")

    def admits(self, request: web.Request) -> bool:
        """Whether a request has the token, in its header or its query."""
        if self.token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        shown = [given.strip()] if scheme.lower() == "bearer" else []
        shown += request.query.getall("token", [])
        token = self.token.encode()
        return any([hmac.compare_digest(each.encode(errors="surrogateescape"), token) for each in shown])

    def knows_origin(self, request: web.Request) -> bool:
        """Whether the page that opens a WebSocket is ours or a listed one. What is no browser sends no origin."""
        origin = request.headers.get("Origin")
        if origin is None or _plain(origin).partition("://")[2] == request.host.lower():
            return True
        return _plain(origin) in map(_plain, self.origins)


class Server:
    """`run` it once, in the main thread. Raises UsageError or AudioError for terms that cannot be kept."""

    def __init__(self, machine: Machine, terms: Terms, door: Access, listen: Listener) -> None:
        terms.check()
        self._door = door
        self._model = machine.model_name
        self._listen = listen
        self._turns = Admission(terms.queue)
        self._figures = Metrics()
        self._default = choose_character(terms.persona, None, terms.voice, Sampling())
        self._desk = ModelWorker(LocalAgent(machine, self._default, listen), terms.record, listen, self._desk_changed)
        self._house = House(self._desk, terms, self._figures)
        self._calls: dict[Session, asyncio.Task[Any]] = {}
        self._began = time.monotonic()
        self._count = 0
        self.url = ""
        self.ended = True  # no thread is left

    def run(self) -> None:
        """Serve until SIGTERM or `stop`; Ctrl-C comes out as KeyboardInterrupt.

        Raises NetworkError if the port cannot be opened, and whatever keeps the model from running. Either way
        clients are told, recordings closed and threads ended, as far as `ended` says so.
        """
        asyncio.run(self._run())

    def stop(self) -> None:
        """End `run`, from any thread."""
        with suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)

    # From opening the port to the last goodbye.

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        with suppress(NotImplementedError, RuntimeError):  # not on Windows, nor in a thread of a test
            self._loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        runner = web.AppRunner(self._app(), access_log=None, logger=_SILENT, shutdown_timeout=CLOSING_SECONDS)
        await runner.setup()
        try:
            listening = await self._open(runner)
            self._desk.start()
            self.ended = False
            try:
                await self._stop.wait()
            finally:
                listening.close()
                await self._say_goodbye()
        finally:
            await runner.cleanup()
        if self._desk.error:
            raise self._desk.error

    async def _open(self, runner: web.AppRunner) -> asyncio.Server:
        door, web_server = self._door, runner.server
        assert web_server is not None, "the runner is set up"

        def connection() -> asyncio.BaseProtocol:
            return web_server() if len(web_server.connections) < MAX_CONNECTIONS else _TurnedAway()

        try:
            listening = await self._loop.create_server(connection, door.host, door.port, ssl=door.context())
        except OSError as error:
            raise NetworkError(
                f"{door.host} port {door.port} cannot be opened ({error.strerror}).", "Choose another --port or --host."
            ) from error
        host = f"[{door.host}]" if ":" in door.host else door.host
        port = listening.sockets[0].getsockname()[1]
        self.url = f"http{'s' if door.ssl_cert else ''}://{host}:{port}"
        self._listen(State("listening", self.url))
        if warning := door.warning():
            self._listen(warning)
        return listening

    async def _say_goodbye(self) -> None:
        for call in self._calls:
            call.send_away(SHUTDOWN)
        if self._calls:
            await asyncio.wait(self._calls.values(), timeout=SHUTDOWN_SECONDS)
        self.ended = await asyncio.to_thread(self._desk.end)

    def _desk_changed(self) -> None:
        """In the model's thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits for this any more
            self._loop.call_soon_threadsafe(self._notice_desk)

    def _notice_desk(self) -> None:
        self._figures.ready.set(self._desk.ready)
        if self._desk.ready:
            self._listen(State("ready", self.url))
        else:
            self._stop.set()

    # What is asked over HTTP.

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._answer_for_errors])
        app.on_response_prepare.append(self._add_headers)  # type: ignore[arg-type]  # its types want a function
        for path, dialect in SOCKETS.items():
            app.router.add_get(path, self._admitted(partial(self._visit, dialect)))
        app.router.add_get("/", partial(self._front, self._admitted(partial(self._visit, Pcm))))
        app.router.add_get("/health", self._health)
        app.router.add_get("/api/info", self._admitted(self._info))
        app.router.add_get("/metrics", self._admitted(self._metrics))
        if (folder := self._door.static or PAGE).is_dir():
            app.router.add_static("/", folder)
        return app

    def _admitted(self, handler: Handler) -> Handler:
        """The same for those who have the token only."""

        async def ask(request: web.Request) -> web.StreamResponse:
            if self._door.admits(request):
                return await handler(request)
            challenge = {"WWW-Authenticate": "Bearer"}
            return self._refuse(401, "token", "The token is missing or wrong.", "Send ?token=TOKEN.", challenge)

        return ask

    @web.middleware
    async def _answer_for_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPException, ConnectionError):
            raise
        except PersonaplexError as error:
            return self._refuse(500, "failed", str(error), error.hint)
        except Exception as error:
            self._listen(Note(f"{request.path} failed: {type(error).__name__}: {error}"))
            raise

    async def _add_headers(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """For our own page, which needs nothing from elsewhere. Another client may need other things."""
        response.headers["Server"] = f"personaplex/{__version__}"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"  # it could hold the token
        response.headers.setdefault("Cache-Control", "no-cache")
        if self._door.static is None:
            # Some browsers do not count WebSockets among 'self'.
            sockets = f" ws://{request.host} wss://{request.host}" if _HOST.fullmatch(request.host) else ""
            response.headers["Content-Security-Policy"] = _POLICY.format(sockets=sockets)

    async def _front(self, visit: Handler, request: web.Request) -> web.StreamResponse:
        """The page, or the simplest conversation, for who opens a WebSocket at the very address of the server."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await visit(request)
        page = (self._door.static or PAGE) / "index.html"
        if not page.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(page)

    async def _health(self, request: web.Request) -> web.Response:
        busy = "busy" if self._turns.active else "ready"
        sessions = {
            "active": self._turns.active,
            "waiting": self._turns.waiting,
            "served": self._figures.served,
            "refused": self._figures.refused,
        }
        return web.json_response(
            {
                "state": busy if self._desk.ready else "loading",
                "model": self._model,
                "sessions": sessions,
                "uptime": round(time.monotonic() - self._began, 1),
            }
        )

    async def _info(self, request: web.Request) -> web.Response:
        base = f"ws{'s' if request.secure else ''}://{request.host}"
        return web.json_response(
            {
                "personaplex": __version__,
                "model": self._model,
                "persona": self._default.persona.name,
                "voice": self._default.voice.name,
                "personas": [
                    {"name": each.name, "description": each.description, "voice": each.voice, "prompt": each.prompt}
                    for each in personas()
                ],
                "voices": [{"name": each.name, "description": each.description} for each in voices()],
                "sampling": {key: value for key, value in asdict(Sampling()).items() if key not in ("seed", "greedy")},
                "sockets": {"moshi": base + PATH, "pcm": f"{base}/pcm", "interview": f"{base}/ws"},
            }
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        self._figures.connected.set(len(self._calls))
        self._figures.waiting.set(self._turns.waiting)
        return web.Response(body=self._figures.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _refuse(
        self, status: int, reason: str, what: str, hint: str, headers: dict[str, str] | None = None
    ) -> web.Response:
        self._figures.turned_away(reason)
        answer = {"error": reason, "message": what, "hint": hint}
        return web.json_response(answer, status=status, headers=headers)

    # Conversations.

    async def _visit(self, dialect: Callable[[], Adapter], request: web.Request) -> web.StreamResponse:
        """Refuse, or let in and stay with the client to the end."""
        if not self._door.knows_origin(request):
            return self._refuse(403, "origin", "This page may not connect here.", "Its origin needs an --origin.")
        socket = web.WebSocketResponse(
            timeout=CLOSING_SECONDS, heartbeat=PING_SECONDS, max_msg_size=MAX_MESSAGE_BYTES, compress=False
        )
        if not socket.can_prepare(request):
            return self._refuse(426, "http", "This is the address of a WebSocket.", "Connect with a WebSocket client.")
        later = {"Retry-After": str(RETRY_SECONDS)}
        if not self._desk.ready:
            return self._refuse(503, "loading", "The model is still loading.", "Try again in a moment.", later)
        turn = self._turns.enter()
        if turn is None:
            return self._refuse(503, "busy", "Somebody else is talking.", "Try again in a moment.", later)
        try:
            await socket.prepare(request)
            call = Session(socket, request.query, dialect(), turn, self._house)
            await self._stay_with(call, request)
        finally:
            turn.leave()
            if request.transport is not None and request.transport.get_write_buffer_size():
                request.transport.abort()  # it does not even take a goodbye
        return socket

    async def _stay_with(self, call: Session, request: web.Request) -> None:
        number = self._count = self._count + 1
        task = asyncio.current_task()
        assert task is not None, "a request is handled in a task"
        self._calls[call] = task
        self._listen(Note(f"{number}: {request.remote} connects to {request.path}."))
        try:
            farewell = await call.run()
        finally:
            del self._calls[call]
        failure = farewell.error and farewell.error.__cause__
        self._listen(Note(f"{number}: {farewell.end} ({call.about}), {call.summary()}."))
        if farewell.error and farewell.end in ("refused", "failed"):
            self._listen(Note(f"{number}: {failure!r}" if failure else f"{number}: {farewell.error}"))


class _TurnedAway(asyncio.Protocol):
    """For the connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _plain(origin: str) -> str:
    return origin.rstrip("/").lower()


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_HOST = re.compile(r"[\w.:\[\]-]+")
_POLICY = (
    "default-src 'self'; connect-src 'self'{sockets}; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)
_SILENT = logging.Logger("aiohttp", logging.CRITICAL + 1)  # clients that speak no HTTP are not worth a traceback
