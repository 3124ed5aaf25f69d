"""What holds for every request: who may ask, how one is refused, and what every answer carries.

What strangers can make happen as often as they like is shown to the server's owner now and then.
"""

import json
import logging
import re
import time
from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler

from personaplex_cli import __version__
from personaplex_cli.events import Listener, Note
from personaplex_cli.options import AccessOptions
from personaplex_cli.protocols.budget import Budget
from personaplex_cli.protocols.wire import MAX_NAME
from personaplex_cli.server.access import admits, is_listed, knows_host, knows_origin
from personaplex_cli.server.connections import Connection
from personaplex_cli.server.metrics import Metrics

# Lines on the server's screen that strangers can cause: so many, then one in ten seconds, and the same once an hour.
MAX_NOTED, NOTED_PER_SECOND, AGAIN_SECONDS = 50, 0.1, 3600.0
SHARED = ("/health", "/ready", "/livez", "/api/info")  # what the page of an --origin may read


class Site:
    """Makes the application that all paths are added to."""

    def __init__(self, access: AccessOptions, metrics: Metrics, listen: Listener) -> None:
        self._access = access
        self._metrics = metrics
        self._listen = listen
        self._noted: dict[str, float] = {}  # when
        self._lines = Budget(MAX_NOTED, NOTED_PER_SECOND)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._let_in, self._answer_for_errors])
        app.on_response_prepare.append(self._add_headers)  # type: ignore[arg-type]  # its types want a function
        return app

    def note_once(self, text: str) -> None:
        """Show the owner what strangers can make happen as often as they like."""
        now = time.monotonic()
        self._noted = {each: at for each, at in self._noted.items() if now - at < AGAIN_SECONDS}
        if text not in self._noted and self._lines.spend():
            self._noted[text] = now
            self._listen(Note(text))

    def turned_away(self, request: web.Request, reason: str, what: object) -> None:
        """Somebody who wanted to talk is not let in: that counts, and the owner shall know."""
        self._metrics.turned_away(reason)
        if _wants_socket(request):
            self.note_once(f"{request.remote}, {request.path:.100}: not let in: {what}")

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
            raise self.refusal(
                request, web.HTTPMisdirectedRequest, "host", f"This server is not called {host!r}.", hint
            )
        if _NO_FILE.search(request.path.encode(errors="replace")):
            raise _explained(web.HTTPNotFound(), *self._unknown(request))
        if request.method == "OPTIONS" and is_listed(self._access, request) and request.path in SHARED:
            return web.Response(status=204)
        return await handler(request)

    @web.middleware
    async def _answer_for_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:  # aiohttp's own
            raise _explained(error, *self._unknown(request)) from None
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:  # which may name files of this machine: for its owner only
            _LOG.debug("A request failed", exc_info=error)
            self.note_once(f"{request.path!r:.100} failed: {type(error).__name__}: {error}")
            what, hint = "The server failed.", "Its screen says why."
            raise self.refusal(request, web.HTTPInternalServerError, "failed", what, hint) from error

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
            raise self.refusal(
                request, web.HTTPUnauthorized, "token", "The token is missing or wrong.", hint, challenge
            )

    def check_origin(self, request: web.Request) -> None:
        """Raises the refusal for a WebSocket that a page from elsewhere opens."""
        if not knows_origin(self._access, request):
            origin = request.headers["Origin"][:MAX_NAME]
            remedy = "add it by --origin; if it is this server's own page, have the reverse proxy keep the Host header."
            self.note_once(f"A web page of {origin!r} may not connect. If you trust it, {remedy}")
            hint = "Its origin needs an --origin, or the reverse proxy has to keep the Host header."
            raise self.refusal(request, web.HTTPForbidden, "origin", "This page may not connect here.", hint)

    def refusal(
        self,
        request: web.Request,
        kind: type[web.HTTPError],
        reason: str,
        what: str,
        hint: str,
        headers: Mapping[str, str] | None = None,
    ) -> web.HTTPError:
        self.turned_away(request, reason, what)
        # Clients of WebSockets often see the headers of a refusal only.
        return _explained(kind(headers={"X-Personaplex-Error": reason, **(headers or {})}), reason, what, hint)

    def _unknown(self, request: web.Request) -> tuple[str, str, str]:
        """Why nothing is here, for the client; for the owner if it wanted to talk."""
        what = f"{request.method} {request.path!r:.100} means nothing here."
        if _wants_socket(request):
            self.note_once(f"{request.remote}: {what}")
        return "path", what, "/api/info lists the addresses."


def _explained(error: web.HTTPError, reason: str, what: str, hint: str) -> web.HTTPError:
    """The same with a body that says why."""
    error.text = json.dumps({"error": reason, "message": what, "hint": hint})
    error.content_type = "application/json"
    return error


def _wants_socket(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


_LOG = logging.getLogger(__name__)
_NO_FILE = re.compile(rb"[/\\](\.|[^/\\]{256})")  # hidden ones, and names longer than any file has
_HOST = re.compile(r"[\w.:\[\]-]+")
_POLICY = (
    "default-src 'self'; connect-src 'self'{sockets}; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)
SILENT = logging.Logger("aiohttp", logging.CRITICAL + 1)  # clients that speak no HTTP are not worth a traceback
