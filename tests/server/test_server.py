"""A real server with the demo model and real clients of it."""

import asyncio
import gc
import json
import shutil
import ssl
import subprocess
import threading
import wave
from base64 import b64decode, b64encode
from contextlib import AsyncExitStack, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession, WSMsgType
from runningserver import (
    RunningServer,
    connected,
    fetched,
    frames,
    next_json,
    next_message,
    opus,
    refused,
    speech,
    talk_moshi,
    talk_pcm,
)

from personaplex_cli.audio.recording import pcm16, write_wav
from personaplex_cli.cli import main as cli
from personaplex_cli.errors import AudioError, ModelError, NetworkError, UsageError
from personaplex_cli.library.settings import config_folder
from personaplex_cli.lookup import LocalAgent
from personaplex_cli.protocols.wire import PATH, Action, Control, Failure, Handshake, Metadata, Ping, pack
from personaplex_cli.samples import FRAME, SAMPLE_RATE
from personaplex_cli.server import app as serving
from personaplex_cli.server import session as call
from personaplex_cli.server.app import Access
from personaplex_cli.server.house import Terms

SEED = "seed=3"


def wav(path: Path, *channels: Any) -> Path:
    with path.open("wb") as file:
        write_wav(file, *channels)
    return path


def samples(path: Path) -> np.ndarray[Any, Any]:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())


async def pcm(server: RunningServer, count: int = 5, query: str = SEED, path: str = "/pcm") -> bytes:
    """A whole conversation."""
    async with connected(server.socket(f"{path}?{query}")) as socket:
        await next_json(socket, "ready")
        return (await talk_pcm(socket, frames(speech(count))))[0]


