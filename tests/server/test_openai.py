"""OpenAI's voice protocols at a real server, by plain WebSockets; tests/clients has the official clients."""

import asyncio
import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse
from runningserver import RunningServer, connected, frames, next_json, pcm, refused, speech

from personaplex_cli.options import AccessOptions
from personaplex_cli.samples import FRAME

LIVE = "/v1/live/sessions?seed=3"
Socket = ClientWebSocketResponse


async def say(socket: Socket, kind: str, **values: Any) -> None:
    await socket.send_json({"type": kind, **values})


async def speak(socket: Socket, kind: str, count: int) -> None:
    for sound in frames(speech(count)):
        await say(socket, kind, audio=b64encode(sound).decode())
        await asyncio.sleep(0.01)


async def live(server: RunningServer, path: str = LIVE, **session: Any) -> bytes:
    """A whole session of GPT-Live; returns the sound of the answer."""
    async with connected(server.socket(path)) as socket:
        await say(socket, "session.start", session=session)
        await next_json(socket, "session.started")
        speaking = asyncio.create_task(speak(socket, "session.input_audio.append", 5))
        said = b""
        while len(said) < 2 * 5 * FRAME:
            said += b64decode((await next_json(socket, "session.output_audio.delta"))["delta"])
        await speaking
        await say(socket, "session.close")
        assert (await next_json(socket, "session.closed"))["reason"] == "close_requested"
        await socket.receive()
        assert socket.close_code == 1000
        return said


def test_gpt_live_is_answered_as_every_other_client_is(server: RunningServer) -> None:
    assert asyncio.run(live(server))[: 2 * 5 * FRAME] == asyncio.run(pcm(server))
    assert asyncio.run(live(server, "/live/sessions"))


def test_an_unknown_voice_is_the_usual_one_and_a_known_one_is_taken(server: RunningServer) -> None:
    async def ask(voice: str) -> tuple[str, str]:
        async with connected(server.socket(LIVE)) as socket:
            await say(socket, "session.start", session={"audio": {"output": {"voice": voice}}, "model": "gpt-live-1"})
            session = (await next_json(socket, "session.started"))["session"]
            return session["audio"]["output"]["voice"], session["model"]

    assert asyncio.run(ask("NATM3")) == ("NATM3", "gpt-live-1")
    assert asyncio.run(ask("marin")) == (server.app._default.voice, "gpt-live-1")
    assert asyncio.run(ask("../secret")) == (server.app._default.voice, "gpt-live-1")


def test_nothing_begins_before_the_client_says_who_shall_talk(server: RunningServer) -> None:
    async def wait() -> None:
        async with connected(server.socket(LIVE)) as socket:
            await say(socket, "session.input_audio.append", audio="AAAA")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await socket.receive()
            await say(socket, "session.start", session={})
            await next_json(socket, "session.started")

    asyncio.run(wait())


def test_the_model_talks_though_no_sound_comes(server: RunningServer) -> None:
    async def listen() -> None:
        async with connected(server.socket(LIVE)) as socket:
            await say(socket, "session.start", session={})
            for _ in range(5):
                await next_json(socket, "session.output_audio.delta")

    asyncio.run(listen())


def test_the_token_is_the_key_by_header_query_or_sub_protocol(random_folder: Path) -> None:
    async def knock(server: RunningServer) -> None:
        for path in ("/v1/live/sessions", "/pcm"):
            status, body, _ = await refused(server.socket(path))
            assert (status, body["error"]) == (401, "token")
        offered = ("realtime", "openai-insecure-api-key.sk-x", "openai-beta.realtime-v1")
        for more in ({"headers": {"Authorization": "Bearer sk-x"}}, {"protocols": offered}):
            async with connected(server.socket(LIVE), **more) as socket:
                assert socket.protocol == ("realtime" if "protocols" in more else None)  # else browsers hang up
                await say(socket, "session.start", session={})
                await next_json(socket, "session.started")
        status, *_ = await refused(
            server.socket(LIVE), headers={"Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.x"}
        )
        assert status == 401

    with RunningServer(random_folder, access=AccessOptions(port=0, token="sk-x")) as server:
        asyncio.run(knock(server))


