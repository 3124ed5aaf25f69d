"""Telephone calls at a real server, which is called as Twilio calls one."""

import asyncio
import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType
from runningserver import RunningServer, connected, fetched, frames, next_json, pcm, refused, speech, talk_pcm

from personaplex_cli.audio.g711 import MU_LAW, PhoneWriter
from personaplex_cli.options import AccessOptions, ServeOptions
from personaplex_cli.samples import FRAME
from personaplex_cli.server import introduction, rounds

SID, CHUNK = "MZ1", 160
SPOKEN = PhoneWriter(MU_LAW).write(speech(12))
ENOUGH = 12 * FRAME // 3  # codes
Socket = ClientWebSocketResponse


async def say(socket: Socket, event: str, **more: Any) -> None:
    await socket.send_json({"event": event, "streamSid": SID, **more})


async def begin(socket: Socket, **parameters: str) -> None:
    await socket.send_json({"event": "connected", "protocol": "Call", "version": "1.0.0"})
    await say(socket, "start", start={"streamSid": SID, "customParameters": {"seed": "3", **parameters}})


async def speak(socket: Socket) -> None:
    """On and on: a telephone does not know when the model hears it."""
    with suppress(ConnectionError):
        for at in cycle(range(0, len(SPOKEN), CHUNK)):
            payload = b64encode(SPOKEN[at : at + CHUNK]).decode()
            await say(socket, "media", media={"track": "inbound", "payload": payload})
            await asyncio.sleep(0.01)


async def heard(socket: Socket) -> bytes:
    """Enough codes; marks come back as if all was played at once."""
    codes = b""
    while len(codes) < ENOUGH:
        message = await socket.receive()
        assert message.type is WSMsgType.TEXT, (message, socket.close_code)
        values = json.loads(message.data)
        assert values["streamSid"] == SID
        if values["event"] == "media":
            codes += b64decode(values["media"]["payload"])
        else:
            await say(socket, "mark", mark=values["mark"])
    return codes


async def closed(socket: Socket) -> tuple[int | None, str]:
    """The code and reason with which it is closed; what still comes before is not read."""
    while (message := await socket.receive()).type is WSMsgType.TEXT:
        pass
    return socket.close_code, message.extra or ""


async def call(server: RunningServer, **parameters: str) -> bytes:
    """A whole call; returns the codes of the answer."""
    async with connected(server.socket("/twilio")) as socket:
        await begin(socket, **parameters)
        speaking = asyncio.create_task(speak(socket))
        codes = await heard(socket)
        speaking.cancel()
        await say(socket, "stop", stop={"accountSid": "AC1", "callSid": "CA1"})
        assert (await closed(socket))[0] == 1000
        return codes


async def turned_away(server: RunningServer, first: Callable[[Socket], Coroutine[Any, Any, None]]) -> tuple[Any, str]:
    """How a call is closed that begins like this."""
    async with connected(server.socket("/twilio")) as socket:
        await first(socket)
        return await closed(socket)


def test_a_call_is_answered_and_ends_with_stop(server: RunningServer) -> None:
    before = len(server.notes)
    assert len(set(asyncio.run(call(server, persona="chef", voice="NATM1")))) > 20  # which is no silence
    server.wait(lambda: any("/twilio: " in note for note in server.notes[before:]))
    (note,) = (note for note in server.notes[before:] if "/twilio: " in note)
    assert "with chef, NATM1" in note and note.endswith("left.")


def test_calls_and_others_talk_side_by_side(random_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "MAX_ROUND_MS", math.inf)  # a slow machine would let in one at a time

    async def talk(server: RunningServer) -> None:
        async with connected(server.socket("/twilio")) as first:
            await begin(first)
            speaking = asyncio.create_task(speak(first))
            await heard(first)
            assert await call(server, persona="chef")
            assert len(await pcm(server, 5)) == 2 * 5 * FRAME
            await heard(first)
            speaking.cancel()

    with RunningServer(random_folder, slots=2) as server:
        asyncio.run(talk(server))


