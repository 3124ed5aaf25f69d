"""The program behind `personaplex serve`: one model for all who connect.

    /api/chat     Moshi's protocol: NVIDIA's web client, moshi.client, our own `--server`
    /pcm, /       16-bit sound and JSON, for robots, scripts and the web page
    /ws           JSON with base64 sound, for interview trainers
    /twilio       telephone calls, through Twilio
    /health       what the server does (open to all); 503 until the model is ready
    /ready        200 while one more would be let in, else 503 (open to all)
    /livez        200 as long as the process runs (open to all)
    /api/info     voices, personas, URLs
    /metrics      figures for Prometheus
    /             the web page, or the files of another client

The port opens at once; while the model loads, and when no one more can be let in, clients get 503 before their
connection becomes a WebSocket. The model has a thread of its own; the event loop does none of its work.
"""

import asyncio
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from personaplex_cli.conversation import Audio, Engine
from personaplex_cli.errors import NetworkError, PersonaplexError
from personaplex_cli.events import Event, Listener, Note, Phase, State, Visitors
from personaplex_cli.files import check_folder, check_writable, file_below
from personaplex_cli.lookup import find_character
from personaplex_cli.options import AccessOptions, CharacterOptions, ModelOptions, ServeOptions
from personaplex_cli.protocols.adapter import Adapter, Closing, Out, Upgrade
from personaplex_cli.protocols.interview import Interview
from personaplex_cli.protocols.moshi import Moshi
from personaplex_cli.protocols.openai_live import OpenAILive
from personaplex_cli.protocols.openai_realtime import OpenAIRealtime
from personaplex_cli.protocols.pcm import Pcm
from personaplex_cli.protocols.twilio import Twilio
from personaplex_cli.protocols.wire import PATH
from personaplex_cli.recogniser import Recogniser, open_recogniser
from personaplex_cli.retention import delete_old
from personaplex_cli.server.access import client_address, tls_context, urls, warning
from personaplex_cli.server.admission import GREEDY, LOADING, SHUTDOWN, Admission, ConversationQueue, Place, Refusal
from personaplex_cli.server.answers import RETRY, Answers
from personaplex_cli.server.closings import GOODBYE, LEFT, closing_after
from personaplex_cli.server.connections import HEAD_SECONDS, AnswerClock, Connection, Connections, Stage
from personaplex_cli.server.host import Host
from personaplex_cli.server.introduction import introduction
from personaplex_cli.server.metrics import Metrics
from personaplex_cli.server.rounds import TimedEngine
from personaplex_cli.server.session import Session
from personaplex_cli.server.site import SILENT, Site
from personaplex_cli.transcriber import Transcriber
from personaplex_cli.worker import ModelWorker

