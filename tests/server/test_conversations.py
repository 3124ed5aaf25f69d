"""Conversations over the network: the same ones as in files, in every protocol."""

import asyncio
import json
import re
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runningserver import (
    SEED,
    RunningServer,
    connected,
    fetched,
    frames,
    next_json,
    next_message,
    opus,
    pcm,
    samples,
    speech,
    talk_moshi,
    talk_pcm,
    wav,
)

from personaplex_cli.cli import main as cli
from personaplex_cli.library.settings import config_folder
from personaplex_cli.options import ServeOptions
from personaplex_cli.protocols.wire import PATH, Action, Control, Handshake, Metadata, pack
from personaplex_cli.samples import FRAME, SAMPLE_RATE, pcm16


def test_over_the_network_the_same_is_said_as_in_files(
    server: RunningServer, random_folder: Path, tmp_path: Path
) -> None:
    question = wav(tmp_path / "question.wav", speech(30))
    arguments = ["run", str(question), "--model", str(random_folder), "--device", "cpu", "--seed", "3"]
    assert cli.program([*arguments, "-o", str(tmp_path / "answer.wav")]) == 0
    answer = asyncio.run(pcm(server, 30))
    assert answer == samples(tmp_path / "answer.wav").tobytes()


def test_the_same_seed_the_same_talk_in_every_protocol_and_every_time(server: RunningServer) -> None:
    packets = opus(speech(30))

    async def moshi() -> tuple[bytes, str]:
        async with connected(server.socket(f"{PATH}?{SEED}")) as socket:
            await next_message(socket, Handshake)
            sound, text = await talk_moshi(socket, packets)
        return sound.tobytes(), text

    sound, text = asyncio.run(moshi())
    assert text and asyncio.run(moshi()) == (sound, text)
    assert asyncio.run(pcm(server)) == asyncio.run(pcm(server, path="/"))
    assert asyncio.run(pcm(server)) != asyncio.run(pcm(server, query="seed=4"))


def test_a_client_learns_whom_it_talks_with(server: RunningServer) -> None:
    query = "voice_prompt=NATM1.pt&persona=chef&seed=7&worker_auth_id=whatever"

    async def talk() -> None:
        async with connected(server.socket(f"{PATH}?{query}")) as socket:
            await socket.send_bytes(pack(Metadata({})))
            await next_message(socket, Handshake)
            facts = (await next_message(socket, Metadata)).values
        assert facts.items() >= {"voice": "NATM1", "persona": "chef", "seed": 7, "context": 3000}.items()
        assert facts.pop("personaplex") and facts.pop("begin") and facts["prompt_frames"] > 24
        async with connected(server.socket(f"/pcm?{query}")) as socket:
            assert await next_json(socket, "ready") == {"type": "ready", "sample_rate": SAMPLE_RATE, **facts}

    asyncio.run(talk())


def test_the_pace_of_the_model_is_sent_every_second(server: RunningServer) -> None:
    async def talk() -> None:
        async with connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            _, messages = await talk_pcm(socket, frames(speech(40)))
        paces = [each for each in messages if each["type"] == "latency"]
        assert [each["frame"] for each in paces] == [12, 24, 36]
        assert all(0 < each["step_ms"] <= each["max_step_ms"] for each in paces)
        words = [each for each in messages if each["type"] == "transcript"]
        assert words and all(each["role"] == "agent" and 0 <= each["time"] < 3.2 for each in words)

    asyncio.run(talk())


@pytest.mark.model
def test_the_first_message_may_choose_the_persona(server: RunningServer) -> None:
    async def ready(config: dict[str, Any]) -> dict[str, Any]:
        async with connected(server.socket("/pcm")) as socket:
            await socket.send_json({"type": "config", **config})
            return await next_json(socket, "ready")

    async def talk() -> None:
        assert (await ready({"persona": "chef", "voice": "NATM1"}))["persona"] == "chef"
        written = {"prompt": "You enjoy having a good conversation.", "voice": "NATM0"}
        assert (await ready({"persona": written, "seed": 5})).items() >= {"voice": "NATM0", "seed": 5}.items()
        prompt = {"prompt": "You enjoy having a good conversation. " * 9}
        assert (await ready(prompt))["prompt_frames"] > (await ready({}))["prompt_frames"]

    asyncio.run(talk())


