"""Who gets in: the token, other web pages, TLS."""

import hmac
import ipaddress
import ssl

from aiohttp import web

from personaplex_cli.errors import UsageError
from personaplex_cli.events import Note
from personaplex_cli.options import AccessOptions


def tls_context(options: AccessOptions) -> ssl.SSLContext | None:
    """What TLS needs; None without a certificate. Raises UsageError for one that cannot be used."""
    if options.ssl_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.ssl_cert, options.ssl_key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"The certificate cannot be used: {error}.", "Give PEM files that fit together.") from error
    return context


def warning(options: AccessOptions) -> Note | None:
    """What the operator should know about who can reach this server."""
    lacks = [] if options.token else ["--token (anyone may talk)"]
    lacks += [] if options.ssl_cert else ["--ssl-cert and --ssl-key (what is said can be overheard)"]
    if not lacks or _is_local(options.host):
        return None
    return Note(f"Others can reach this server, and it runs without {' and without '.join(lacks)}.")


def admits(options: AccessOptions, request: web.Request) -> bool:
    """Whether a request has the token, in its header or its query."""
    if options.token is None:
        return True
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    shown = [given.strip()] if scheme.lower() == "bearer" else []
    shown += request.query.getall("token", [])
    token = options.token.encode()
    return any([hmac.compare_digest(each.encode(errors="surrogateescape"), token) for each in shown])


def knows_origin(options: AccessOptions, request: web.Request) -> bool:
    """Whether the page that opens a WebSocket is ours or a listed one. Only browsers send an origin."""
    origin = request.headers.get("Origin")
    if origin is None or _plain(origin).partition("://")[2] == request.host.lower():
        return True
    return _plain(origin) in map(_plain, options.origin)


def _plain(origin: str) -> str:
    return origin.rstrip("/").lower()


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