PING_SECONDS = 20.0  # between two pings; a client that does not answer for half of that is gone
CLEANING_SECONDS = 60.0  # between two looks at the recordings
CLOSING_SECONDS = 2.0  # that a client gets to close its side
SHUTDOWN_SECONDS = 10.0  # for all sessions
MODEL_SECONDS = 5.0  # that the model's thread gets to end
LOADING_SECONDS = 0.5  # the same while it loads and cannot be interrupted
PAGE = Path(__file__).parent / "page"
SOCKETS: dict[str, type[Adapter]] = {
    PATH: Moshi,
    "/pcm": Pcm,
    "/ws": Interview,
    "/twilio": Twilio,
    "/v1/live/sessions": OpenAILive,
    "/live/sessions": OpenAILive,
    "/v1/realtime": OpenAIRealtime,
    "/realtime": OpenAIRealtime,
}


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
            check_folder(serve.record)
            check_writable(serve.record / "conversation.wav")
        self._model = model
        self._slots = slots
        self._access = access
        self._listen = listen
        self._default = find_character(CharacterOptions(serve.voice, serve.persona))
        self._admission = Admission(serve.queue, self._show_visitors)
        self._admission.closed = LOADING
        self._conversations = ConversationQueue()
        metrics = Metrics()
        self._site = Site(access, metrics, listen)
        self._host = Host(serve, metrics, listen, self._conversations.put, self._note_from_thread, self._transcriber)
        self._answers = Answers(self._site, self._admission, self._host, model, self._default)
        self._sessions: dict[Session, asyncio.Task[Any]] = {}
        self._recogniser: Recogniser | None = None
        self._ready = False
        self.url = ""
        self.ended = True  # no thread is left

    def run(self) -> None:
        """Serve until SIGTERM or `stop`; Ctrl-C comes out as KeyboardInterrupt. After SIGTERM conversations may go on
        for the seconds of --drain; a second signal ends them at once.

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
            self._loop.add_signal_handler(signal.SIGTERM, self._drain)
        tls = tls_context(self._access)
        runner = web.AppRunner(
            self._app(),
            access_log_class=AnswerClock,
            access_log=SILENT,
            logger=SILENT,
            keepalive_timeout=HEAD_SECONDS,
            shutdown_timeout=CLOSING_SECONDS,
        )
        await runner.setup()
        web_server = runner.server
        assert web_server is not None, "the runner is set up"
        self._connections = Connections(web_server, tls)
        try:
            listening = await self._open()
            await asyncio.to_thread(self._answers.usable)  # to say what is left out
            worker = ModelWorker(
                lambda: TimedEngine(self._start(), partial(self._call, self._notice_round)),
                iter(self._conversations),
                self._conversations.wakeup,
                ready=lambda engine: self._call(self._notice_ready, engine.slots),
                ended=lambda: self._call(self._notice_end),
            )
            self.ended = False
            cleaning = asyncio.create_task(self._clean())
            try:
                await self._stop.wait()
            finally:
                cleaning.cancel()
                listening.close()
                await self._say_goodbye(worker)
        finally:
            if self._recogniser:
                await asyncio.to_thread(self._recogniser.close)
            await runner.cleanup()
            self._connections.close()
        if worker.error:
            raise worker.error
        if self.ended:
            self._listen(Note("Stopped."))

    async def _open(self) -> asyncio.Server:
        host, port = self._access.host, self._access.port
        try:
            listening = await self._loop.create_server(self._connections, host, port)
        except OSError as error:
            what = f"{host} port {port} cannot be opened ({error.strerror})."
            raise NetworkError(what, "Choose another --port or --host.") from error
        port = listening.sockets[0].getsockname()[1]
        self.url, elsewhere = urls(self._access, port)
        self._listen(State(Phase.LISTENING, self.url))
        if elsewhere:
            self._listen(Note(f"From other machines it is {elsewhere}, or by another name or address of this one."))
        if note := warning(self._access):
            self._listen(note)
        return listening

    async def _clean(self) -> None:
        """Delete recordings that are too many or too old, now and every minute."""
        keep = self._host.options
        while keep.record is not None and (keep.record_max_gb or keep.record_max_days):
            deleted = await asyncio.to_thread(delete_old, keep.record, keep.record_max_gb, keep.record_max_days)
            if deleted:
                self._listen(Note(f"Deleted {deleted} old recording{'s' * (deleted != 1)}."))
            await asyncio.sleep(CLEANING_SECONDS)

    def _drain(self) -> None:
        """Let nobody in any more; who talks may go on for a while. The second time that is over."""
        seconds, draining = self._host.options.drain, self._admission.closed is SHUTDOWN
        self._admission.closed = SHUTDOWN
        for session in self._sessions:
            if not session.place.talks:
                session.close(GOODBYE)
        if draining or not seconds or not self._admission.talking:
            self._stop.set()
        else:
            self._loop.call_later(seconds, self._stop.set)
            self._listen(
                Note(f"It shuts down. Who talks may go on for {seconds:g} seconds; another signal ends them, too.")
            )

    async def _say_goodbye(self, worker: ModelWorker) -> None:
        self._admission.closed = SHUTDOWN
        closing = closing_after(worker.error) if worker.error else GOODBYE
        for session in self._sessions:
            session.close(closing)
        if self._sessions:
            await asyncio.wait(self._sessions.values(), timeout=SHUTDOWN_SECONDS)
        self._conversations.close()
        self.ended = await asyncio.to_thread(worker.join, MODEL_SECONDS if self._ready else LOADING_SECONDS)

    # The model, in its thread.

    def _start(self) -> Engine:
        from personaplex_cli.loader.load import load  # imports torch

        if self._host.options.asr:
            self._recogniser = open_recogniser(self._host.options.asr, self._listen)
        return load(self._model, self._listen, self._default, self._slots)

    def _transcriber(self, audio: Audio, listen: Listener) -> Transcriber | None:
        """What writes down a client's words, if they are to be; that it cannot go on is for the owner's eyes."""

        def tell(event: Event) -> None:
            if isinstance(event, Note):
                self._note_from_thread(event.text)
            else:
                listen(event)

        return Transcriber(audio, self._recogniser, tell) if self._recogniser else None

    def _call(self, act: Callable[..., object], *arguments: Any) -> None:
        """Have the event loop do something, from any thread."""
        with suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(act, *arguments)

    def _notice_ready(self, slots: int) -> None:
        self._admission.slots = slots
        if self._admission.closed is LOADING:
            self._admission.closed = None
        self._ready = True
        self._listen(Note(self._host.options.terms(slots)))
        self._listen(State(Phase.READY, self.url))
        self._show_visitors()

    def _notice_round(self, conversations: int, milliseconds: float) -> None:
        self._admission.times.add(self._admission.talking, milliseconds)
        self._host.metrics.step(conversations, milliseconds)

    def _notice_end(self) -> None:
        self._admission.closed = SHUTDOWN
        self._ready = False
        self._conversations.abandon()
        self._stop.set()

    def _note_from_thread(self, text: str) -> None:
        self._call(self._site.note_once, text)

    def _show_visitors(self) -> None:
        admission = self._admission
        self._listen(Visitors(admission.talking, admission.slots, admission.waiting))

    # Sessions.

    def _app(self) -> web.Application:
        app = self._site.application()
        for path, adapter in SOCKETS.items():
            app.router.add_get(path, partial(self._introduce if adapter.shows_token_later else self._visit, adapter))
        app.router.add_get("/", self._get_front)
        self._answers.add(app)
        app.router.add_get("/{file:.+}", self._get_file)
        return app

    @property
    def _page(self) -> Path:
        return self._access.static or PAGE

    async def _get_front(self, request: web.Request) -> web.StreamResponse:
        """The page, or the simplest protocol for a client that opens a WebSocket at the very address of the server."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._visit(Pcm, request)
        return web.FileResponse(self._page / "index.html")

    async def _get_file(self, request: web.Request) -> web.FileResponse:
        """What belongs to the page."""
        if file := await asyncio.to_thread(file_below, self._page, request.match_info["file"]):
            return web.FileResponse(file)
        raise web.HTTPNotFound

    async def _visit(self, kind: type[Adapter], request: web.Request) -> web.StreamResponse:
        """Refuse, or let in and stay with the client to the end."""
        self._site.check_token(request)
        socket, adapter = self._socket(kind, request), kind()
        place = self._admission.enter(client_address(request))
        if isinstance(place, Refusal):
            raise self._full(place, request)
        await self._stay(socket, adapter, adapter.open(Upgrade(request.query, request.headers)), place, request)
        return socket

    async def _introduce(self, kind: type[Adapter], request: web.Request) -> web.StreamResponse:
        """The same for a client that shows the token later: only then it gets a place."""
        socket, adapter = self._socket(kind, request), kind()
        if refusal := self._admission.refusal(client_address(request)):
            raise self._full(refusal, request)
        await socket.prepare(request)
        if (connection := Connection.of(request)) is None:
            return socket
        connection.enter(Stage.ASKING)  # it makes room for others
        wants = await introduction(socket, adapter, connection, self._access)
        if not isinstance(wants, Closing):
            place = self._admission.enter(client_address(request))
            if isinstance(place, Place):
                await self._stay(socket, adapter, wants, place, request)
                return socket
            wants = Closing(place.reason, 1013, PersonaplexError(place.what, place.hint))
        if wants is not LEFT:
            self._site.turned_away(request, wants.reason, wants.error)
        await socket.close(code=wants.code, message=wants.reason.encode())
        return socket

    def _socket(self, kind: type[Adapter], request: web.Request) -> web.WebSocketResponse:
        """What the request becomes. Raises the refusal for one that cannot, or that a page from elsewhere sends."""
        self._site.check_origin(request)
        socket = web.WebSocketResponse(
            timeout=CLOSING_SECONDS,
            heartbeat=PING_SECONDS,
            autoping=False,  # the session counts them
            max_msg_size=kind.max_bytes,
            compress=False,
            protocols=kind.subprotocols,
        )
        if not socket.can_prepare(request):
            hint = "Connect with a WebSocket client."
            raise self._site.refusal(
                request, web.HTTPUpgradeRequired, "http", "This is the address of a WebSocket.", hint
            )
        if self._host.options.record is not None:
            socket.headers["X-Personaplex-Recorded"] = "true"  # not every protocol has a place for it
        return socket

    def _full(self, refusal: Refusal, request: web.Request) -> web.HTTPError:
        if refusal is GREEDY:
            remedy = "If it is a web server before this one, have it send X-Forwarded-For."
            self._site.note_once(f"{request.remote} has its share of the conversations, and wants more. {remedy}")
        reason, what, hint = refusal.reason, refusal.what, refusal.hint
        return self._site.refusal(request, web.HTTPServiceUnavailable, reason, what, hint, RETRY)

    async def _stay(
        self,
        socket: web.WebSocketResponse,
        adapter: Adapter,
        opening: Iterable[Out],
        place: Place,
        request: web.Request,
    ) -> None:
        try:
            if not socket.prepared:
                await socket.prepare(request)
            if connection := Connection.of(request):
                connection.enter(Stage.TALKING)
                host = replace(self._host, guest=f"{request.remote}, {request.path}")
                session = Session(socket, opening, adapter, place, host, connection)
                await self._attend(session, request)
        finally:
            place.leave()
            if connection := Connection.of(request):
                connection.enter(Stage.ASKING)
                connection.drop_unless_read()

    async def _attend(self, session: Session, request: web.Request) -> None:
        """One line on the server's screen for a whole visit, when it is over."""
        self._sessions[session] = task = asyncio.create_task(session.run())
        try:
            close = await task
        finally:
            del self._sessions[session]
            if self._admission.closed is SHUTDOWN and not self._sessions:
                self._stop.set()
        self._listen(Note(f"{request.remote}, {request.path}: {session.summary()}; {close.explanation}"))