def test_where_no_place_is_left_openais_clients_get_503_as_others_do(server: RunningServer) -> None:
    async def knock() -> None:
        async with connected(server.socket("/pcm")) as first:
            await next_json(first, "ready")
            for path in ("/v1/live/sessions", "/v1/realtime"):
                status, body, headers = await refused(server.socket(path))
                assert (status, body["error"]) == (503, "busy") and headers["Retry-After"]

    asyncio.run(knock())


async def realtime(socket: Socket, **session: Any) -> dict[str, Any]:
    """Begin a talk by Realtime; returns the session in force when the agent begins to speak."""
    await next_json(socket, "session.created")
    await say(socket, "session.update", session=session)
    told = {}
    while (event := json.loads((await socket.receive()).data))["type"] != "response.output_audio.delta":
        told = event.get("session", told)
    return told


def test_realtime_makes_turns_and_gives_an_unknown_voice_a_known_one(server: RunningServer) -> None:
    async def talk(path: str) -> None:
        async with connected(server.socket(path)) as socket:
            session = await realtime(socket, instructions="You cook.", voice="marin")
            assert session["audio"]["output"]["voice"] == server.app._default.voice
            speaking = asyncio.create_task(speak(socket, "input_audio_buffer.append", 40))
            done = (await next_json(socket, "response.done"))["response"]
            assert done["status_details"]["reason"] == "turn_detected"
            await next_json(socket, "response.output_audio.delta")  # it goes on, which is a response of its own
            await say(socket, "response.cancel")
            done = (await next_json(socket, "response.done"))["response"]
            assert done["status_details"]["reason"] == "client_cancelled"
            speaking.cancel()

    for path in ("/v1/realtime?model=gpt-realtime", "/realtime"):
        asyncio.run(talk(path))


def test_realtime_begins_again_with_what_an_update_asks_for(server: RunningServer) -> None:
    async def talk(**session: Any) -> None:
        before = len(server.notes)
        async with connected(server.socket("/v1/realtime")) as socket:
            assert await realtime(socket, **session)
        server.wait(lambda: any("/v1/realtime: " in note for note in server.notes[before:]))
        (note,) = (note for note in server.notes[before:] if "/v1/realtime: " in note)
        assert "a custom persona, NATM2" in note

    asyncio.run(talk(instructions="You cook.", audio={"output": {"voice": "NATM2"}}))


def test_a_client_waits_for_realtime_as_others_do(server_with_queue: RunningServer) -> None:
    async def wait() -> None:
        async with connected(server_with_queue.socket("/pcm")) as first:
            await next_json(first, "ready")
            async with connected(server_with_queue.socket("/v1/realtime")) as socket:
                await next_json(socket, "session.created")  # at once: clients wait for it
                await say(socket, "session.update", session={"instructions": "You cook."})
                await next_json(socket, "session.updated")
                await first.close()
                await next_json(socket, "response.output_audio.delta")

    asyncio.run(wait())


@pytest.mark.parametrize("path", [LIVE, "/v1/realtime"])
@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["{"] * 50, 1007),
        ([b"\x00"] * 50, 1007),
        (["x" * 10_000_000], 1009),
        ([json.dumps({"type": "session.update"})] * 20_000, 1008),
    ],
)
def test_a_client_that_makes_no_sense_is_disconnected(
    server: RunningServer, path: str, messages: list[str | bytes], code: int
) -> None:
    async def talk() -> None:
        async with connected(server.socket(path)) as socket:
            try:
                for message in messages:
                    await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
            except ConnectionError:
                return
            async for _ in socket:
                pass
            assert socket.close_code == code

    asyncio.run(talk())
    asyncio.run(pcm(server))
