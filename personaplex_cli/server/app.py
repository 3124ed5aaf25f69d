"""The program behind `personaplex serve`: one model for all who connect.

    /api/chat     Moshi's protocol: NVIDIA's web client, moshi.client, our own `--server`
    /pcm, /       16-bit sound and JSON, for robots, scripts and the web page
    /ws           JSON with base64 sound, for interview trainers
    /health       what the server does (open to all); 503 until the model is ready
    /livez        200 as long as the process runs (open to all)
    /api/info     voices, personas, URLs
    /metrics      figures for Prometheus
    /             the web page, or the files of another client

The port opens at once; while the model loads, and when all places are taken, clients get 503 before their connection
becomes a WebSocket. The model has a thread of its own; the event loop does none of its work.
"""

import asyncio
import json
import logging
import re
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST

from personaplex_cli import __version__
from personaplex_cli.character import Sampling
from personaplex_cli.conversation import Engine
from personaplex_cli.errors import NetworkError, PersonaplexError
from personaplex_cli.events import Listener, Note, Phase, State
from personaplex_cli.files import check_writable
from personaplex_cli.library.catalog import Persona, Voice, personas, voices
from personaplex_cli.lookup import find_character
from personaplex_cli.options import AccessOptions, CharacterOptions, ModelOptions, ServeOptions
from personaplex_cli.protocols.adapter import Adapter
from personaplex_cli.protocols.interview import Interview
from personaplex_cli.protocols.moshi import Moshi
from personaplex_cli.protocols.pcm import Pcm
from personaplex_cli.protocols.wire import MAX_NAME, PATH
from personaplex_cli.server.access import admits, base_url, is_listed, knows_host, knows_origin, tls_context, warning
from personaplex_cli.server.admission import Admission, ConversationQueue
from personaplex_cli.server.connections import HEAD_SECONDS, AnswerClock, Connection, Connections, Stage
from personaplex_cli.server.host import Host
from personaplex_cli.server.metrics import Metrics
from personaplex_cli.server.session import SHUTDOWN, Session, closing_after
from personaplex_cli.worker import ModelWorker

MAX_MESSAGE_BYTES = 1 << 20  # 21 seconds of raw sound
MAX_SESSIONS = 128  # that talk or wait; fewer than the connections of one address, so that /health is answered
MAX_NOTED = 50  # refusals that are explained on the server's screen, each once
PING_SECONDS = 20.0  # between two pings; a client that does not answer for half of that is gone
CLOSING_SECONDS = 2.0  # that a client gets to close its side
SHUTDOWN_SECONDS = 10.0  # for all sessions
MODEL_SECONDS = 5.0  # that the model's thread gets to end
LOADING_SECONDS = 0.5  # the same while it loads and cannot be interrupted
RETRY_SECONDS = 5  # after which a client that is refused may try again
SHARED = ("/health", "/livez", "/api/info")  # what the page of an --origin may read
PAGE = Path(__file__).parent / "page"
SOCKETS: dict[str, Callable[[], Adapter]] = {PATH: Moshi, "/pcm": Pcm, "/ws": Interview}


