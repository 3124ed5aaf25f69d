"""OpenAI's own SDK for Python: every event is one of its types."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from runningserver import SAFETY_SECONDS, RunningServer

from personaplex_cli.audio.g711 import MU_LAW, PhoneWriter
from personaplex_cli.audio.pcm import PcmWriter
from personaplex_cli.server import session

openai = pytest.importorskip("openai", reason="needs openai[realtime]")
pytest.importorskip("websockets", reason="needs openai[realtime]")
pydantic = pytest.importorskip("pydantic")


def client(server: RunningServer) -> Any:
    base = {"base_url": f"{server.url}/v1", "websocket_base_url": server.socket("/v1")}
    return openai.AsyncOpenAI(api_key="any", **base)


class Ear:
    """Reads a connection's events, each checked by the SDK's types; strictly unless it is said to know no better."""

    def __init__(self, connection: Any, types: Any) -> None:
        self._connection = connection
        self._check = pydantic.TypeAdapter(types)

    async def until(self, kind: str) -> list[Any]:
        """All events up to the next one of this type."""
        events: list[Any] = []
        while not events or events[-1].type != kind:
            raw = await self._connection.recv_bytes()
            self._check.validate_json(raw)
            events.append(self._connection.parse_event(raw))
            assert events[-1].type != "error" or kind == "error", events[-1]
        return events


@asynccontextmanager
async def spoken(microphone: Any, append: Any, writer: Any) -> AsyncIterator[None]:
    """The microphone is on while the block runs."""

    async def send() -> None:
        async for frame in microphone.frames():
            await append(b64encode(writer.write(frame)).decode())

    async with asyncio.timeout(SAFETY_SECONDS):
        sending = asyncio.create_task(send())
        try:
            yield
        finally:
            sending.cancel()


def sound(events: list[Any]) -> bytes:
    return b"".join(b64decode(each.delta) for each in events if each.type.endswith("audio.delta"))


@pytest.mark.parametrize(
    ("format", "writer"),
    [({"type": "audio/pcm", "rate": 24000}, PcmWriter(24000)), ({"type": "audio/pcmu"}, PhoneWriter(MU_LAW))],
    ids=["pcm", "pcmu"],
)
def test_realtime_talks_is_interrupted_and_cancelled(
    answering: RunningServer, microphone: Any, format: dict[str, Any], writer: Any
) -> None:
    from openai.types.realtime import RealtimeServerEvent

    async def talk() -> None:
        async with client(answering).realtime.connect(model="gpt-realtime") as connection:
            ear = Ear(connection, RealtimeServerEvent)
            sides = {"input": {"format": format}, "output": {"format": format, "voice": "marin"}}
            await connection.session.update(session={"type": "realtime", "instructions": "You cook.", "audio": sides})
            async with spoken(microphone, lambda audio: connection.input_audio_buffer.append(audio=audio), writer):
                *events, greeted = await ear.until("response.done")
                assert greeted.response.status == "completed" and len(sound(events)) > 1000
                asyncio.create_task(microphone.speak(0.8))  # noqa: RUF006  its end shows
                await ear.until("conversation.item.done")
                await ear.until("response.created")
                asyncio.create_task(microphone.speak(1.2))  # noqa: RUF006
                done = (await ear.until("response.done"))[-1].response
                assert done.status_details.reason == "turn_detected"
                await ear.until("response.created")  # what it goes on saying, or its next answer
                await connection.response.cancel()
                done = (await ear.until("response.done"))[-1].response
                assert done.status_details.reason == "client_cancelled"
                await connection.conversation.item.create(
                    item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
                )
                await ear.until("conversation.item.done")

    asyncio.run(talk())


@pytest.mark.parametrize("beta", [False, True], ids=["realtime", "beta"])
def test_whatever_is_sent_is_answered_by_one_of_its_types(answering: RunningServer, beta: bool) -> None:
    """Without sound. Refusals are events, too: a client goes on after any number of them."""
    from openai.types.beta.realtime import RealtimeServerEvent as BetaServerEvent
    from openai.types.realtime import RealtimeServerEvent

    item = {"id": "mine", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    cut = {"item_id": "mine", "content_index": 0, "audio_end_ms": 80}
    made = "conversation.item.created" if beta else "conversation.item.done"
    sent = [
        ("session.update", {"session": {"turn_detection": None} if beta else {"type": "realtime"}}, "session.updated"),
        ("input_audio_buffer.commit", {}, "input_audio_buffer.committed"),
        ("input_audio_buffer.clear", {}, "input_audio_buffer.cleared"),
        ("conversation.item.create", {"item": item, "previous_item_id": "root"}, made),
        ("conversation.item.retrieve", {"item_id": "mine"}, "conversation.item.retrieved"),
        ("conversation.item.truncate", cut, "conversation.item.truncated"),
        ("conversation.item.delete", {"item_id": "mine"}, "conversation.item.deleted"),
        ("conversation.item.retrieve", {"item_id": "mine"}, "error"),
        ("response.cancel", {}, "error"),
        *[("session.sing", {}, "error")] * 2 * session.MAX_MISTAKES,
        ("input_audio_buffer.append", {"audio": "?"}, "error"),
        ("input_audio_buffer.clear", {}, "input_audio_buffer.cleared"),
    ]

    async def talk() -> None:
        realtime = client(answering).beta.realtime if beta else client(answering).realtime
        async with asyncio.timeout(SAFETY_SECONDS), realtime.connect(model="gpt-4o-realtime-preview") as connection:
            ear = Ear(connection, BetaServerEvent if beta else RealtimeServerEvent)
            await ear.until("session.created")
            for number, (kind, values, answer) in enumerate(sent):
                await connection.send({"type": kind, "event_id": str(number), **values})
                told = (await ear.until(answer))[-1]
                assert answer != "error" or told.error.event_id == str(number)

    asyncio.run(talk())


def test_the_beta_talks(answering: RunningServer, microphone: Any) -> None:
    async def talk() -> None:
        async with client(answering).beta.realtime.connect(model="gpt-4o-realtime-preview") as connection:
            from openai.types.beta.realtime import RealtimeServerEvent

            ear = Ear(connection, RealtimeServerEvent)
            await connection.session.update(session={"instructions": "You cook.", "voice": "alloy"})
            async with spoken(
                microphone, lambda audio: connection.input_audio_buffer.append(audio=audio), PcmWriter(24000)
            ):
                *events, done = await ear.until("response.done")
                assert done.response.status == "completed" and len(sound(events)) > 1000

    asyncio.run(talk())


def test_gpt_live_talks_and_closes(answering: RunningServer, microphone: Any) -> None:
    from openai.types.live.server_event import ServerEvent

    async def talk() -> None:
        async with client(answering).live.connect() as connection:
            ear = Ear(connection, ServerEvent)
            session = {"model": "gpt-live-1", "instructions": "You cook.", "audio": {"output": {"voice": "NATM1"}}}
            await connection.send({"type": "session.start", "session": session})
            (started,) = await ear.until("session.started")
            assert started.session.audio.output.voice == "NATM1"

            async def append(audio: str) -> None:
                await connection.send({"type": "session.input_audio.append", "audio": audio})

            async with spoken(microphone, append, PcmWriter(24000)):
                events = await ear.until("session.output_transcript.delta")
                asyncio.create_task(microphone.speak(0.6))  # noqa: RUF006
                events += await ear.until("session.output_transcript.delta")
                assert len(sound(events)) > 10_000
                await connection.send({"type": "session.close"})
                assert (await ear.until("session.closed"))[-1].reason == "close_requested"

    asyncio.run(talk())


def test_whatever_gpt_live_is_sent_is_answered_by_one_of_its_types(answering: RunningServer) -> None:
    from openai.types.live.server_event import ServerEvent

    sent = [
        ("session.start", {"session": {"model": "gpt-live-1"}}, "session.started"),
        ("session.start", {"session": {"model": "gpt-live-1"}}, "error"),
        ("session.input_audio.mute", {}, "session.input_audio.muted"),
        ("session.input_audio.unmute", {}, "session.input_audio.unmuted"),
        ("session.update", {"session": {"delegation": {"type": "client"}}}, "session.updated"),
        ("session.commentary.append", {"content": "Hi", "delegation_id": None}, "error"),
        *[("session.sing", {}, "error")] * 2 * session.MAX_MISTAKES,
        ("session.close", {}, "session.closed"),
    ]

    async def talk() -> None:
        async with asyncio.timeout(SAFETY_SECONDS), client(answering).live.connect() as connection:
            ear = Ear(connection, ServerEvent)
            for number, (kind, values, answer) in enumerate(sent):
                await connection.send({"type": kind, "event_id": str(number), **values})
                told = (await ear.until(answer))[-1]
                assert told.client_event_id == str(number)

    asyncio.run(talk())
