"""A real server in a thread, on a free port of this machine, and real clients of it.

with RunningServer(random_folder) as server:
    asyncio.run(talk(server.socket("/pcm")))
"""

import json
import threading
import wave
from asyncio import sleep, timeout
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from personaplex_cli.audio.opus import OpusReader, OpusWriter
from personaplex_cli.audio.recording import write_wav
from personaplex_cli.events import Event, Note, Phase, State
from personaplex_cli.options import AccessOptions, ModelOptions, ServeOptions
from personaplex_cli.protocols.wire import Sound, Words, pack, unpack
from personaplex_cli.samples import FRAME, Samples, frame_at, frames_for, pcm16
from personaplex_cli.server.app import App

SAFETY_SECONDS = 60.0
SERVE, ACCESS = ServeOptions(), AccessOptions(port=0)
SEED = "seed=3"
T = TypeVar("T")


class RunningServer:
    """Serves while it is open; everything it says is in `events`. It must end properly, whatever was done to it."""

    def __init__(
        self,
        model: Path | str,
        serve: ServeOptions = SERVE,
        access: AccessOptions = ACCESS,
        wait_for: Phase = Phase.READY,
        kind: type[App] = App,
        slots: int | None = 1,
    ) -> None:
        self.events: list[Event] = []
        self._said = threading.Condition()
        self._wait_for = wait_for
        self.app = kind(ModelOptions(str(model), device="cpu"), serve, access, self._listen, slots)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="server")

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait(lambda: any(isinstance(each, State) and each.name == self._wait_for for each in self.events))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.app.stop()
        self._thread.join(SAFETY_SECONDS)
        assert not self._thread.is_alive() and self.app.ended
        if self._error and not error:
            raise self._error

    @property
    def url(self) -> str:
        return self.app.url

    @property
    def notes(self) -> list[str]:
        return [each.text for each in self.events if isinstance(each, Note)]

    def socket(self, path: str) -> str:
        """The URL of a WebSocket of this server."""
        return f"ws{self.url.removeprefix('http')}{path}"

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait until this is true; it is asked after each of the server's events."""
        with self._said:
            assert self._said.wait_for(lambda: self._error or until(), SAFETY_SECONDS), self.events
        if self._error:
            raise self._error

    def _listen(self, event: Event) -> None:
        with self._said:
            self.events.append(event)
            self._said.notify_all()

    def _run(self) -> None:
        try:
            self.app.run()
        except BaseException as error:
            with self._said:
                self._error = error
                self._said.notify_all()


# Clients. All keep a few frames under way, no more: sound that comes faster than the model hears is lost.

UNDER_WAY = 4


def speech(frames: int, seed: int = 0) -> Samples:
    """Noise as loud as speech, [frames * 1920], in 16-bit steps."""
    noise = np.random.default_rng(seed).integers(-3000, 3000, frames * FRAME)
    return (noise / 32768).astype(np.float32)


@asynccontextmanager
async def connected(url: str, **more: Any) -> AsyncIterator[ClientWebSocketResponse]:
    """A WebSocket that is open while the block runs."""
    async with timeout(SAFETY_SECONDS), ClientSession() as session, session.ws_connect(url, **more) as socket:
        transport = socket._writer.transport
        try:
            yield socket
        finally:
            with suppress(TimeoutError):
                async with timeout(1):
                    await socket.close()
            with suppress(AttributeError):  # of Python 3.11's TLS, where it is closed already
                transport.abort()  # what is still to be sent will not be read
            await sleep(0)


