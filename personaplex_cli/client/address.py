"""Where a server is: the forms in which users write it, and the one URL that each means. No network here."""

import re
from contextlib import suppress
from ipaddress import AddressValueError, IPv6Address, ip_address
from urllib.parse import urlsplit, urlunsplit

from personaplex_cli.errors import UsageError
from personaplex_cli.options import PORT
from personaplex_cli.protocols.wire import PATH

TLS_PORT = 443
SCHEMES = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}
FORMS = "Write HOST, HOST:PORT, ws://HOST:PORT or wss://HOST."


def server_url(text: str) -> str:
    """What the user wrote -> the URL of the WebSocket, `ws://host:port/path`.

    The default port is 8998, with TLS 443: such servers run behind a web server. The default path is /api/chat. A query
    stays. Raises UsageError for anything else.
    """
    text = text.strip()
    with suppress(AddressValueError):
        text = f"[{IPv6Address(text)}]"
    try:
        parts = urlsplit(text if "://" in text else f"ws://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"{text!r} is not the address of a server.", FORMS) from error
    if parts.scheme not in SCHEMES:
        raise UsageError(f"A server cannot be reached by {parts.scheme}://.", FORMS)
    if "@" in parts.netloc:
        raise UsageError("The address of the server contains a name or a password.", "Give --token instead.")
    known = re.fullmatch(r"[\w-]+(\.[\w-]+)*\.?|[0-9a-f:.]*:[0-9a-f:.]*", host)
    if not known or port == 0 or " " in text or not text.isprintable():
        raise UsageError(f"{text!r} is not the address of a server.", FORMS)
    scheme = SCHEMES[parts.scheme]
    host = f"[{host}]" if ":" in host else host
    port = port or (TLS_PORT if scheme == "wss" else PORT)
    path = parts.path if parts.path.strip("/") else PATH
    return urlunsplit((scheme, f"{host}:{port}", path, parts.query, ""))


def is_readable_on_the_way(url: str) -> bool:
    """Whether what is sent to this URL of `server_url` travels unencrypted, and to another machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    with suppress(ValueError):  # it is a name
        return parts.scheme == "ws" and not ip_address(host).is_loopback
    return parts.scheme == "ws" and host.rstrip(".") != "localhost" and not host.endswith(".localhost")