def test_moshis_clients_switch_on_the_same_connection(server: RunningServer) -> None:
    async def talk() -> None:
        async with connected(server.socket(f"{PATH}?metadata=1&{SEED}")) as socket:
            await next_message(socket, Handshake)
            assert (await next_message(socket, Metadata)).values["persona"] == "teacher"
            await socket.send_bytes(pack(Metadata({"begin": {"persona": "chef", "voice": "VARF1"}})))
            await next_message(socket, Handshake)
            facts = (await next_message(socket, Metadata)).values
            assert (facts["persona"], facts["voice"]) == ("chef", "VARF1")

    asyncio.run(talk())


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_other_rates_are_resampled_both_ways(server: RunningServer, rate: int) -> None:
    frame = bytes(2 * rate * 8 // 100)

    async def talk() -> None:
        async with connected(server.socket(f"/pcm?sample_rate={rate}&{SEED}")) as socket:
            assert (await next_json(socket, "ready"))["sample_rate"] == rate
            # Both ways keep a few milliseconds inside.
            answer, _ = await talk_pcm(socket, [frame] * 30, answers=28)
            assert 27 * len(frame) <= len(answer) <= 28 * len(frame) + 100

    asyncio.run(talk())


@pytest.mark.model
def test_it_begins_again_when_asked_also_as_another_persona(server: RunningServer) -> None:
    async def talk() -> None:
        async with connected(server.socket(f"/pcm?{SEED}")) as socket:
            first = (await talk_pcm_when_ready(socket))[0]
            await socket.send_json({"type": "restart"})
            assert (await talk_pcm_when_ready(socket))[0] == first
            await socket.send_json({"type": "config", "persona": "chef", "seed": 3})
            assert (await next_json(socket, "ready"))["persona"] == "chef"
            assert (await talk_pcm(socket, frames(speech(10))))[0] != first

    async def talk_pcm_when_ready(socket: Any) -> tuple[bytes, Any]:
        await next_json(socket, "ready")
        return await talk_pcm(socket, frames(speech(10)))

    asyncio.run(talk())


def test_the_owners_recorded_voices_can_be_asked_for_by_name(server: RunningServer) -> None:
    folder = config_folder() / "voices"
    folder.mkdir(parents=True)
    wav(folder / "mine.wav", speech(20))

    async def talk() -> None:
        async with connected(server.socket(f"/pcm?voice=mine&{SEED}")) as socket:
            assert (await next_json(socket, "ready"))["voice"] == "mine"

    asyncio.run(talk())


def test_a_voice_that_the_owner_has_added_is_offered_and_one_that_is_damaged_is_not(
    server: RunningServer, tmp_path: Path
) -> None:
    sample = tmp_path / "talk.wav"
    wav(sample, speech(60))
    for name in ("ada", "bob"):
        assert cli.program(["voices", "add", name, str(sample), "--yes"]) == 0
    (config_folder() / "voices" / "bob" / "sample.wav").write_bytes(b"")

    async def talk() -> None:
        _, info, _ = await fetched(f"{server.url}/api/info")
        offered = {each["name"] for each in json.loads(info)["voices"]}
        assert "ada" in offered and "bob" not in offered and str(tmp_path) not in info
        async with connected(server.socket(f"/pcm?voice=ada&{SEED}")) as socket:
            assert (await next_json(socket, "ready"))["voice"] == "ada"
        async with connected(server.socket("/pcm?voice=bob")) as socket:
            assert (await next_json(socket, "error"))["message"] == "The voice bob cannot be used here."

    asyncio.run(talk())
    server.wait(lambda: any("The voice bob is damaged" in note for note in server.notes))


def test_asked_to_stop_speaking_it_says_nothing_more(server: RunningServer) -> None:
    async def talk() -> None:
        async with connected(server.socket(f"{PATH}?{SEED}")) as socket:
            await next_message(socket, Handshake)
            await socket.send_bytes(pack(Control(Action.PAUSE)))
            packets = opus(np.zeros(60 * FRAME, dtype=np.float32))
            _, text = await talk_moshi(socket, packets[:3])
            assert text == ""
            await socket.send_bytes(pack(Control(Action.RESTART)))
            await next_message(socket, Handshake)

    asyncio.run(talk())


@pytest.mark.model
def test_an_interview_runs_on_the_real_model(server: RunningServer) -> None:
    sound = b64encode(bytes(2 * 1280)).decode()  # 80 ms at 16 kHz

    async def talk() -> None:
        async with connected(server.socket("/ws?seed=3")) as socket:
            await socket.send_json({"type": "hello"})
            plain = await next_json(socket, "ready")
            context = {"type": "context", "role": "welder", "level": "senior", "topic": "safety"}
            await socket.send_json(context)
            ready = await next_json(socket, "ready")
            assert ready["prompt_frames"] != plain["prompt_frames"] and ready["sample_rate"] == 16_000
            for _ in range(10):
                await socket.send_json({"type": "audio", "data": sound})
                await socket.send_json({"type": "end_utterance"})
            answers = [(await next_json(socket, "audio_out"))["data"] for _ in range(9)]
            assert 8 * 2560 < sum(map(len, map(b64decode, answers))) <= 9 * 2560
            await socket.send_json({"type": "reset"})
            await next_json(socket, "ready")

    asyncio.run(talk())


@pytest.mark.model
def test_talks_are_recorded_when_wanted(random_folder: Path, tmp_path: Path) -> None:
    with RunningServer(random_folder, ServeOptions(record=tmp_path)) as server:
        answer = asyncio.run(pcm(server, 20))
    (kept,) = tmp_path.glob("*/conversation.wav")
    sound = samples(kept)
    assert sound[:, 0].tobytes() == pcm16(speech(20)) and sound[:, 1].tobytes() == answer
    assert json.loads(kept.with_name("transcript.json").read_text())["settings"]["sampling"]["seed"] == 3


def test_a_visit_is_one_line_on_the_servers_screen(random_folder: Path) -> None:
    with RunningServer(random_folder) as server:
        before = len(server.notes)
        asyncio.run(pcm(server, 5))
        server.wait(lambda: len(server.notes) > before)
    note, last_word = server.notes[before:]
    assert last_word == "Stopped."
    assert re.fullmatch(r"127\.0\.0\.1, /pcm: 0\.4 s with teacher, NATF2, slowest step [\d.]+ ms; left\.", note)
