"""What holds for every request: who may ask, how one is refused, and what every answer carries.

What strangers can make happen as often as they like is shown to the server's owner once.
"""

import json
import logging
import re
from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler

from personaplex_cli import __version__
from personaplex_cli.events import Listener, Note
from personaplex_cli.options import AccessOptions
from personaplex_cli.protocols.wire import MAX_NAME
from personaplex_cli.server.access import admits, is_listed, knows_host, knows_origin
from personaplex_cli.server.connections import Connection
from personaplex_cli.server.metrics import Metrics

MAX_NOTED = 50  # refusals that are explained on the server's screen, each once
SHARED = ("/health", "/ready", "/livez", "/api/info")  # what the page of an --origin may read


class Site:
    """Makes the application that all paths are added to."""

    def __init__(self, access: AccessOptions, metrics: Metrics, listen: Listener) -> None:
        self._access = access
        self._metrics = metrics
        self._listen = listen
        self._noted: set[str] = set()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._let_in, self._answer_for_errors])
        app.on_response_prepare.append(self._add_headers)  # type: ignore[arg-type]  # its types want a function
        return app

    def note_once(self, text: str) -> None:
        """Show the owner what strangers can make happen as often as they like."""
        if text not in self._noted and len(self._noted) < MAX_NOTED:
            self._noted.add(text)
            self._listen(Note(text))

    @web.middleware
    async def _let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What holds for every path, known or not."""
        connection = Connection.of(request)
        if connection is None or not connection.request():
            raise ConnectionResetError("it is gone, or has sent too many requests")
        if not knows_host(self._access, request):
            host = request.headers["Host"][:MAX_NAME]
            scheme = "https" if self._access.ssl_cert else "http"
            self.note_once(f"A request for {host!r} is refused. If this server is meant: --origin {scheme}://NAME.")
            hint = "Use its IP address, or start it with --origin and this name."
            raise self.refusal(web.HTTPMisdirectedRequest, "host", f"This server is not called {host!r}.", hint)
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
            _LOG.debug("A request failed", exc_info=error)
            self.note_once(f"{request.path!r:.100} failed: {type(error).__name__}: {error}")
            what, hint = "The server failed.", "Its screen says why."
            raise self.refusal(web.HTTPInternalServerError, "failed", what, hint) from error

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

    def check_token(self, request: web.Request) -> None:
        """Raises the refusal for a request without the token."""
        if not admits(self._access, request):
            hint, challenge = "Send ?token=TOKEN.", {"WWW-Authenticate": "Bearer"}
            raise self.refusal(web.HTTPUnauthorized, "token", "The token is missing or wrong.", hint, challenge)

    def check_origin(self, request: web.Request) -> None:
        """Raises the refusal for a WebSocket that a page from elsewhere opens."""
        if not knows_origin(self._access, request):
            origin = request.headers["Origin"][:MAX_NAME]
            remedy = "add it by --origin; if it is this server's own page, have the reverse proxy keep the Host header."
            self.note_once(f"A web page of {origin!r} may not connect. If you trust it, {remedy}")
            hint = "Its origin needs an --origin, or the reverse proxy has to keep the Host header."
            raise self.refusal(web.HTTPForbidden, "origin", "This page may not connect here.", hint)

    def refusal(
        self, kind: type[web.HTTPError], reason: str, what: str, hint: str, headers: Mapping[str, str] | None = None
    ) -> web.HTTPError:
        self._metrics.turned_away(reason)
        answer = json.dumps({"error": reason, "message": what, "hint": hint})
        # Clients of WebSockets often see the headers of a refusal only.
        return kind(
            headers={"X-Personaplex-Error": reason, **(headers or {})}, text=answer, content_type="application/json"
        )


_LOG = logging.getLogger(__name__)
_NO_FILE = re.compile(rb"[/\\](\.|[^/\\]{256})")  # hidden ones, and names longer than any file has
_HOST = re.compile(r"[\w.:\[\]-]+")
_POLICY = (
    "default-src 'self'; connect-src 'self'{sockets}; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)
SILENT = logging.Logger("aiohttp", logging.CRITICAL + 1)  # clients that speak no HTTP are not worth a traceback
