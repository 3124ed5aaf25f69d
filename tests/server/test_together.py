"""The law of a model with several slots, through the whole server: what one hears does not depend on the others."""

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import at_any_speed
from runningserver import (
    UNDER_WAY,
    RunningServer,
    connected,
    fetched,
    frames,
    next_json,
    next_message,
    opus,
    samples,
    speech,
    talk_moshi,
    talk_pcm,
)

from personaplex_cli.options import ServeOptions
from personaplex_cli.protocols.wire import PATH, Handshake
from personaplex_cli.samples import FRAME, FRAME_SECONDS

ANSWERED = {1: 39, 2: 15, 3: 15, 4: 19}  # frames, by the seed of the conversation
Talk = Callable[[RunningServer, asyncio.Event], Any]  # holds a conversation; the event is set when it has begun


async def by_moshi(server: RunningServer, begun: asyncio.Event) -> None:
    async with connected(server.socket(f"{PATH}?seed=1&voice=VARM2")) as socket:
        await next_message(socket, Handshake)
        begun.set()
        await talk_moshi(socket, opus(speech(40, 1)))


async def by_pcm(server: RunningServer, begun: asyncio.Event, seed: int = 2) -> None:
    async with connected(server.socket(f"/pcm?seed={seed}&persona=chef")) as socket:
        await next_json(socket, "ready")
        begun.set()
        await talk_pcm(socket, frames(speech(15, seed)))


async def by_pcm_later(server: RunningServer, begun: asyncio.Event) -> None:
    await by_pcm(server, begun, seed=3)


async def by_interview(server: RunningServer, begun: asyncio.Event) -> None:
    async with connected(server.socket("/ws?seed=4&text_temperature=1.1")) as socket:
        await next_json(socket, "ready")
        sound = b"".join(frames(speech(20, 4)))  # whatever it is at 16 kHz
        begun.set()
        for index in range(20):
            data = b64encode(sound[index * 2560 : (index + 1) * 2560]).decode()
            await socket.send_json({"type": "audio", "data": data})
            if index >= UNDER_WAY:
                await next_json(socket, "audio_out")
        for _ in range(UNDER_WAY - 1):  # the resampler holds back 2 ms of the last frame
            await next_json(socket, "audio_out")


def recordings(folder: Path) -> dict[int, tuple[Any, list[Any]]]:
    """Sound and words of each conversation, by its seed, as far as its client waited for the answer."""
    kept = {}
    for path in folder.glob("*/transcript.json"):
        about = json.loads(path.read_text())
        seed = about["settings"]["sampling"]["seed"]
        sound = samples(path.with_name("conversation.wav"))[: ANSWERED[seed] * FRAME]
        words = [word for word in about["words"] if word["start"] < ANSWERED[seed] * FRAME_SECONDS]
        kept[seed] = sound, words[:-1]  # what came after the last answer may belong to the last word
    return kept


@pytest.mark.model
def test_what_one_says_does_not_depend_on_the_others(
    random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three clients of three kinds at once, and a fourth in the place of one who has left; each as if it were alone."""
    at_any_speed(monkeypatch)

    async def together(server: RunningServer) -> str:
        async with asyncio.TaskGroup() as talks:
            for talk in (by_moshi, by_pcm, by_interview, by_pcm_later):
                begun = asyncio.Event()
                talks.create_task(talk(server, begun))
                await begun.wait()
        return (await fetched(f"{server.url}/metrics"))[1]

    async def alone(server: RunningServer, talk: Talk) -> None:
        await talk(server, asyncio.Event())

    with RunningServer(random_folder, ServeOptions(queue=1, record=tmp_path / "crowd"), slots=3) as server:
        figures = asyncio.run(together(server))
    with RunningServer(random_folder, ServeOptions(queue=1, record=tmp_path / "alone")) as server:
        for talk in (by_moshi, by_pcm, by_pcm_later, by_interview):
            asyncio.run(alone(server, talk))
    assert re.search(r'step_seconds_count{conversations="[23]"} [1-9]', figures)
    crowd, solo = recordings(tmp_path / "crowd"), recordings(tmp_path / "alone")
    assert {seed: len(sound) for seed, (sound, _) in solo.items()} == {
        seed: count * FRAME for seed, count in ANSWERED.items()
    }
    assert any(words for _, words in solo.values())
    assert {seed: words for seed, (_, words) in crowd.items()} == {seed: words for seed, (_, words) in solo.items()}
    for seed, (sound, _) in solo.items():  # sums of several rows are rounded otherwise, in the last of 16 bits
        np.testing.assert_allclose(crowd[seed][0].astype(int), sound.astype(int), atol=2)
