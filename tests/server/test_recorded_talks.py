"""Talks that a server keeps: clients learn of it, and the owner says how many are kept."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

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
from personaplex_cli.protocols.wire import Metadata


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
