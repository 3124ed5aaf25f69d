"""The token, other web pages, TLS."""

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType
from runningserver import (
    SEED,
    RunningServer,
    connected,
    fetched,
    frames,
    next_json,
    next_message,
    refused,
    speech,
    talk_pcm,
)

from personaplex_cli.errors import UsageError
from personaplex_cli.options import AccessOptions
from personaplex_cli.protocols.wire import PATH, Handshake
from personaplex_cli.samples import FRAME
from personaplex_cli.server.access import urls, warning
from personaplex_cli.server.session import MAX_MISTAKES

HEALTH_CHECK = Path(__file__).parents[2] / "deploy/health_check.py"


def test_only_with_the_token_one_gets_in(random_folder: Path) -> None:
    async def knock(server: RunningServer) -> None:
        for given in ("", "?token=wrong", "?token=", "?token=gehe%C3%ADm"):
            for path in (PATH, "/pcm", "/ws", "/"):
                status, body, headers = await refused(server.socket(f"{path}{given}"))
                assert (status, body["error"], headers["WWW-Authenticate"]) == (401, "token", "Bearer")
        for path, bare, shown in (("/api/info", 401, 200), ("/metrics", 401, 200), ("/health", 200, 200)):
            assert (await fetched(server.url + path))[0] == bare
            assert (await fetched(f"{server.url}{path}?token=geheim%C3%ADs"))[0] == shown
        async with connected(server.socket(f"/pcm?{SEED}&token=geheim%C3%ADs")) as socket:
            await next_json(socket, "ready")
            assert (await refused(server.socket("/v1/realtime?token=geheim%C3%ADs")))[0] == 503

    with RunningServer(random_folder, access=AccessOptions(port=0, token="geheimís")) as server:
        asyncio.run(knock(server))
        assert is_healthy(server.url)
        for path, why in (("/pcm", "token"), ("/ws", "token"), ("/v1/realtime", "places")):
            assert sum(f", {path}: not let in: " in note and why in note for note in server.notes) == 1


def test_the_token_may_come_in_the_header(random_folder: Path) -> None:
    async def knock(server: RunningServer) -> None:
        async with connected(server.socket(PATH), headers={"Authorization": "Bearer open-sesame"}) as socket:
            await next_message(socket, Handshake)
        for header in ("Bearer open-sesam", "Basic open-sesame", "open-sesame", "Bearer", "Bearer \udcff"):
            assert (await refused(server.socket(PATH), headers={"Authorization": header}))[0] == 401

    with RunningServer(random_folder, access=AccessOptions(port=0, token="open-sesame")) as server:
        asyncio.run(knock(server))


def test_pages_from_elsewhere_are_refused_unless_they_are_listed(random_folder: Path) -> None:
    async def knock(server: RunningServer) -> None:
        for origin in (
            "https://evil.example",
            "null",
            "",
            "http://[",
            "http://127.0.0.1:1",
            f"{server.url}.evil.example",
        ):
            status, body, _ = await refused(server.socket(PATH), headers={"Origin": origin})
            assert (status, body["error"]) == (403, "origin")
        for origin in (server.url, "https://Friend.example/"):
            async with connected(server.socket(PATH), headers={"Origin": origin}) as socket:
                await next_message(socket, Handshake)

    with RunningServer(random_folder, access=AccessOptions(port=0, origin=("https://friend.example",))) as server:
        asyncio.run(knock(server))


@pytest.fixture(scope="module")
def tls_server(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {cert} -keyout {key}"
    subprocess.run(command.split(), check=True, capture_output=True)
    with RunningServer(random_folder, access=AccessOptions(port=0, ssl_cert=cert, ssl_key=key)) as server:
        yield server
    assert not is_healthy(server.url)


def trusting(server: RunningServer) -> ssl.SSLContext:
    trust = ssl.create_default_context(cafile=str(server.app._access.ssl_cert))
    trust.check_hostname = False
    return trust


def test_with_a_certificate_it_speaks_tls(tls_server: RunningServer) -> None:
    trust = trusting(tls_server)

    async def talk() -> None:
        async with connected(tls_server.socket(f"/pcm?{SEED}"), ssl=trust) as socket:
            await next_json(socket, "ready")
            assert len((await talk_pcm(socket, frames(speech(3))))[0]) == 3 * 2 * FRAME
        info = json.loads((await fetched(f"{tls_server.url}/api/info", ssl=trust))[1])
        assert info["sockets"]["pcm"].startswith("wss://")

    assert tls_server.url.startswith("https://")
    asyncio.run(talk())
    assert is_healthy(tls_server.url)


def test_over_tls_the_server_may_hang_up_first(tls_server: RunningServer) -> None:
    """Python closes the transport twice then, and its TLS falls over what is asked of it after that."""
    trust = trusting(tls_server)

    async def talk_nonsense() -> None:
        for _ in range(3):
            async with connected(tls_server.socket("/ws"), ssl=trust) as socket:
                for _ in range(MAX_MISTAKES + 1):
                    await socket.send_str("{}")
                while (await socket.receive()).type != WSMsgType.CLOSE:
                    pass
                assert socket.close_code == 1007
        health = json.loads((await fetched(f"{tls_server.url}/health", ssl=trust))[1])
        assert health["sessions"]["refused"] == 0

    asyncio.run(talk_nonsense())
    assert not [note for note in tls_server.notes if "failed" in note or "Error" in note]


def is_healthy(url: str) -> bool:
    """What the container's health check finds."""
    environment = {**os.environ, "PERSONAPLEX_PORT": url.rpartition(":")[2]}
    return subprocess.run([sys.executable, HEALTH_CHECK], env=environment).returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"token": ""}, "token is empty"),
        ({"ssl_cert": Path("cert.pem")}, "belong together"),
        ({"static": Path("nowhere")}, "no index.html"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        AccessOptions(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (AccessOptions(), []),
        (AccessOptions("localhost"), []),
        (AccessOptions("::1"), []),
        (AccessOptions("0.0.0.0"), ["--ssl-cert", "--token"]),
        (AccessOptions("192.168.1.5", token="x"), ["--ssl-cert"]),
        (AccessOptions("::", ssl_cert=Path("c"), ssl_key=Path("k")), ["--token"]),
        (AccessOptions("host.example", token="x", ssl_cert=Path("c"), ssl_key=Path("k")), []),
    ],
)
def test_open_access_is_pointed_out(options: AccessOptions, said: list[str]) -> None:
    note = warning(options)
    assert [each for each in ("--ssl-cert", "--token") if note and each in note.text] == said


