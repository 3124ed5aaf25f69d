"""What each protocol of `serve` adds on this machine: from sending a frame to having its answer, without a model.

    python tools/measure_dialects.py

The engine is the tests' parrot, which answers at once, so that all that is measured is the server, the loopback and
JSON. In every 80 ms a frame is said in each protocol, one after the other: what else the machine does meets all alike.
"""

import asyncio
import json
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

ROOT = Path(__file__).parents[1]
FRAMES, LEFT_OUT = 500, 25  # measured, and at the beginning not
SILENCE = bytes(3_840)  # a frame of 16-bit samples
NO_TURNS = {"audio": {"input": {"turn_detection": None}}}
FIRST: dict[str, dict[str, Any]] = {
    "/v1/live/sessions": {"type": "session.start"},
    "/v1/realtime": {"type": "session.update", "session": NO_TURNS},
}
APPEND = {"/v1/live/sessions": "session.input_audio.append", "/v1/realtime": "input_audio_buffer.append"}
DIALECTS = ["/pcm", *APPEND]


class Client:
    """One conversation in one of them."""

    def __init__(self, socket: ClientWebSocketResponse, dialect: str) -> None:
        self._socket = socket
        self._dialect = dialect
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    async def answered(self) -> float:
        """Milliseconds until a frame is answered."""
        while not self._answers.empty():  # to silence that was filled in
            self._answers.get_nowait()
        began = time.perf_counter()
        if kind := APPEND.get(self._dialect):
            await self._socket.send_json({"type": kind, "audio": b64encode(SILENCE).decode()})
        else:
            await self._socket.send_bytes(SILENCE)
        await self._answers.get()
        return 1000 * (time.perf_counter() - began)

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is WSMsgType.BINARY:
                self._answers.put_nowait(message.data)
            elif (values := json.loads(message.data))["type"].endswith("output_audio.delta"):
                self._answers.put_nowait(b64decode(values["delta"]))


async def measure(url: str) -> None:
    times: dict[str, list[float]] = {dialect: [] for dialect in DIALECTS}
    async with ClientSession() as http:
        clients = {}
        for dialect in DIALECTS:
            socket = await http.ws_connect(url + dialect)
            clients[dialect] = Client(socket, dialect)
            if first := FIRST.get(dialect):
                await socket.send_json(first)
        await asyncio.sleep(5.0)  # until all have begun: one a second is let in
        due = time.perf_counter()
        for turn in range(FRAMES + LEFT_OUT):
            due += 0.08
            first = turn % len(DIALECTS)  # the one that pays for waking up
            for dialect in DIALECTS[first:] + DIALECTS[:first]:
                times[dialect].append(await clients[dialect].answered())
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
    for dialect, measured in times.items():
        ranked = sorted(measured[LEFT_OUT:])
        p50, p95 = (ranked[int(share * len(ranked))] for share in (0.5, 0.95))
        print(f"{dialect:20} p50 {p50:5.2f} ms   p95 {p95:5.2f}   max {ranked[-1]:6.2f}")


def serve() -> None:
    """Until standard input ends."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import parrot
    from runningserver import RunningServer

    sys.modules["personaplex_cli.loader.load"] = parrot
    with RunningServer("demo", slots=len(DIALECTS)) as server:
        print(server.url, flush=True)
        sys.stdin.read()


def main() -> None:
    command = [sys.executable, __file__, "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        asyncio.run(measure(server.stdout.readline().strip()))
        server.communicate("")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