async def refused(url: str, **more: Any) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """Status, body and headers of the answer to a client that wants a WebSocket and gets none."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    headers = {**upgrade, **more.pop("headers", {})}
    address = url.replace("ws", "http", 1)
    async with timeout(SAFETY_SECONDS), ClientSession() as session, session.get(address, headers=headers, **more) as it:
        return it.status, await it.json(), it.headers


async def fetched(url: str, **more: Any) -> tuple[int, str, Mapping[str, str]]:
    """Status, text and headers of the answer to a plain request."""
    async with timeout(SAFETY_SECONDS), ClientSession() as session, session.get(url, **more) as answer:
        result = answer.status, await answer.text(), answer.headers
    await sleep(0.1 if "ssl" in more else 0)  # aiohttp closes TLS a moment later
    return result


async def next_json(socket: ClientWebSocketResponse, kind: str) -> dict[str, Any]:
    """The next JSON message of a type; others are skipped."""
    async for message in socket:
        if message.type == WSMsgType.TEXT and (values := json.loads(message.data))["type"] == kind:
            return dict(values)
    raise AssertionError(f"closed with {socket.close_code} before any {kind}")


async def next_message(socket: ClientWebSocketResponse, kind: type[T]) -> T:
    """The next of Moshi's messages of a kind; others are skipped."""
    async for message in socket:
        if isinstance(unpacked := unpack(message.data), kind):
            return unpacked
    raise AssertionError(f"closed with {socket.close_code} before any {kind}")


def frames(sound: Samples) -> list[bytes]:
    """A sound as messages of 16-bit samples, a frame in each."""
    return [pcm16(frame_at(sound, index)) for index in range(frames_for(len(sound)))]


async def talk_pcm(
    socket: ClientWebSocketResponse, messages: Sequence[bytes], answers: int | None = None
) -> tuple[bytes, list[dict[str, Any]]]:
    """Say messages of sound to a socket that is live; returns the answer, a message for each unless there are fewer
    `answers`, and what else came."""
    said, others, sent = list[bytes](), list[dict[str, Any]](), 0
    while len(said) < (len(messages) if answers is None else answers):
        while sent < min(len(messages), len(said) + UNDER_WAY):
            await socket.send_bytes(messages[sent])
            sent += 1
        message = await socket.receive()
        if message.type == WSMsgType.BINARY:
            said.append(message.data)
        else:
            assert message.type == WSMsgType.TEXT, (message, socket.close_code)
            others.append(json.loads(message.data))
    return b"".join(said), others


async def talk_moshi(socket: ClientWebSocketResponse, packets: Sequence[bytes]) -> tuple[Samples, str]:
    """Say Opus packets, a frame in each, to a socket that is live; returns sound and text of all but the last one."""
    reader, sounds, words, sent = OpusReader(), list[Samples](), list[str](), 0
    # The encoder holds back a part of a frame, so that the last one is never heard whole.
    while len(sounds) < len(packets) - 1:
        while sent < min(len(packets), len(sounds) + UNDER_WAY):
            await socket.send_bytes(pack(Sound(packets[sent])))
            sent += 1
        message = await socket.receive()
        assert message.type == WSMsgType.BINARY, (message, socket.close_code)
        match unpack(message.data):
            case Sound(ogg):
                sounds.append(reader.read(ogg))
            case Words(text):
                words.append(text)
    return np.concatenate(sounds), "".join(words)


def opus(sound: Samples) -> list[bytes]:
    """A sound as Opus, a packet for each frame."""
    writer = OpusWriter()
    return [writer.write(frame_at(sound, index)) for index in range(frames_for(len(sound)))]


async def pcm(server: RunningServer, count: int = 5, query: str = SEED, path: str = "/pcm") -> bytes:
    """A whole conversation: `count` frames are said, the same every time; returns the answer."""
    async with connected(server.socket(f"{path}?{query}")) as socket:
        await next_json(socket, "ready")
        return (await talk_pcm(socket, frames(speech(count))))[0]


def wav(path: Path, *channels: Samples) -> Path:
    with path.open("wb") as file:
        write_wav(file, *channels)
    return path


def samples(path: Path) -> np.ndarray[Any, Any]:
    """What is in a wav of 16 bits, [n, channels]."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
