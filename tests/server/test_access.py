"""The token, other web pages, TLS."""

import asyncio
import json
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
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
from personaplex_cli.server.access import warning


def test_only_with_the_token_one_gets_in(demo_folder: Path) -> None:
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

    with RunningServer(demo_folder, access=AccessOptions(port=0, token="geheimís")) as server:
        asyncio.run(knock(server))


def test_the_token_may_come_in_the_header(demo_folder: Path) -> None:
    async def knock(server: RunningServer) -> None:
        async with connected(server.socket(PATH), headers={"Authorization": "Bearer open-sesame"}) as socket:
            await next_message(socket, Handshake)
        for header in ("Bearer open-sesam", "Basic open-sesame", "open-sesame", "Bearer", "Bearer \udcff"):
            assert (await refused(server.socket(PATH), headers={"Authorization": header}))[0] == 401

    with RunningServer(demo_folder, access=AccessOptions(port=0, token="open-sesame")) as server:
        asyncio.run(knock(server))


def test_pages_from_elsewhere_are_refused_unless_they_are_listed(demo_folder: Path) -> None:
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

    with RunningServer(demo_folder, access=AccessOptions(port=0, origin=("https://friend.example",))) as server:
        asyncio.run(knock(server))


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_with_a_certificate_it_speaks_tls(demo_folder: Path, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {cert} -keyout {key}"
    subprocess.run(command.split(), check=True, capture_output=True)
    trust = ssl.create_default_context(cafile=str(cert))
    trust.check_hostname = False

    async def talk(server: RunningServer) -> None:
        async with connected(server.socket(f"/pcm?{SEED}"), ssl=trust) as socket:
            await next_json(socket, "ready")
            assert len((await talk_pcm(socket, frames(speech(3))))[0]) == 3 * 2 * FRAME
        info = json.loads((await fetched(f"{server.url}/api/info", ssl=trust))[1])
        assert info["sockets"]["pcm"].startswith("wss://")

    with RunningServer(demo_folder, access=AccessOptions(port=0, ssl_cert=cert, ssl_key=key)) as server:
        assert server.url.startswith("https://")
        asyncio.run(talk(server))


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
