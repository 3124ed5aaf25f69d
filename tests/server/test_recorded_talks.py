"""Talks that a server keeps: clients learn of it, and the owner says how many are kept."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from counting import FakeApp
from runningserver import (
    SEED,
    RunningServer,
    connected,
    fetched,
    frames,
    next_json,
    next_message,
    pcm,
    speech,
    talk_pcm,
)

from personaplex_cli.events import Note
from personaplex_cli.options import ServeOptions
from personaplex_cli.protocols.adapter import Recorded
from personaplex_cli.protocols.interview import Interview
from personaplex_cli.protocols.openai_live import OpenAILive
from personaplex_cli.protocols.openai_realtime import OpenAIRealtime
from personaplex_cli.protocols.twilio import Twilio
from personaplex_cli.protocols.wire import Metadata
from personaplex_cli.server.app import SOCKETS


async def learned(server: RunningServer) -> tuple[dict[str, Any], bool]:
    """What clients of two protocols learn of it."""
    async with connected(server.socket(f"/pcm?{SEED}")) as socket:
        message = await next_json(socket, "recorded")
        await next_json(socket, "ready")
        await talk_pcm(socket, frames(speech(3)))
    async with connected(server.socket(f"/api/chat?{SEED}&metadata=1")) as socket:
        while "recorded" not in (values := (await next_message(socket, Metadata)).values):
            pass
    return message, values["recorded"]


def test_clients_learn_that_they_are_recorded_but_not_where(random_folder: Path, tmp_path: Path) -> None:
    with RunningServer(random_folder, ServeOptions(record=tmp_path)) as server:
        assert asyncio.run(learned(server)) == ({"type": "recorded", "on": True}, True)
        _, information, _ = asyncio.run(fetched(f"{server.url}/api/info"))
    assert json.loads(information)["recorded"] is True and str(tmp_path) not in information


@pytest.mark.parametrize("path", SOCKETS)
def test_a_header_tells_whatever_the_protocol(random_folder: Path, tmp_path: Path, path: str) -> None:
    async def header(server: RunningServer) -> str | None:
        async with ClientSession() as session, session.ws_connect(server.socket(path)) as socket:
            return socket._response.headers.get("X-Personaplex-Recorded")

    for record, told in ((None, None), (tmp_path, "true")):
        with RunningServer(random_folder, ServeOptions(record=record), kind=FakeApp) as server:
            assert asyncio.run(header(server)) == told


def test_protocols_that_have_a_place_for_it_tell_by_a_message() -> None:
    assert [json.loads(str(out)) for out in Interview().encode(Recorded(True))] == [{"type": "recorded", "on": True}]
    for on in (True, False):
        (told,) = [json.loads(str(out)) for out in OpenAILive().encode(Recorded(on))]
        assert (told["type"], told["code"]) == ("info", "recorded") and told["message"]
    for silent in (OpenAIRealtime(), Twilio()):
        assert list(silent.encode(Recorded(True))) == []


def test_who_leaves_before_a_frame_was_answered_leaves_no_recording(random_folder: Path, tmp_path: Path) -> None:
    async def leave(server: RunningServer) -> None:
        for path in ("/pcm", "/ws"):
            async with connected(server.socket(f"{path}?{SEED}")) as socket:
                await next_json(socket, "ready")
        await pcm(server, 2)

    with RunningServer(random_folder, ServeOptions(record=tmp_path / "talks")) as server:
        asyncio.run(leave(server))
    assert len(list((tmp_path / "talks").iterdir())) == 1


def test_without_recordings_no_one_is_told_of_any(server: RunningServer) -> None:
    async def talk() -> list[dict[str, Any]]:
        async with connected(server.socket(f"/pcm?{SEED}")) as socket:
            await next_json(socket, "ready")
            return (await talk_pcm(socket, frames(speech(3))))[1]

    assert not any(message["type"] == "recorded" for message in asyncio.run(talk()))
    _, information, _ = asyncio.run(fetched(f"{server.url}/api/info"))
    assert json.loads(information)["recorded"] is False


def test_old_recordings_are_deleted_and_new_ones_kept(random_folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "talks" / "2020-01-31_14-05-09"
    old.mkdir(parents=True)
    (old / "conversation.wav").write_bytes(b"")
    os.utime(old / "conversation.wav", (0, 0))
    with RunningServer(random_folder, ServeOptions(record=tmp_path / "talks", record_max_days=30)) as server:
        server.wait(lambda: Note("Deleted 1 old recording.") in server.events)
        asyncio.run(pcm(server, 5))
    (kept,) = (tmp_path / "talks").iterdir()
    assert kept != old and (kept / "conversation.wav").is_file()