def test_without_the_token_a_call_is_not_let_in_and_takes_no_place(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wrong(socket: Socket) -> None:
        await begin(socket, token="geheim")

    async def silent(socket: Socket) -> None:
        await asyncio.sleep(0)

    async def pinging(socket: Socket) -> None:
        for _ in range(introduction.MAX_FIRST_MESSAGES):
            await socket.ping()

    async def connecting(socket: Socket) -> None:
        for _ in range(introduction.MAX_FIRST_MESSAGES):
            await say(socket, "connected")

    async def hung_up(socket: Socket) -> None:
        await say(socket, "stop")

    async def eager(socket: Socket) -> None:
        await say(socket, "media", media={"payload": ""})

    async def knock(server: RunningServer) -> None:
        for first in (begin, wrong):
            assert await turned_away(server, first) == (1008, "token")
        for first in (pinging, connecting):
            assert await turned_away(server, first) == (1008, "silent")
        with monkeypatch.context() as patch:
            patch.setattr(introduction, "INTRODUCTION_SECONDS", 0.1)
            assert await turned_away(server, silent) == (1008, "silent")
        assert await turned_away(server, hung_up) == (1000, "left")
        assert await turned_away(server, eager) == (1007, "nonsense")
        async with connected(server.socket("/twilio?token=geheimís")) as waiting:  # which Twilio would not send
            await say(waiting, "connected")
            assert await call(server, token="geheimís")  # though there is one place only
            assert json.loads((await fetched(f"{server.url}/health"))[1])["sessions"]["waiting"] == 0

    with RunningServer(random_folder, access=AccessOptions(port=0, token="geheimís")) as server:
        asyncio.run(knock(server))
        assert sum("/twilio: not let in: The token is missing or wrong." in note for note in server.notes) == 1
        assert server.app._host.metrics.refused == 6


def test_a_call_for_somebody_unknown_is_refused(server: RunningServer) -> None:
    async def nobody(socket: Socket) -> None:
        await begin(socket, persona="nobody")

    async def wordy(socket: Socket) -> None:
        await begin(socket, prompt="x" * 5000)

    for first in (nobody, wordy):
        assert asyncio.run(turned_away(server, first)) == (4400, "refused")


def test_a_call_finds_no_place_or_waits_for_one(server: RunningServer, server_with_queue: RunningServer) -> None:
    async def meanwhile() -> None:
        async with connected(server.socket("/twilio")) as late, connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            status, body, _ = await refused(server.socket("/twilio"))
            assert (status, body["error"]) == (503, "busy")
            await begin(late)  # there was a place when it came
            assert await closed(late) == (1013, "busy")

    async def waiting() -> None:
        async with connected(server_with_queue.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            calling = asyncio.create_task(call(server_with_queue))
            await talk_pcm(socket, frames(speech(5)))
        assert await calling

    asyncio.run(meanwhile())
    asyncio.run(waiting())


def test_a_key_makes_it_stop_talking(server: RunningServer) -> None:
    async def press() -> None:
        async with connected(server.socket("/twilio")) as socket:
            await begin(socket)
            speaking = asyncio.create_task(speak(socket))
            await heard(socket)
            speaking.cancel()
            await say(socket, "dtmf", dtmf={"track": "inbound_track", "digit": "5"})
            payload = b64encode(b"\xff" * CHUNK).decode()
            while True:
                await say(socket, "media", media={"payload": payload})
                values = json.loads((await socket.receive()).data)
                if values["event"] == "clear":
                    return

    asyncio.run(press())


def test_calls_are_recorded_when_wanted(random_folder: Path, tmp_path: Path) -> None:
    with RunningServer(random_folder, ServeOptions(record=tmp_path)) as server:
        asyncio.run(call(server))
    (kept,) = tmp_path.glob("*/conversation.wav")
    assert kept.stat().st_size > ENOUGH


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own
def test_pipecats_serializer_understands_what_is_sent_and_is_understood(server: RunningServer) -> None:
    pytest.importorskip("pipecat", reason="needs pipecat-ai")
    from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame, StartFrame
    from pipecat.serializers.twilio import TwilioFrameSerializer

    async def talk() -> bytes:
        serializer = TwilioFrameSerializer(SID, params=TwilioFrameSerializer.InputParams(auto_hang_up=False))
        await serializer.setup(StartFrame(audio_in_sample_rate=8000, audio_out_sample_rate=24000))
        said, sound = b"", b"".join(frames(speech(12)))

        async def speak() -> None:
            for at in cycle(range(0, len(sound), 960)):
                out = OutputAudioRawFrame(audio=sound[at : at + 960], sample_rate=24000, num_channels=1)
                if message := await serializer.serialize(out):
                    await socket.send_str(message)
                await asyncio.sleep(0.01)

        async with connected(server.socket("/twilio")) as socket:
            await begin(socket)
            speaking = asyncio.create_task(speak())
            while len(said) < 2 * ENOUGH:
                frame = await serializer.deserialize((await socket.receive()).data)
                said += frame.audio if isinstance(frame, InputAudioRawFrame) else b""
            speaking.cancel()
        return said

    assert len(set(asyncio.run(talk()))) > 20
