"""Connections that ask for nothing: each has a clock, and none keeps others out."""

import asyncio
import shutil
import socket as sockets
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType
from hypothesis import given
from hypothesis import strategies as st
from runningserver import SEED, RunningServer, connected, fetched, frames, next_json, pcm, speech, talk_pcm

from personaplex_cli.options import AccessOptions
from personaplex_cli.samples import FRAME
from personaplex_cli.server import connections
from personaplex_cli.server.connections import MAX_UNFINISHED, Connection, Connections, Stage, _address

CLOSED_SECONDS = 30.0  # half of what a client without sound has
HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
DAWDLERS = {
    "silent": b"",
    "half a head": HEAD + b"X: ",
    "half a method": b"GE",
    "after an answer": HEAD + b"\r\n",
    "without its body": b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n",
    "refused a WebSocket": b"GET /pcm HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a call that nobody introduces": b"GET /twilio HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "no HTTP": b"\x16\x03\x01",
}


@asynccontextmanager
async def dialled(server: RunningServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def hung_up(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        async with asyncio.timeout(20):
            await reader.read()


@pytest.mark.parametrize("first", DAWDLERS.values(), ids=DAWDLERS)
@pytest.mark.parametrize("trickles", [False, True])
def test_who_asks_nothing_is_hung_up_on(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, first: bytes, trickles: bool
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)

    async def dawdle() -> None:
        async with dialled(server) as (reader, writer):
            writer.write(first)
            ending = asyncio.create_task(hung_up(reader))
            while not ending.done():
                if trickles:
                    writer.write(b"x")
                await asyncio.sleep(0.05)
            await ending

    asyncio.run(dawdle())


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"])
def test_tls_has_the_same_clock(
    random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "MAX_PER_ADDRESS", 5)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {cert} -keyout {key}"
    subprocess.run(command.split(), check=True, capture_output=True)
    trust = ssl.create_default_context(cafile=str(cert))
    trust.check_hostname = False

    async def dawdle(server: RunningServer) -> None:
        async with dialled(server) as (reader, writer):
            writer.write(first)
            await hung_up(reader)
        held = [sockets.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) for _ in range(20)]
        assert (await fetched(f"{server.url}/health", ssl=trust))[0] == 200
        assert len(server.app._connections) <= 5
        for each in held:
            each.close()

    with RunningServer(random_folder, access=AccessOptions(port=0, ssl_cert=cert, ssl_key=key)) as server:
        asyncio.run(dawdle(server))


@pytest.mark.parametrize("first", DAWDLERS.values(), ids=DAWDLERS)
def test_a_crowd_that_asks_nothing_keeps_nobody_out(
    server_with_queue: RunningServer, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    server = server_with_queue
    monkeypatch.setattr(connections, "MAX_PER_ADDRESS", 8)
    port = int(server.url.rpartition(":")[2])

    async def crowd() -> None:
        async with connected(server.socket(f"/pcm?{SEED}")) as talking:
            await next_json(talking, "ready")
            held = []
            for number in range(60):
                held.append(sockets.create_connection(("127.0.0.1", port)))
                held[-1].sendall(first)
                if number % 20 == 0:
                    assert (await fetched(f"{server.url}/health"))[0] == 200
            assert (await fetched(f"{server.url}/health"))[0] == 200
            assert len(server.app._connections) <= 8
            assert len((await talk_pcm(talking, frames(speech(3))))[0]) == 3 * 2 * FRAME
            for each in held:
                each.close()

    asyncio.run(crowd())


def test_an_answer_that_is_not_taken_is_given_up(
    random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.5)
    (tmp_path / "index.html").write_bytes(bytes(50_000_000))

    async def stare(server: RunningServer) -> None:
        async with dialled(server) as (_, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.sleep(0.1)
            async with asyncio.timeout(20):
                while len(server.app._connections):
                    await asyncio.sleep(0.05)

    with RunningServer(random_folder, access=AccessOptions(port=0, static=tmp_path)) as server:
        asyncio.run(stare(server))


def test_requests_without_end_on_one_connection_are_cut_off(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUESTS", 20)

    async def ask() -> None:
        async with dialled(server) as (reader, writer):
            writer.write((HEAD + b"\r\n") * 5_000)
            await hung_up(reader)

    asyncio.run(ask())


@pytest.mark.parametrize("path", ["/pcm", "/v1/realtime", "/twilio"])
def test_a_message_without_end_is_not_kept(server: RunningServer, path: str) -> None:
    piece = bytes(1 << 16)

    async def go_on() -> None:
        async with connected(server.socket(f"{path}?{SEED}")) as socket:
            transport, sent = socket._writer.transport, 0
            assert transport is not None
            transport.write(struct.pack(">BBQI", 0x82, 0xFF, 1 << 40, 0))  # so long it claims to be
            reading = asyncio.create_task(closed(socket))
            while not reading.done() and sent < 40 * MAX_UNFINISHED:
                transport.write(piece)
                sent += len(piece)
                await asyncio.sleep(0)
                while transport.get_write_buffer_size() and not reading.done():
                    await asyncio.sleep(0.001)
            async with asyncio.timeout(CLOSED_SECONDS):  # sooner than for want of sound
                await reading

    async def closed(socket: ClientWebSocketResponse) -> None:
        while (await socket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
            pass

    asyncio.run(go_on())
    assert len(asyncio.run(pcm(server))) > 0


class Stream(asyncio.Transport):
    """A network that is read or is not."""

    reading = True

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@given(st.lists(st.sampled_from(["comes", "full", "empty", "rested"]), max_size=30))
def test_the_network_is_read_when_both_it_and_aiohttp_want_to(happens: list[str]) -> None:
    async def go() -> None:
        stream, full, paused = Stream(), False, False

        def take(piece: bytes) -> None:
            nonlocal paused
            if full:
                paused = True
                stream.pause_reading()

        handler = Mock(data_received=take)
        line = Connection(Connections(lambda: handler, None))
        line._begin(stream)
        line.share.do = lambda work: work() or 1e6  # type: ignore[method-assign]  # each piece is followed by a rest
        for what in happens:
            if what == "comes":  # TLS may still have some where nothing is read
                line.data_received(b"x")
            elif what == "rested" and line._resting:
                line._read()
            elif what == "full":
                full = True  # it says so when something comes
            elif what == "empty":
                if paused:
                    stream.resume_reading()
                full = paused = False
        while line._resting:  # until what came meanwhile is handed over
            line._read()
        assert stream.reading is not paused

    asyncio.run(go())


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(Stage)), max_size=60))
def test_no_address_takes_all_places_and_who_talks_stays(comings: list[tuple[int, Stage]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "MAX_CONNECTIONS", 6)
        patch.setattr(connections, "MAX_PER_ADDRESS", 4)
        everyone = Connections(lambda: None, None)  # type: ignore[arg-type,return-value]
        talking = set()
        for address, stage in comings:
            one = Connection(everyone)
            one.address = str(address)
            if everyone.admit(one):
                one.stage = stage
                talking |= {one} if stage is not Stage.ASKING else set()
            by_address = [each.address for each in everyone._open]
            assert len(by_address) <= 6 and all(by_address.count(each) <= 4 for each in by_address)
            assert talking <= everyone._open


def test_a_household_is_one_address() -> None:
    assert _address(("10.0.0.1", 5)) == _address(("::ffff:10.0.0.1", 5, 0, 0)) == "10.0.0.1"
    assert _address(("2001:db8::1", 5, 0, 0)) == _address(("2001:db8::2", 6, 0, 0)) != _address(("2001:db8:0:1::1", 1))
    assert _address(("fe80::1%eth0", 5, 0, 2)) and _address(None) == ""