def hosts(port: int) -> list[str]:
    """Names of pages elsewhere, which now point here."""
    bad = [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil",
        "evil.localhost",
        "xn--localhost",
        "friend.example.evil",
    ]
    return [*bad, *(f"{each}:{port}" for each in bad), "localhost:x", "a@localhost", "localhost/x", "[::1", ""]


def test_a_name_that_is_not_the_servers_own_is_refused_on_every_path(random_folder: Path) -> None:
    async def knock(server: RunningServer) -> None:
        port = int(server.url.rpartition(":")[2])
        for host in hosts(port):
            for path in ("/", "/health", "/livez", "/api/info", "/metrics", "/app.js", "/nothing", PATH, "/pcm", "/ws"):
                headers = {"Host": host, "Origin": f"http://{host}"}
                assert (await raw(port, path, host)) in (421, 400), (host, path)
                if path in (PATH, "/pcm", "/ws", "/") and host.isprintable() and host:
                    assert (await refused(server.socket(path), headers=headers))[0] in (421, 400)
        for host in (
            "127.0.0.1",
            f"127.0.0.1:{port}",
            "[::1]:1",
            "10.1.2.3",
            "LocalHost",
            "localhost.",
            "friend.example:9",
        ):
            assert await raw(port, "/api/info", host) == 200, host
        assert await raw(port, "/health", None) == 200  # no browser, such as the check of a load balancer

    async def raw(port: int, path: str, host: str | None) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        named = "" if host is None else f"Host: {host}\r\n"
        writer.write(f"GET {path} HTTP/1.1\r\n{named}Connection: close\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
        writer.close()
        await writer.wait_closed()
        return status

    with RunningServer(random_folder, access=AccessOptions(port=0, origin=("https://friend.example",))) as server:
        asyncio.run(knock(server))
    assert len([note for note in server.notes if "--origin" in note]) < 60


def test_with_a_token_a_web_server_in_between_may_pass_its_own_name_on(random_folder: Path) -> None:
    async def knock(server: RunningServer) -> None:
        host = {"Host": "talk.example", "Origin": "https://talk.example"}
        assert (await fetched(f"{server.url}/", headers=host))[0] == 200
        assert (await fetched(f"{server.url}/api/info", headers=host))[0] == 401
        async with connected(server.socket("/pcm?token=secret"), headers=host) as socket:
            await next_json(socket, "ready")

    with RunningServer(random_folder, access=AccessOptions(port=0, token="secret")) as server:
        asyncio.run(knock(server))


def test_the_owner_reads_once_which_page_was_refused_and_what_to_do(server: RunningServer) -> None:
    for _ in range(3):
        asyncio.run(refused(server.socket(PATH), headers={"Origin": "https://talk.example"}))
    (note,) = [each for each in server.notes if "https://talk.example" in each]
    assert "--origin" in note and "Host" in note


def test_a_listed_page_may_read_what_there_is_to_choose(random_folder: Path) -> None:
    async def look(server: RunningServer) -> None:
        for path in ("/api/info", "/health", "/livez"):
            for origin, allowed in (("https://friend.example", True), ("https://evil.example", False)):
                _, _, headers = await fetched(server.url + path, headers={"Origin": origin})
                assert (headers.get("Access-Control-Allow-Origin") == origin) is allowed
                assert headers["Vary"] == "Origin"
        async with ClientSession() as asking:
            ask = {"Origin": "https://friend.example", "Access-Control-Request-Headers": "authorization"}
            async with asking.options(f"{server.url}/api/info", headers=ask) as answer:
                assert answer.status == 204 and answer.headers["Access-Control-Allow-Headers"] == "Authorization"

    with RunningServer(random_folder, access=AccessOptions(port=0, origin=("https://friend.example",))) as server:
        asyncio.run(look(server))


@pytest.mark.parametrize(
    ("options", "here", "is_elsewhere"),
    [
        (AccessOptions(), "http://127.0.0.1:5", False),
        (AccessOptions("::1"), "http://[::1]:5", False),
        (AccessOptions("0.0.0.0"), "http://localhost:5", True),
        (AccessOptions("::", ssl_cert=Path("c"), ssl_key=Path("k")), "https://localhost:5", True),
    ],
)
def test_the_address_that_is_shown_can_be_opened(options: AccessOptions, here: str, is_elsewhere: bool) -> None:
    shown, elsewhere = urls(options, 5)
    assert shown == here and bool(elsewhere) is is_elsewhere


@pytest.mark.parametrize("origin", ["foo", "https://", "ftp://host", "https://host/page", "*", ""])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(UsageError, match="not the origin of a web page"):
        AccessOptions(origin=("https://host:8443", origin))