class App:
    """`run` it once, in the main thread. Raises UsageError or AudioError for options that cannot work."""

    def __init__(
        self,
        model: ModelOptions,
        serve: ServeOptions,
        access: AccessOptions,
        listen: Listener,
        slots: int | None = 1,
    ) -> None:
        """`slots` conversations are held at once; None: as many as fit."""
        if serve.record is not None:
            check_writable(serve.record / "conversation.wav")
        self._model = model
        self._slots = slots
        self._name = model.model_name
        self._page = access.static or PAGE
        self._default = find_character(CharacterOptions(serve.voice, serve.persona))
        self._access = access
        self._listen = listen
        self._admission = Admission(serve.queue)
        self._conversations = ConversationQueue()
        self._metrics = Metrics()
        self._host = Host(serve, self._metrics, listen, self._conversations.put, self._note_from_thread)
        self._noted: set[str] = set()
        self._sessions: dict[Session, asyncio.Task[Any]] = {}
        self._began = time.monotonic()
        self._ready = False
        self.url = ""
        self.ended = True  # no thread is left

    def run(self) -> None:
        """Serve until SIGTERM or `stop`; Ctrl-C comes out as KeyboardInterrupt.

        Raises NetworkError if the port cannot be opened, and the error that keeps the model from running. Either way
        sessions and recordings are closed and threads ended, as far as `ended` says so.
        """
        asyncio.run(self._run())

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._call(self._stop.set)

    # From opening the port to the last goodbye.

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        with suppress(NotImplementedError, RuntimeError):  # not on Windows, nor in a thread of a test
            self._loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        tls = tls_context(self._access)
        runner = web.AppRunner(
            self._app(),
            access_log_class=AnswerClock,
            access_log=_SILENT,
            logger=_SILENT,
            keepalive_timeout=HEAD_SECONDS,
            shutdown_timeout=CLOSING_SECONDS,
        )
        await runner.setup()
        web_server = runner.server
        assert web_server is not None, "the runner is set up"
        self._connections = Connections(web_server, tls)
        try:
            listening = await self._open()
            await asyncio.to_thread(self._list)  # to say what is left out
            worker = ModelWorker(
                self._start,
                iter(self._conversations),
                self._conversations.wakeup,
                ready=lambda engine: self._call(self._notice_ready, engine.slots),
                ended=lambda: self._call(self._notice_end),
            )
            self.ended = False
            try:
                await self._stop.wait()
            finally:
                listening.close()
                await self._say_goodbye(worker)
        finally:
            await runner.cleanup()
            self._connections.close()
        if worker.error:
            raise worker.error

    async def _open(self) -> asyncio.Server:
        host, port = self._access.host, self._access.port
        try:
            listening = await self._loop.create_server(self._connections, host, port)
        except OSError as error:
            what = f"{host} port {port} cannot be opened ({error.strerror})."
            raise NetworkError(what, "Choose another --port or --host.") from error
        scheme = "https" if self._access.ssl_cert else "http"
        name = f"[{host}]" if ":" in host else host
        self.url = f"{scheme}://{name}:{listening.sockets[0].getsockname()[1]}"
        self._listen(State(Phase.LISTENING, self.url))
        if note := warning(self._access):
            self._listen(note)
        return listening

    async def _say_goodbye(self, worker: ModelWorker) -> None:
        closing = closing_after(worker.error) if worker.error else SHUTDOWN
        for session in self._sessions:
            session.close(closing)
        if self._sessions:
            await asyncio.wait(self._sessions.values(), timeout=SHUTDOWN_SECONDS)
        self._conversations.close()
        self.ended = await asyncio.to_thread(worker.join, MODEL_SECONDS if self._ready else LOADING_SECONDS)

    # The model, in its thread.

    def _start(self) -> Engine:
        from personaplex_cli.loader.load import load  # imports torch

        return load(self._model, self._listen, self._default, self._slots)

    def _call(self, act: Callable[..., object], *arguments: Any) -> None:
        """Have the event loop do something, from any thread."""
        with suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(act, *arguments)

    def _notice_ready(self, slots: int) -> None:
        self._admission.slots = slots
        self._ready = True
        self._metrics.ready.set(1)
        self._listen(State(Phase.READY, self.url))

    def _notice_end(self) -> None:
        self._ready = False
        self._metrics.ready.set(0)
        self._conversations.abandon()
        self._stop.set()

    # What is asked over HTTP.

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._let_in, self._answer_for_errors])
        app.on_response_prepare.append(self._add_headers)  # type: ignore[arg-type]  # its types want a function
        for path, adapter in SOCKETS.items():
            app.router.add_get(path, partial(self._visit, adapter))
        app.router.add_get("/", self._get_front)
        app.router.add_get("/health", self._get_health)
        app.router.add_get("/livez", self._get_livez)
        app.router.add_get("/api/info", self._get_info)
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_static("/", self._page)
        return app

    @web.middleware
    async def _let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What holds for every path, known or not."""
        connection = Connection.of(request)
        if connection is None or not connection.request():
            raise ConnectionResetError("it is gone, or has sent too many requests")
        if not knows_host(self._access, request):
            host = request.headers["Host"][:MAX_NAME]
            scheme = "https" if self._access.ssl_cert else "http"
            self._note_once(f"A request for {host!r} is refused. If this server is meant: --origin {scheme}://NAME.")
            hint = "Use its IP address, or start it with --origin and this name."
            raise self._refusal(web.HTTPMisdirectedRequest, "host", f"This server is not called {host!r}.", hint)
        if _NO_FILE.search(request.path.encode(errors="replace")):
            raise web.HTTPNotFound
        if request.method == "OPTIONS" and is_listed(self._access, request) and request.path in SHARED:
            return web.Response(status=204)
        return await handler(request)

    @web.middleware
    async def _answer_for_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:  # which may name files of this machine: for its owner only
            self._note_once(f"{request.path!r:.100} failed: {type(error).__name__}: {error}")
            what, hint = "The server failed.", "Its screen says why."
            raise self._refusal(web.HTTPInternalServerError, "failed", what, hint) from error

    def _note_once(self, text: str) -> None:
        """Show the owner what strangers can make happen as often as they like."""
        if text not in self._noted and len(self._noted) < MAX_NOTED:
            self._noted.add(text)
            self._listen(Note(text))

    def _note_from_thread(self, text: str) -> None:
        self._call(self._note_once, text)

    async def _add_headers(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """For our own page, which loads nothing from elsewhere; another client may."""
        response.headers["Server"] = f"personaplex/{__version__}"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"  # it could hold the token
        response.headers.setdefault("Cache-Control", "no-cache")
        if request.path in SHARED and self._access.origin:
            response.headers["Vary"] = "Origin"
            if isinstance(request, web.Request) and is_listed(self._access, request):
                response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
                response.headers["Access-Control-Allow-Headers"] = "Authorization"
        if self._access.static is None:
            # Some browsers do not count WebSockets among 'self'.
            host = request.headers.get("Host", "")
            sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
            response.headers["Content-Security-Policy"] = _POLICY.format(sockets=sockets)

    async def _get_front(self, request: web.Request) -> web.StreamResponse:
        """The page, or the simplest protocol for a client that opens a WebSocket at the very address of the server."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._visit(Pcm, request)
        return web.FileResponse(self._page / "index.html")

    async def _get_health(self, request: web.Request) -> web.Response:
        active, waiting = self._admission.active, self._admission.waiting
        served, refused = self._metrics.served, self._metrics.refused
        busy = "busy" if active == self._admission.slots else "ready"
        health = {
            "state": busy if self._ready else "loading",
            "model": self._name,
            "sessions": {"active": active, "waiting": waiting, "served": served, "refused": refused},
            "uptime": round(time.monotonic() - self._began, 1),
        }
        return web.json_response(health, status=200 if self._ready else 503)

    async def _get_livez(self, request: web.Request) -> web.Response:
        return web.json_response({"state": "alive"})

    async def _get_info(self, request: web.Request) -> web.Response:
        self._check_token(request)
        there_are, can_speak = await asyncio.to_thread(self._list)
        base = f"ws{'s' if request.secure else ''}:{base_url(request)}"
        info = {
            "personaplex": __version__,
            "model": self._name,
            "note": self._model.note,
            "max_minutes": self._host.options.max_minutes,
            "persona": self._default.persona,
            "voice": self._default.voice,
            "personas": [
                {"name": each.name, "description": each.description, "voice": each.voice, "prompt": each.prompt}
                for each in there_are
            ],
            "voices": [{"name": each.name, "description": each.description} for each in can_speak],
            "sampling": {key: value for key, value in asdict(Sampling()).items() if key not in ("seed", "greedy")},
            "sockets": {"moshi": base + PATH, "pcm": f"{base}/pcm", "interview": f"{base}/ws"},
        }
        return web.json_response(info)

    def _list(self) -> tuple[list[Persona], list[Voice]]:
        """Those that can be used; the owner learns of the others. Runs in a thread: folders may be slow."""

        def leave_out(error: PersonaplexError) -> None:
            self._note_from_thread(f"Left out: {error} {error.hint}".strip())

        return personas(leave_out), voices(leave_out)

    async def _get_metrics(self, request: web.Request) -> web.Response:
        self._check_token(request)
        self._metrics.connected.set(len(self._sessions))
        self._metrics.waiting.set(self._admission.waiting)
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _check_token(self, request: web.Request) -> None:
        if not admits(self._access, request):
            hint, challenge = "Send ?token=TOKEN.", {"WWW-Authenticate": "Bearer"}
            raise self._refusal(web.HTTPUnauthorized, "token", "The token is missing or wrong.", hint, challenge)

    def _refusal(
        self, kind: type[web.HTTPError], reason: str, what: str, hint: str, headers: Mapping[str, str] | None = None
    ) -> web.HTTPError:
        self._metrics.turned_away(reason)
        answer = json.dumps({"error": reason, "message": what, "hint": hint})
        # Clients of WebSockets often see the headers of a refusal only.
        return kind(
            headers={"X-Personaplex-Error": reason, **(headers or {})}, text=answer, content_type="application/json"
        )

    # Sessions.

    async def _visit(self, adapter: Callable[[], Adapter], request: web.Request) -> web.StreamResponse:
        """Refuse, or let in and stay with the client to the end."""
        self._check_token(request)
        if not knows_origin(self._access, request):
            origin = request.headers["Origin"][:MAX_NAME]
            remedy = "add it by --origin; if it is this server's own page, have the reverse proxy keep the Host header."
            self._note_once(f"A web page of {origin!r} may not connect. If you trust it, {remedy}")
            hint = "Its origin needs an --origin, or the reverse proxy has to keep the Host header."
            raise self._refusal(web.HTTPForbidden, "origin", "This page may not connect here.", hint)
        socket = web.WebSocketResponse(
            timeout=CLOSING_SECONDS,
            heartbeat=PING_SECONDS,
            autoping=False,  # the session counts them
            max_msg_size=MAX_MESSAGE_BYTES,
            compress=False,
        )
        if not socket.can_prepare(request):
            hint = "Connect with a WebSocket client."
            raise self._refusal(web.HTTPUpgradeRequired, "http", "This is the address of a WebSocket.", hint)
        hint, later = "Try again in a moment.", {"Retry-After": str(RETRY_SECONDS)}
        if self._stop.is_set():
            raise self._refusal(web.HTTPServiceUnavailable, "shutdown", "The server shuts down.", hint, later)
        if not self._ready:
            raise self._refusal(web.HTTPServiceUnavailable, "loading", "The model is still loading.", hint, later)
        place = self._admission.enter() if len(self._sessions) < MAX_SESSIONS else None
        if place is None:
            raise self._refusal(web.HTTPServiceUnavailable, "busy", "All places are taken.", hint, later)
        try:
            await socket.prepare(request)
            if connection := Connection.of(request):
                connection.enter(Stage.TALKING)
                session = Session(socket, request.query, adapter(), place, self._host, connection.deafen)
                await self._attend(session, request)
        finally:
            place.leave()
            if connection := Connection.of(request):
                connection.enter(Stage.ASKING)
            if request.transport is not None and request.transport.get_write_buffer_size():
                request.transport.abort()  # it does not even take a goodbye
        return socket

    async def _attend(self, session: Session, request: web.Request) -> None:
        """One line on the server's screen for a whole visit, when it is over."""
        self._sessions[session] = task = asyncio.create_task(session.run())
        try:
            close = await task
        finally:
            del self._sessions[session]
        self._listen(Note(f"{request.remote}, {request.path}: {session.summary()}; {close.explanation}"))


_NO_FILE = re.compile(rb"[/\\](\.|[^/\\]{256})")  # hidden ones, and names longer than any file has
_HOST = re.compile(r"[\w.:\[\]-]+")
_POLICY = (
    "default-src 'self'; connect-src 'self'{sockets}; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)
_SILENT = logging.Logger("aiohttp", logging.CRITICAL + 1)  # clients that speak no HTTP are not worth a traceback
