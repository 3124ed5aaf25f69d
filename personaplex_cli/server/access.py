"""Who gets in: the token, other web pages, TLS, and the names by which this server may be called."""

import hmac
import ipaddress
import socket
import ssl
from urllib.parse import urlsplit

from aiohttp import web

from personaplex_cli.errors import UsageError
from personaplex_cli.events import Note
from personaplex_cli.options import AccessOptions

KEY_PREFIX = "openai-insecure-api-key."  # of a sub-protocol, which is all that a browser can send of its own

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


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


def urls(options: AccessOptions, port: int) -> tuple[str, str]:
    """Where the server is found: from this machine, and from others if --host is all of its addresses (else empty)."""
    scheme, host = "https" if options.ssl_cert else "http", options.host
    address = parsed(host)
    if address and address.is_unspecified:
        return f"{scheme}://localhost:{port}", f"{scheme}://{socket.gethostname()}:{port}"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", ""


def admits(options: AccessOptions, request: web.Request) -> bool:
    """Whether a request has the token: in its header, its query, or as OpenAI's clients in browsers send a key."""
    if options.token is None:
        return True
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    shown = [given.strip()] if scheme.lower() == "bearer" else []
    shown += request.query.getall("token", [])
    offered = ",".join(request.headers.getall("Sec-WebSocket-Protocol", [])).split(",")
    shown += [each.strip().removeprefix(KEY_PREFIX) for each in offered if each.strip().startswith(KEY_PREFIX)]
    return any([is_token(options, each) for each in shown])


def is_token(options: AccessOptions, shown: str | None) -> bool:
    """Whether this lets somebody in; anything does where no token is wanted."""
    if options.token is None:
        return True
    given = (shown or "").encode(errors="surrogatepass")  # as they may be in JSON
    return hmac.compare_digest(given, options.token.encode())


def knows_host(options: AccessOptions, request: web.Request) -> bool:
    """Whether a request calls this server by a name of its own: an address, localhost, --host, that of an --origin.

    Another name may have been pointed here by a page elsewhere (DNS rebinding), which would then count as our own page.
    With a token any name will do, such as one that a web server before this one passes on: such a page does not have
    the token, and without it there is nothing to be had.
    """
    if options.token is not None:
        return True
    if (host := request.headers.get("Host")) is None:  # no browser
        return True
    if (name := _host_name(f"//{host}")) is None:
        return False
    known = {"localhost", options.host.lower(), *map(_host_name, options.origin)}
    if not _is_local(options.host):
        machine = socket.gethostname().lower()  # which others in this network call it by
        known |= {machine, f"{machine}.local"}
    return name in known or parsed(name) is not None


def client_address(request: web.Request) -> str:
    """The address that counts as one client; empty where it may be many: on this machine, such as through ssh.

    A web server on this machine or in a private network says in X-Forwarded-For for whom it asks; others could say
    anything there. Only what it added itself counts, which is the last entry.
    """
    peer = parsed(request.remote or "")
    forwarded = parsed(",".join(request.headers.getall("X-Forwarded-For", [])).rpartition(",")[2].strip())
    client = forwarded if peer and peer.is_private and forwarded else peer
    return "" if client is None or client.is_loopback else household(client)


def household(address: Address) -> str:
    """What counts as one address: in IPv6 the 64 bits that one household has."""
    return str(address if address.version == 4 else ipaddress.ip_network((address.packed, 64), strict=False))


def parsed(host: str) -> Address | None:
    """The address that this is, IPv4's in IPv6 as what it is; None if it is none."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if address.version == 6 else address


def base_url(request: web.Request) -> str:
    """The URL by which a request calls this server, without its scheme."""
    if host := request.headers.get("Host"):
        return f"//{host}"
    address, port = (request.transport.get_extra_info("sockname") if request.transport else None) or ("localhost", 0)
    return f"//[{address}]:{port}" if ":" in address else f"//{address}:{port}"


def is_listed(options: AccessOptions, request: web.Request) -> bool:
    """Whether the page that asks is of an --origin."""
    return _plain(request.headers.get("Origin", "")) in map(_plain, options.origin)


def knows_origin(options: AccessOptions, request: web.Request) -> bool:
    """Whether the page that opens a WebSocket is ours or a listed one. Only browsers send an origin."""
    origin = request.headers.get("Origin")
    if origin is None or _plain(origin).partition("://")[2] == request.host.lower():
        return True
    return is_listed(options, request)


def _host_name(url: str) -> str | None:
    """The host in a URL or in "//HOST:PORT", in lower case, without a final dot; None if there is none."""
    try:
        parts = urlsplit(url)
        has_more = parts.path or parts.query or parts.fragment or parts.username is not None
        _ = parts.port  # raises for one that is none
    except ValueError:
        return None
    return None if url.startswith("//") and has_more else (parts.hostname or "").rstrip(".") or None


def _plain(origin: str) -> str:
    return origin.rstrip("/").lower()


def _is_local(host: str) -> bool:
    address = parsed(host)
    return address.is_loopback if address else host == "localhost"