class TestConversation:
    def test_over_the_network_the_same_is_said_as_in_files(
        self, server: RunningServer, demo_folder: Path, tmp_path: Path
    ) -> None:
        question = wav(tmp_path / "question.wav", speech(30))
        arguments = ["run", str(question), "--model", str(demo_folder), "--device", "cpu", "--seed", "3"]
        assert cli.program([*arguments, "-o", str(tmp_path / "answer.wav")]) == 0
        answer = asyncio.run(pcm(server, 30))
        assert answer == samples(tmp_path / "answer.wav").tobytes()

    def test_the_same_seed_the_same_talk_in_every_dialect_and_every_time(self, server: RunningServer) -> None:
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

    def test_a_client_is_told_whom_it_talks_with(self, server: RunningServer) -> None:
        query = "voice_prompt=NATM1.pt&persona=chef&seed=7&worker_auth_id=whatever"

        async def talk() -> None:
            async with connected(server.socket(f"{PATH}?{query}")) as socket:
                await next_message(socket, Handshake)
                facts = (await next_message(socket, Metadata)).values
            assert facts.items() >= {"voice": "NATM1", "persona": "chef", "seed": 7, "context": 3000}.items()
            assert facts.pop("personaplex") and facts["prompt_frames"] > 24
            async with connected(server.socket(f"/pcm?{query}")) as socket:
                assert await next_json(socket, "ready") == {"type": "ready", "sample_rate": SAMPLE_RATE, **facts}

        asyncio.run(talk())

    def test_the_pace_of_the_model_is_told_every_second(self, server: RunningServer) -> None:
        async def talk() -> None:
            async with connected(server.socket("/pcm")) as socket:
                await next_json(socket, "ready")
                _, told = await talk_pcm(socket, frames(speech(40)))
            paces = [each for each in told if each["type"] == "latency"]
            assert [each["frame"] for each in paces] == [12, 24, 36]
            assert all(0 < each["step_ms"] <= each["max_step_ms"] for each in paces)
            words = [each for each in told if each["type"] == "transcript"]
            assert words and all(each["role"] == "agent" and 0 <= each["time"] < 3.2 for each in words)

        asyncio.run(talk())

    def test_the_first_message_may_say_who_talks(self, server: RunningServer) -> None:
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

    @pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
    def test_other_rates_are_resampled_both_ways(self, server: RunningServer, rate: int) -> None:
        frame = bytes(2 * rate * 8 // 100)

        async def talk() -> None:
            async with connected(server.socket(f"/pcm?sample_rate={rate}&{SEED}")) as socket:
                assert (await next_json(socket, "ready"))["sample_rate"] == rate
                # Both ways keep a few milliseconds inside.
                answer, _ = await talk_pcm(socket, [frame] * 30, answers=28)
                assert 27 * len(frame) <= len(answer) <= 28 * len(frame) + 100

        asyncio.run(talk())

    def test_it_begins_again_when_asked_and_as_somebody_else_when_asked(self, server: RunningServer) -> None:
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

    def test_the_owners_recorded_voices_can_be_asked_for_by_name(self, server: RunningServer) -> None:
        folder = config_folder() / "voices"
        folder.mkdir(parents=True)
        wav(folder / "mine.wav", speech(20))

        async def talk() -> None:
            async with connected(server.socket(f"/pcm?voice=mine&{SEED}")) as socket:
                assert (await next_json(socket, "ready"))["voice"] == "mine"

        asyncio.run(talk())

    def test_told_to_stop_talking_it_says_nothing_more(self, server: RunningServer) -> None:
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

    def test_an_interview_runs_on_the_real_model(self, server: RunningServer) -> None:
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

    def test_talks_are_kept_when_wanted(self, demo_folder: Path, tmp_path: Path) -> None:
        with RunningServer(demo_folder, Terms("teacher", record=tmp_path)) as server:
            answer = asyncio.run(pcm(server, 20))
        (kept,) = tmp_path.glob("*/conversation.wav")
        sound = samples(kept)
        assert sound[:, 0].tobytes() == pcm16(speech(20)) and sound[:, 1].tobytes() == answer
        assert json.loads(kept.with_name("transcript.json").read_text())["settings"]["sampling"]["seed"] == 3


class TestAdmission:
    def test_one_talks_and_fifty_are_told_at_once(self, server: RunningServer) -> None:
        async def storm() -> None:
            async with connected(server.socket("/pcm")) as socket:
                await next_json(socket, "ready")
                answers = await asyncio.gather(*(refused(server.socket(PATH)) for _ in range(49)))
                for status, body, headers in answers:
                    assert (status, body["error"]) == (503, "busy") and int(headers["Retry-After"]) > 0
                assert len((await talk_pcm(socket, frames(speech(3))))[0]) == 3 * 2 * FRAME

        asyncio.run(storm())
        asyncio.run(pcm(server))  # and the next one is let in

    def test_those_who_wait_know_their_place(self, server_with_queue: RunningServer) -> None:
        server = server_with_queue

        async def queue() -> None:
            async with connected(server.socket("/pcm?seed=1")) as first:
                await next_json(first, "ready")
                async with connected(server.socket(f"/pcm?{SEED}")) as third:
                    async with connected(server.socket(f"{PATH}?seed=1")) as second:
                        assert (await next_json(third, "state")) == {"type": "state", "state": "queued", "position": 1}
                        assert (await next_message(second, Metadata)).values == {"queue": 2}
                        assert (await refused(server.socket(PATH)))[0] == 503
                    # One who waited has left; there is room again.
                    async with connected(server.socket("/pcm?seed=1")) as fourth:
                        assert (await next_json(fourth, "state"))["position"] == 2
                        await first.close()
                        assert (await next_json(fourth, "state"))["position"] == 1
                    await next_json(third, "ready")
                    assert len((await talk_pcm(third, frames(speech(5))))[0]) == 5 * 2 * FRAME

        asyncio.run(queue())

    def test_the_next_talk_begins_as_clean_as_the_first(self, server_with_queue: RunningServer) -> None:
        server = server_with_queue

        async def two() -> tuple[bytes, bytes]:
            async with connected(server.socket(f"/pcm?{SEED}")) as first:
                await next_json(first, "ready")
                async with connected(server.socket(f"/pcm?{SEED}")) as second:
                    assert (await next_json(second, "state"))["state"] == "queued"
                    said = (await talk_pcm(first, frames(speech(10))))[0]
                    await first.close()
                    await next_json(second, "ready")
                    return said, (await talk_pcm(second, frames(speech(10))))[0]

        said, again = asyncio.run(two())
        assert said == again

    def test_a_sign_of_life_comes_while_one_waits(
        self, server_with_queue: RunningServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(call, "QUIET_SECONDS", 0.02)

        async def wait() -> None:
            async with connected(server_with_queue.socket("/pcm")) as first:
                await next_json(first, "ready")
                async with connected(server_with_queue.socket(PATH)) as second:
                    assert [await next_message(second, Ping) for _ in range(3)]

        asyncio.run(wait())

    def test_while_the_model_loads_the_door_is_open_and_says_so(
        self, demo_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = threading.Event()
        start = LocalAgent.start
        monkeypatch.setattr(LocalAgent, "start", lambda agent: (loaded.wait(), start(agent))[1])
        with RunningServer(demo_folder, wait_for="listening") as server:
            try:
                assert json.loads(asyncio.run(fetched(f"{server.url}/health"))[1])["state"] == "loading"
                status, body, headers = asyncio.run(refused(server.socket(PATH)))
                assert (status, body["error"]) == (503, "loading") and headers["Retry-After"]
            finally:
                loaded.set()
            server.wait(lambda: "ready" in [getattr(each, "name", "") for each in server.events])
            assert json.loads(asyncio.run(fetched(f"{server.url}/health"))[1])["state"] == "ready"
            asyncio.run(pcm(server))

    def test_the_token_opens_the_door(self, demo_folder: Path) -> None:
        async def knock(server: RunningServer) -> None:
            for given in ("", "?token=wrong", "?token=", "?token=gehe%C3%ADm"):
                for path in (PATH, "/pcm", "/ws", "/"):
                    status, body, headers = await refused(server.socket(f"{path}{given}"))
                    assert (status, body["error"], headers["WWW-Authenticate"]) == (401, "token", "Bearer")
            for path, bare, shown in (("/api/info", 401, 200), ("/metrics", 401, 200), ("/health", 200, 200)):
                assert (await fetched(server.url + path))[0] == bare
                assert (await fetched(f"{server.url}{path}?token=geheim%C3%ADs"))[0] == shown
            async with connected(server.socket(f"/pcm?{SEED}&token=geheim%C3%ADs")) as socket:
                await next_json(socket, "ready")

        with RunningServer(demo_folder, door=Access(port=0, token="geheimís")) as server:
            asyncio.run(knock(server))

    def test_the_token_may_come_in_the_header(self, demo_folder: Path) -> None:
        async def knock(server: RunningServer) -> None:
            async with connected(server.socket(PATH), headers={"Authorization": "Bearer open-sesame"}) as socket:
                await next_message(socket, Handshake)
            for header in ("Bearer open-sesam", "Basic open-sesame", "open-sesame", "Bearer", "Bearer \udcff"):
                assert (await refused(server.socket(PATH), headers={"Authorization": header}))[0] == 401

        with RunningServer(demo_folder, door=Access(port=0, token="open-sesame")) as server:
            asyncio.run(knock(server))

    def test_pages_from_elsewhere_stay_outside_unless_they_are_listed(self, demo_folder: Path) -> None:
        async def knock(server: RunningServer) -> None:
            for origin in (
                "https://evil.example",
                "null",
                "",
                "http://[",
                "http://127.0.0.1:1",
                f"{server.url}.evil.example",
            ):
                status, body, _ = await refused(server.socket(PATH), headers={"Origin": origin})
                assert (status, body["error"]) == (403, "origin")
            for origin in (server.url, "https://Friend.example/"):
                async with connected(server.socket(PATH), headers={"Origin": origin}) as socket:
                    await next_message(socket, Handshake)

        with RunningServer(demo_folder, door=Access(port=0, origins=("https://friend.example",))) as server:
            asyncio.run(knock(server))

    def test_a_browser_without_a_websocket_is_told(self, server: RunningServer) -> None:
        assert asyncio.run(fetched(server.url + PATH))[0] == 426


class TestMistakes:
    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("voice=NATF9", "no voice named 'NATF9'"),
            ("voice_prompt=/etc/passwd", "no voice named"),
            ("voice=../secret.wav", "no voice named"),
            ("voice_prompt=..%2Fx.pt", "no voice named"),
            ("persona=nobody", "no persona named"),
            ("persona=../personas/chef", "no persona named"),
            ("seed=tomorrow", "seed is 'tomorrow'"),
            ("seed=-7", "seed is -7"),
            ("text_temperature=hot", "text_temperature is 'hot'"),
            ("audio_temperature=nan", "temperature is nan"),
            ("text_topk=0", "top k is 0"),
        ],
    )
    def test_who_asks_for_what_there_is_not_is_told(self, server: RunningServer, query: str, said: str) -> None:
        async def ask() -> None:
            async with connected(server.socket(f"{PATH}?{query}")) as socket:
                assert said in (await next_message(socket, Failure)).text
                assert (await socket.receive()).type and socket.close_code == 4400
            async with connected(server.socket(f"/pcm?{query}")) as socket:
                error = await next_json(socket, "error")
                assert said in error["message"] and error["code"] == "request"
                assert (await next_json(socket, "state")) == {"type": "state", "state": "ended", "reason": "refused"}
                await socket.receive()
                assert socket.close_code == 4400

        asyncio.run(ask())

    def test_a_file_beside_is_no_voice_and_text_with_an_at_sign_is_text(
        self, server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        wav(tmp_path / "mine.wav", speech(20))
        (tmp_path / "secret").write_text("a secret " * 50)

        async def ask() -> None:
            async with connected(server.socket("/pcm?voice=mine.wav")) as socket:
                assert (await next_json(socket, "error"))["code"] == "request"
            async with connected(server.socket("/pcm?prompt=@secret")) as socket:
                assert (await next_json(socket, "ready"))["prompt_frames"] < 100

        asyncio.run(ask())

    @pytest.mark.parametrize(
        ("path", "message", "said"),
        [
            (PATH, b"", "empty"),
            (PATH, b"\x03\x09", "control"),
            (PATH, b"\x04{", "JSON"),
            ("/pcm", b"\x00", "Half a sample"),
            ("/pcm", "{", "JSON"),
            ("/pcm", "[1]", "JSON object"),
            ("/pcm", "[" * 100_000, "JSON"),
            ("/pcm", '{"type": "sing"}', "sing"),
            ("/pcm", '{"type": "tool_result", "result": 1}', "tools"),
            ("/pcm", '{"type": "image", "data": ""}', "sight"),
            ("/ws", b"\x00\x00", "JSON"),
            ("/ws", '{"type": "audio", "data": "?"}', "base64"),
            ("/ws", '{"type": "audio", "data": 5}', "base64"),
            ("/ws", '{"type": "audio"}', "base64"),
            ("/ws", '{"type": "audio", "data": "AAAA"}', "Half a sample"),
        ],
    )
    def test_a_message_without_sense_is_told_and_the_talk_goes_on(
        self, server: RunningServer, path: str, message: bytes | str, said: str
    ) -> None:
        async def talk() -> None:
            async with connected(server.socket(f"{path}?{SEED}")) as socket:
                await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
                if path == PATH:
                    assert said in (await next_message(socket, Failure)).text
                    await next_message(socket, Handshake)
                else:
                    assert said in (await next_json(socket, "error"))["message"]
                    await next_json(socket, "ready")

        asyncio.run(talk())

    def test_kinds_that_nobody_knows_and_text_are_ignored_in_moshis_protocol(self, server: RunningServer) -> None:
        async def talk() -> None:
            async with connected(server.socket(f"{PATH}?{SEED}")) as socket:
                await next_message(socket, Handshake)
                await socket.send_bytes(b"\x63whatever")
                await socket.send_str("hello?")
                await socket.send_bytes(b"\x00")
                assert len((await talk_moshi(socket, opus(speech(5))))[0])

        asyncio.run(talk())

    @pytest.mark.parametrize(
        ("path", "messages", "code"),
        [
            (PATH, [b"\x01this is no Opus at all, is it?"], 1007),
            (PATH, [b"\x03\x09"] * 50, 1007),
            ("/pcm", ["{"] * 50, 1007),
            ("/pcm", ['{"type": "config", "sample_rate": "fast"}'], 4400),
            ("/pcm", ['{"type": "config", "sample_rate": 1e999}'], 4400),
            ("/pcm", ['{"type": "config", "seed": [1]}'], 4400),
            ("/pcm", [bytes(10_000_000)], 1009),
            ("/pcm", ["x" * 10_000_000], 1009),
            (PATH, [b"\x01" + bytes(10_000_000)], 1009),
            (PATH, [b"\x01" + bytes(100_000)] * 20, 1007),
        ],
    )
    def test_who_cannot_be_understood_is_sent_away_and_the_next_one_served(
        self, server: RunningServer, path: str, messages: list[bytes | str], code: int
    ) -> None:
        async def talk() -> None:
            async with connected(server.socket(f"{path}?{SEED}")) as socket:
                for message in messages:
                    await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
                async for _ in socket:
                    pass
                assert socket.close_code == code

        asyncio.run(talk())
        asyncio.run(pcm(server))

    def test_half_a_message_and_no_http_at_all_do_no_harm(self, server: RunningServer) -> None:
        async def knock() -> None:
            port = int(server.url.rpartition(":")[2])
            for noise in (b"\x16\x03\x01 hello", b"GET /pcm HTTP/1.1\r\nHost: x\r\n", b"\r\n" * 9, b"\x00" * 70_000):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(noise)
                writer.close()
                await writer.wait_closed()
            async with connected(server.socket("/pcm")) as socket:
                await next_json(socket, "ready")
                # The beginning of a frame of 100 bytes, and then the line is cut.
                transport = socket._writer.transport
                assert transport is not None
                transport.write(b"\x82\xe4\x00\x00\x00\x00half")
                transport.abort()

        asyncio.run(knock())
        asyncio.run(pcm(server))


class TestLimits:
    def test_who_says_nothing_is_sent_away(self, server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(call, "IDLE_TIMEOUT", 0.2)
        monkeypatch.setattr(call, "QUIET_SECONDS", 0.05)

        async def keep_silent() -> None:
            async with connected(server.socket(f"{PATH}?{SEED}")) as socket:
                assert "No sound" in (await next_message(socket, Failure)).text
                await socket.receive()
                assert socket.close_code == 4408

        asyncio.run(keep_silent())

    def test_who_has_talked_long_enough_is_told(self, demo_folder: Path) -> None:
        async def talk_on(server: RunningServer) -> None:
            async with connected(server.socket("/pcm")) as socket:
                await next_json(socket, "ready")
                saying = asyncio.create_task(say_something(socket))
                assert "minutes" in (await next_json(socket, "error"))["message"]
                await next_json(socket, "state")
                await socket.receive()
                assert socket.close_code == 4408
                saying.cancel()

        async def say_something(socket: Any) -> None:
            while True:
                await socket.send_bytes(pcm16(speech(1)))
                await asyncio.sleep(0.02)

        with RunningServer(demo_folder, Terms("teacher", max_minutes=0.005)) as server:
            asyncio.run(talk_on(server))

    def test_who_reads_nothing_is_cut_off_and_keeps_nobody_waiting(
        self, server: RunningServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(call, "SEND_TIMEOUT", 0.3)
        before = len(server.notes)

        async def talk_and_never_listen() -> None:
            frame = bytes(2 * 15_360)
            async with connected(server.socket("/pcm?sample_rate=192000")) as socket:
                await next_json(socket, "ready")
                with pytest.raises(ConnectionError):
                    while True:
                        await socket.send_bytes(frame)
                        await asyncio.sleep(0.002)

        asyncio.run(talk_and_never_listen())
        asyncio.run(pcm(server))
        assert any("stuck" in note and "lost" in note for note in server.notes[before:])

    def test_who_does_not_answer_a_ping_is_given_up(
        self, server: RunningServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(serving, "PING_SECONDS", 0.1)

        async def play_dead() -> None:
            async with connected(server.socket(f"/pcm?{SEED}"), autoping=False) as socket:
                await next_json(socket, "ready")
                while (await socket.receive()).type not in (WSMsgType.CLOSED, WSMsgType.ERROR, WSMsgType.CLOSE):
                    pass

        asyncio.run(play_dead())
        asyncio.run(pcm(server))

    def test_sound_that_comes_too_fast_is_dropped_not_kept(self, server: RunningServer) -> None:
        async def flood() -> None:
            async with connected(server.socket(f"/pcm?{SEED}")) as socket:
                await next_json(socket, "ready")
                for _ in range(10):
                    await socket.send_bytes(pcm16(speech(100)))
                await socket.send_json({"type": "ping"})
                answered = 0
                async for message in socket:
                    answered += message.type.name == "BINARY"
                    if message.type.name == "TEXT" and json.loads(message.data)["type"] == "pong":
                        break
                assert answered < 500

        before = len(server.notes)
        asyncio.run(flood())
        asyncio.run(pcm(server))
        assert any("of sound lost" in note for note in server.notes[before:])

    def test_a_thousand_come_and_go_and_nothing_stays(self, server: RunningServer) -> None:
        async def come_and_go(times: int) -> None:
            async with ClientSession() as session:
                for number, path in enumerate(islice(cycle(("/pcm", "/ws", "/")), times)):
                    async with session.ws_connect(server.socket(f"{path}?{SEED}")) as socket:
                        if number % 50 == 0:
                            await next_json(socket, "ready")
            while json.loads((await fetched(f"{server.url}/health"))[1])["state"] == "busy":
                await asyncio.sleep(0.01)

        def alive() -> tuple[int, int, int]:
            server.events.clear()
            gc.collect()
            objects = gc.get_objects()
            # Python keeps some threads for reading files, as many as it likes up to a few.
            threads = [each for each in threading.enumerate() if not each.name.startswith("asyncio_")]
            return len(threads), sum(isinstance(each, asyncio.Task) for each in objects), len(objects)

        asyncio.run(come_and_go(200))
        before = alive()
        asyncio.run(come_and_go(800))
        threads, tasks, objects = alive()
        assert threads == before[0] and tasks < before[1] + 10
        assert objects < before[2] + 800  # less than one for each

    def test_connections_are_bounded(self, server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "MAX_CONNECTIONS", 3)

        async def crowd() -> None:
            port = int(server.url.rpartition(":")[2])
            async with asyncio.timeout(20), AsyncExitStack() as open_ones:
                for _ in range(50):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    open_ones.push_async_callback(writer.wait_closed)
                    open_ones.callback(writer.close)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.02):
                            assert await reader.read() == b""
                            return
                raise AssertionError("everybody may connect")

        asyncio.run(crowd())


class TestHttp:
    def test_health_and_figures(self, demo_folder: Path) -> None:
        async def look(server: RunningServer) -> None:
            health = json.loads((await fetched(f"{server.url}/health"))[1])
            nobody = {"active": 0, "waiting": 0, "served": 0, "refused": 0}
            assert (health["state"], health["sessions"]) == ("ready", nobody)
            async with connected(server.socket(f"/pcm?{SEED}")) as socket:
                await next_json(socket, "ready")
                await refused(server.socket(PATH))
                await talk_pcm(socket, frames(speech(15)))
                health = json.loads((await fetched(f"{server.url}/health"))[1])
                assert (health["state"], health["sessions"]["active"]) == ("busy", 1)
            while (health := json.loads((await fetched(f"{server.url}/health"))[1]))["state"] != "ready":
                await asyncio.sleep(0.01)
            assert health["sessions"] == {"active": 0, "waiting": 0, "served": 1, "refused": 1}
            status, figures, headers = await fetched(f"{server.url}/metrics")
            assert status == 200 and headers["Content-Type"].startswith("text/plain")
            for line in (
                "personaplex_step_seconds_count 15.0",
                'personaplex_conversations_total{end="left"} 1.0',
                'personaplex_refusals_total{reason="busy"} 1.0',
                'personaplex_dropped_samples_total{side="heard"} 0.0',
                "personaplex_ready 1.0",
                "personaplex_connected 0.0",
            ):
                assert line in figures.splitlines()

        with RunningServer(demo_folder) as server:
            asyncio.run(look(server))

    def test_info_names_what_can_be_asked_for(self, server: RunningServer) -> None:
        info = json.loads(asyncio.run(fetched(f"{server.url}/api/info"))[1])
        assert (info["persona"], info["voice"]) == ("teacher", "NATF2")
        assert {"name", "description"} <= info["voices"][0].keys() and len(info["voices"]) >= 16
        assert "chef" in [each["name"] for each in info["personas"]]
        assert info["sockets"]["moshi"] == server.socket(PATH)
        assert info["sampling"]["text_top_k"] == 25

    def test_another_client_can_be_served(self, demo_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "dist" / "assets").mkdir(parents=True)
        (tmp_path / "dist" / "index.html").write_text("<p>theirs")
        (tmp_path / "dist" / "assets" / "a.js").write_text("1")
        (tmp_path / "secret").write_text("no")
        (tmp_path / "dist" / "link").symlink_to(tmp_path / "secret")

        async def look(server: RunningServer) -> None:
            assert (await fetched(f"{server.url}/"))[1] == "<p>theirs"
            status, text, headers = await fetched(f"{server.url}/assets/a.js")
            assert (status, text) == (200, "1") and "Content-Security-Policy" not in headers
            port = int(server.url.rpartition(":")[2])
            for path in ("/../secret", "/assets/../../secret", "/%2e%2e/secret", "/link", "/assets", "/nothing"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                assert (await reader.readline()).split()[1] in (b"403", b"404"), path
                writer.close()
                await writer.wait_closed()
            await pcm(server, path="/")

        with RunningServer(demo_folder, door=Access(port=0, static=tmp_path / "dist")) as server:
            asyncio.run(look(server))

    def test_our_page_may_load_nothing_from_elsewhere(self, server: RunningServer) -> None:
        _, _, headers = asyncio.run(fetched(f"{server.url}/"))
        assert "default-src 'self';" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
    def test_with_a_certificate_it_speaks_tls(self, demo_folder: Path, tmp_path: Path) -> None:
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {cert} -keyout {key}"
        subprocess.run(command.split(), check=True, capture_output=True)
        trust = ssl.create_default_context(cafile=str(cert))
        trust.check_hostname = False

        async def talk(server: RunningServer) -> None:
            async with connected(server.socket(f"/pcm?{SEED}"), ssl=trust) as socket:
                await next_json(socket, "ready")
                assert len((await talk_pcm(socket, frames(speech(3))))[0]) == 3 * 2 * FRAME
            info = json.loads((await fetched(f"{server.url}/api/info", ssl=trust))[1])
            assert info["sockets"]["pcm"].startswith("wss://")

        with RunningServer(demo_folder, door=Access(port=0, ssl_cert=cert, ssl_key=key)) as server:
            assert server.url.startswith("https://")
            asyncio.run(talk(server))


class TestTrouble:
    def test_a_talk_that_fails_is_told_and_the_next_one_served(
        self, demo_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(server: RunningServer) -> None:
            async with connected(server.socket("/pcm")) as socket:
                await next_json(socket, "ready")
                with monkeypatch.context() as patch:
                    patch.setattr(LocalAgent, "step", lambda *_: 1 / 0)
                    await socket.send_bytes(pcm16(speech(1)))
                    error = await next_json(socket, "error")
                assert error["message"] == "The server failed." and "ZeroDivision" not in str(error)
                await next_json(socket, "state")
                await socket.receive()
                assert socket.close_code == 1011

        with RunningServer(demo_folder) as server:
            asyncio.run(fail(server))
            asyncio.run(pcm(server))
            assert any("ZeroDivisionError" in note for note in server.notes)

    def test_a_model_that_does_not_recover_ends_the_server(
        self, demo_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(server: RunningServer) -> None:
            async with connected(server.socket("/pcm")) as socket:
                await next_json(socket, "ready")
                monkeypatch.setattr(LocalAgent, "step", lambda *_: 1 / 0)
                monkeypatch.setattr(LocalAgent, "warm_up", lambda *_: 1 / 0)
                await socket.send_bytes(pcm16(speech(1)))
                async for _ in socket:
                    pass

        with pytest.raises(ZeroDivisionError), RunningServer(demo_folder) as server:
            asyncio.run(fail(server))
            server.wait(lambda: False)

    def test_without_a_model_it_ends_with_the_reason(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="not a PersonaPlex model"), RunningServer(tmp_path):
            pass

    def test_a_port_that_is_taken_is_told(self, server: RunningServer, demo_folder: Path) -> None:
        port = int(server.url.rpartition(":")[2])
        with (
            pytest.raises(NetworkError, match=f"port {port} cannot be opened"),
            RunningServer(demo_folder, door=Access(port=port)),
        ):
            pass

    def test_clients_are_told_when_it_shuts_down(self, demo_folder: Path, tmp_path: Path) -> None:
        async def talk(server: RunningServer) -> None:
            async with connected(server.socket(f"{PATH}?{SEED}")) as socket:
                await next_message(socket, Handshake)
                await talk_moshi(socket, opus(speech(20)))
                async with connected(server.socket("/pcm")) as waiting:
                    await next_json(waiting, "state")
                    server.server.stop()
                    assert "shuts down" in (await next_message(socket, Failure)).text
                    assert (await next_json(waiting, "error"))["message"] == "The server shuts down."
                    await socket.receive()
                    assert socket.close_code == 1001

        with RunningServer(demo_folder, Terms("teacher", queue=1, record=tmp_path)) as server:
            asyncio.run(talk(server))
        (kept,) = tmp_path.glob("*/conversation.wav")
        assert len(samples(kept)) >= 19 * FRAME

    @pytest.mark.parametrize(
        ("door", "said"),
        [
            ({"token": ""}, "token is empty"),
            ({"ssl_cert": Path("cert.pem")}, "belong together"),
            ({"static": Path("nowhere")}, "no index.html"),
        ],
    )
    def test_a_door_that_cannot_be_is_told(self, door: dict[str, Any], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            Access(**door)

    def test_what_cannot_work_is_told_before_the_model_loads(self, tmp_path: Path) -> None:
        spoiled = tmp_path / "cert.pem"
        spoiled.write_text("no")
        door = Access(port=0, ssl_cert=spoiled, ssl_key=spoiled)
        with pytest.raises(UsageError, match="certificate cannot be used"), RunningServer(tmp_path, door=door):
            pass
        with pytest.raises(AudioError):
            RunningServer(tmp_path, Terms("teacher", record=Path("/proc/nowhere")))
        with pytest.raises(UsageError):
            RunningServer(tmp_path, Terms("nobody"))

    @pytest.mark.parametrize(
        ("door", "said"),
        [
            (Access(), []),
            (Access("localhost"), []),
            (Access("::1"), []),
            (Access("0.0.0.0"), ["--ssl-cert", "--token"]),
            (Access("192.168.1.5", token="x"), ["--ssl-cert"]),
            (Access("::", ssl_cert=Path("c"), ssl_key=Path("k")), ["--token"]),
            (Access("host.example", token="x", ssl_cert=Path("c"), ssl_key=Path("k")), []),
        ],
    )
    def test_an_open_door_is_pointed_out(self, door: Access, said: list[str]) -> None:
        warning = door.warning()
        assert [each for each in ("--ssl-cert", "--token") if warning and each in warning.text] == said
