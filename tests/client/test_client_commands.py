"""`run --server` and `chat --server`, whole: the command line, the fake sound card, servers real and faked."""

import json
import os
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from fakecard import FakeCard, plug_in
from fakeserver import HANDSHAKE, METADATA, SOUND, WORDS, FakeServer, Guest, echo
from heldchat import Held
from remote import CHARACTER, noise, through_opus
from runningserver import RunningServer

from personaplex_cli.audio.opus import OpusReader
from personaplex_cli.audio.recording import Recording, read_recording, write_wav
from personaplex_cli.character import Sampling
from personaplex_cli.cli import main as cli
from personaplex_cli.client.engine import connect
from personaplex_cli.conversation import converse
from personaplex_cli.errors import NetworkError
from personaplex_cli.events import Began, Finished, Hushed, Network, Phase, Step
from personaplex_cli.loader.load import load
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions, ModelOptions, RemoteOptions
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples, from_pcm16, pcm16

QUESTION = Path(__file__).parents[2] / "examples/question.wav"
SHORT = 0.5  # seconds


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def question(tmp_path: Path) -> Path:
    """Half a second and a bit of speech, no whole number of frames."""
    with (tmp_path / "question.wav").open("wb") as file:
        write_wav(file, read_recording(QUESTION)[SAMPLE_RATE : SAMPLE_RATE + round(SHORT * SAMPLE_RATE)])
    return tmp_path / "question.wav"


def in_frames(sound: Samples) -> Samples:
    """[n, 1920]"""
    return np.pad(sound, (0, -len(sound) % FRAME)).reshape(-1, FRAME)


class TestRun:
    @pytest.mark.slow
    def test_a_server_gives_the_words_that_a_model_here_gives_to_what_it_hears(
        self, question: Path, random_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Same seed, same talk: the way there and back costs what Opus costs, and nothing else."""
        with RunningServer(random_folder) as server:
            arguments = ["--server", server.url, "--seed", "5", "--persona", "chef", "--tail", "2", "--json"]
            assert cli.program(["run", str(question), "-o", "answer.wav", *arguments]) == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert any(event["server_step"] for event in events if event["event"] == "network")  # it tells its pace
        report = json.loads(Path("answer.json").read_text())

        silence = np.zeros(2 * SAMPLE_RATE, dtype=np.float32)
        audio = Recording(through_opus(in_frames(np.concatenate([read_recording(question), silence]))))
        character = find_character(CharacterOptions(persona="chef"), Sampling(seed=5))
        engine = load(ModelOptions(str(random_folder), device="cpu"))
        text = "".join(step.text for step in converse(engine, audio, character)).strip()
        assert report["text"] == text != ""
        assert report["settings"]["sampling"]["seed"] == 5 and report["settings"]["model"]
        answer = read_recording(Path("answer.wav"))
        assert len(answer) == round((SHORT + 2) * SAMPLE_RATE)
        assert np.allclose(answer, through_opus(in_frames(audio.answer))[: len(answer)], atol=1e-3)

    def test_every_recording_is_answered_in_its_length(
        self, question: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Here by an echo, which makes no secret of what it heard, and when."""

        async def echo_with_words(guest: Guest) -> None:
            await guest.say(HANDSHAKE)
            heard = 0
            while (message := await guest.hear()) is not None:
                await guest.say(message)
                heard += 1
                await guest.say(WORDS + f" {heard}".encode())

        with FakeServer(echo_with_words) as server:
            arguments = ["-o", "out", "--server", server.url, "--stereo", "--json", "--batch-size", "4"]
            Path("b.wav").write_bytes(question.read_bytes())
            assert cli.program(["run", str(question), "b.wav", *arguments]) == 0
            assert len(server.guests) == 2
        expected = through_opus(in_frames(read_recording(question)))
        for name in ("question", "b"):
            with wave.open(f"out/{name}.wav") as file:
                both = np.frombuffer(file.readframes(10**6), "<i2").reshape(-1, 2) / 32767
            assert len(both) == round(SHORT * SAMPLE_RATE)
            assert np.allclose(both[:, 0], read_recording(question), atol=1e-3)
            assert np.allclose(both[:, 1], expected[: len(both)], atol=1e-3)
            words = json.loads(Path(f"out/{name}.json").read_text())["words"]
            # Each word once and in order. Its frame is the one that was played when it came: a matter of pace.
            assert [word["word"] for word in words][:5] == ["1", "2", "3", "4", "5"]
            starts = [word["start"] for word in words]
            assert starts == sorted(starts)
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {"connecting", "warming up"} <= {event.get("name") for event in events}
        assert all(event["timings"] is None for event in events if event["event"] == "step")
        assert any("one after the other" in event["text"] for event in events if event["event"] == "note")

    def test_nothing_heavy_is_imported(self, question: Path) -> None:
        code = (
            "import sys; from personaplex_cli.cli.main import program; code = program(sys.argv[1:]);"
            "heavy = {'torch', 'moshi', 'safetensors', 'huggingface_hub'} & set(sys.modules);"
            "sys.exit(str(heavy) if heavy else code)"
        )
        with FakeServer() as server:
            environment = {**os.environ, "MOSHI_HOST": "127.0.0.1", "MOSHI_PORT": str(server.port)}
            command = [sys.executable, "-c", code, "run", str(question), "-o", "answer.wav"]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert "Warming up" in done.stderr and len(read_recording(Path("answer.wav"))) == round(SHORT * SAMPLE_RATE)

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["--server", "ftp://gpu"], 2, "cannot be reached by ftp"),
            (["--server", "127.0.0.1:1"], 6, "Cannot reach 127.0.0.1:1"),
            (["--server", "gpu", "--voice", "question.wav"], 2, "The voice question.wav is on this machine"),
            (["--server", "gpu", "--token", "\x07"], 2, "characters that cannot be sent"),
            (["--server", "gpu", "--voice", "NATF9"], 2, "Did you mean NATF"),
        ],
    )
    def test_what_is_wrong_is_told(
        self, arguments: list[str], code: int, said: str, question: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.program(["run", str(question), "-o", "answer.wav", *arguments]) == code
        err = capsys.readouterr().err
        assert said in err and "Traceback" not in err and not Path("answer.wav").exists()

    def test_a_token_is_shown_in_the_header_only(self, question: Path) -> None:
        shown: list[web.Request] = []

        def door(request: web.Request) -> web.Response | None:
            shown.append(request)
            return None if request.headers.get("Authorization") == "Bearer open-sesame" else web.Response(status=401)

        with FakeServer(refuse=door) as server:
            arguments = ["run", str(question), "-o", "answer.wav", "--server", server.url]
            assert cli.program(arguments) == 6
            assert cli.program([*arguments, "--token", "open-sesame"]) == 0
        assert not any("sesame" in str(request.url) for request in shown)

    def test_a_server_that_leaves_in_the_middle_leaves_nothing(
        self, question: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def leaves(guest: Guest) -> None:
            await guest.say(HANDSHAKE)
            for _ in range(3):
                await guest.hear()
            guest.cut()

        with FakeServer(leaves) as server:
            assert cli.program(["run", str(question), "-o", "answer.wav", "--server", server.url]) == 6
        assert "broke off" in capsys.readouterr().err
        assert [path.name for path in Path().iterdir() if path.is_file()] == ["question.wav"]


def held_chat(card: FakeCard, url: str, record: Path | None = None) -> Held:
    return Held(card, lambda listen: connect(RemoteOptions(url), listen), CHARACTER, record)


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCard]:
    return lambda frames: plug_in(FakeCard(microphone=noise(frames).reshape(-1)), monkeypatch)


class TestChat:
    def test_states_sound_and_recording(self, plug: Callable[..., FakeCard], tmp_path: Path) -> None:
        with FakeServer() as server:
            held = held_chat(plug(40), server.url, tmp_path / "kept").run()
        assert held.chat.error is None
        assert held.states == [Phase.CONNECTING, Phase.WARMING_UP, Phase.LIVE, Phase.ENDED]
        assert len(held.of(Step)) == 40 and len(held.of(Began)) == 1
        # What was said arrived at the server, what it said was heard and kept.
        heard = OpusReader()
        said = np.concatenate([heard.read(message[1:]) for message in server.guests[0].said if message[:1] == SOUND])
        rounded = from_pcm16(pcm16(noise(40).reshape(-1))).reshape(40, FRAME)  # as the recording holds it
        assert np.array_equal(said, through_opus(rounded)[: len(said)])
        with wave.open(str(next(tmp_path.glob("kept/*/conversation.wav")))) as file:
            both = np.frombuffer(file.readframes(10**6), "<i2").reshape(-1, 2) / 32767
        assert len(both) == 40 * FRAME and both[FRAME * 5 :, 1].any()
        settings = json.loads(next(tmp_path.glob("kept/*/transcript.json")).read_text())["settings"]
        assert settings["server"] == held.of(Began)[0].device and settings["sampling"]["seed"] is None

    def test_a_server_that_is_not_there_is_an_error(self, plug: Callable[..., FakeCard]) -> None:
        with FakeServer() as server:
            pass
        held = held_chat(plug(5), server.url).run()
        assert isinstance(held.chat.error, NetworkError) and held.chat.error.exit_code == 6
        assert "Cannot reach" in str(held.chat.error) and held.states[-1] == Phase.ENDED

    @pytest.mark.slow
    def test_a_server_that_goes_away_and_comes_back(self, plug: Callable[..., FakeCard]) -> None:
        async def leaves_once(guest: Guest) -> None:
            if len(server.guests) > 1:
                return await echo(guest)
            await guest.say(HANDSHAKE)
            for _ in range(10):
                await guest.hear()
            guest.cut()

        with FakeServer(leaves_once) as server:
            held = held_chat(plug(300), server.url)
            held.at = {100: held.chat.stop}
            held.run()
        assert held.chat.error is None and len(held.of(Began)) == 2
        way = [Phase.CONNECTING, Phase.WARMING_UP, Phase.LIVE]
        assert held.states == [*way, Phase.DISCONNECTED, *way, Phase.ENDED]
        assert [step.index for step in held.of(Step)][-1] < 95  # counted from the new beginning
        assert len(held.of(Finished)) == 1

    def test_restarted_it_begins_anew(self, plug: Callable[..., FakeCard]) -> None:
        with FakeServer() as server:
            held = held_chat(plug(40), server.url)
            held.at = {20: lambda: held.chat.press("r")}
            held.run()
            assert len(server.guests) == 2
        assert [step.index for step in held.of(Step)] == [*range(20), *range(20)]
        assert Phase.DISCONNECTED not in held.states

    @pytest.mark.slow
    def test_keys_work_as_with_a_model_here(self, plug: Callable[..., FakeCard], random_folder: Path) -> None:
        with RunningServer(random_folder) as server:
            held = held_chat(plug(300), server.url)
            held.at = {
                5: lambda: held.chat.press("m"),
                10: lambda: held.chat.press("s"),
                20: lambda: held.chat.press("m"),
                40: lambda: held.chat.press("r"),
                60: lambda: held.chat.press("q"),
            }
            held.run()
        assert held.chat.error is None and len(held.of(Step)) == 60
        assert [step.index for step in held.of(Step) if step.heard == -100] == list(range(5, 20))
        assert [hushed.on for hushed in held.of(Hushed)] == [True, False]
        began = held.of(Began)
        assert len(began) == 2 and began[0] == began[1] and began[0].context == 3000 and began[0].precision == "fp32"

    @pytest.mark.parametrize("state", [Phase.CONNECTING, Phase.WARMING_UP, Phase.DISCONNECTED])
    def test_q_ends_it_in_every_state(self, state: Phase, plug: Callable[..., FakeCard]) -> None:
        async def primes(guest: Guest) -> None:
            if state is Phase.DISCONNECTED:
                await guest.say(HANDSHAKE)
                await guest.hear()
                server.refuse = lambda request: web.Response(status=503)
                guest.cut()
            else:
                await guest.hear()

        with FakeServer(primes) as server:
            held = held_chat(plug(300), server.url)
            held.then = {state: lambda: held.chat._stopping.set()}  # as q does; the rest is done by `end`
            held.run()
        assert held.chat.error is None and held.states[-1] is Phase.ENDED and state in held.states

    def test_a_server_that_refuses_ends_it_with_its_words(self, plug: Callable[..., FakeCard]) -> None:
        async def refuses(guest: Guest) -> None:
            await guest.say(b"\x05No such voice.")

        with FakeServer(refuses) as server:
            held = held_chat(plug(30), server.url).run()
        assert isinstance(held.chat.error, NetworkError) and "No such voice." in str(held.chat.error)

    def test_the_network_is_told(self, plug: Callable[..., FakeCard], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("personaplex_cli.client.connection.PING_INTERVAL", 0.02)

        async def tells(guest: Guest) -> None:
            await guest.say(HANDSHAKE)
            await guest.say(METADATA + b'{"step_ms": 40}')
            while (message := await guest.hear()) is not None:
                await guest.say(message)

        with FakeServer(tells) as server:
            held = held_chat(plug(60), server.url).run()
        assert {network.server_step for network in held.of(Network)} >= {40.0}
        assert all(network.round_trip > 0 for network in held.of(Network))
