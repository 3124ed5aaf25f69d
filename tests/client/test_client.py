"""Talking with a server: what is asked of it, what comes back, and every way in which it or the network can fail.

The servers are real ones on this machine that know Moshi's protocol by heart: see fakeserver.py.
"""

import asyncio
import gc
import json
import ssl
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from fakeserver import CONTROL, FAILURE, HANDSHAKE, METADATA, SOUND, WORDS, FakeServer, Guest, Script, Wire, echo
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.audio.opus import OpusReader, OpusWriter
from personaplex_cli.audio.queue import NOTHING
from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Sampling
from personaplex_cli.client import connection
from personaplex_cli.client import engine as client
from personaplex_cli.client.address import Server, server_url
from personaplex_cli.client.engine import RemoteAgent, request_for
from personaplex_cli.conversation import Disconnected
from personaplex_cli.errors import NetworkError, UsageError
from personaplex_cli.events import Event, Glitch, Network, Note, State
from personaplex_cli.library.catalog import voices
from personaplex_cli.lookup import choose_character
from personaplex_cli.protocols.wire import Request
from personaplex_cli.samples import FRAME, SILENT_FRAME, Samples

CHARACTER = choose_character("teacher", None, None, Sampling(seed=3))
MANY = 500  # steps: more than anything here needs


def noise(frames: int) -> Samples:
    return (np.random.default_rng(0).standard_normal((frames, FRAME)) * 0.1).astype(np.float32)


def through_opus(frames: Samples) -> Samples:
    """What is heard of frames [n, 1920] at the other end, [n * 1920]."""
    writer, reader = OpusWriter(), OpusReader()
    return np.concatenate([reader.read(writer.write(frame)) for frame in frames])


class TokenGenerator:
    """An agent and what it says; closed at the end of the test, with all its threads."""

    def __init__(self, url: str, seed: int | None = None, paced: bool = False, **server: object) -> None:
        self.events: list[Event] = []
        self.agent = RemoteAgent(Server(server_url(url), **server), CHARACTER, seed, self.events.append, paced)

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def states(self) -> list[str]:
        return [state.name for state in self.of(State)]

    def until(self, true: Callable[[], bool]) -> Samples:
        """Say silence until something is true; returns what was heard."""
        heard = [NOTHING]
        for _ in range(MANY):
            if true():
                return np.concatenate(heard)
            heard.append(self.agent.step(SILENT_FRAME).pcm)
        raise AssertionError(f"it never came true: {self.events[-5:]}")


@pytest.fixture
def talk() -> Iterator[Callable[..., TokenGenerator]]:
    talks: list[TokenGenerator] = []

    def begin(*arguments: object, **settings: object) -> TokenGenerator:
        talks.append(TokenGenerator(*arguments, **settings))  # type: ignore[arg-type]
        return talks[-1]

    yield begin
    for each in talks:
        each.agent.close()
    talks.clear()
    gc.collect()  # a socket that is still open complains here
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("connection", "asyncio"))]


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    servers: list[FakeServer] = []

    def start(script: Script = echo, **settings: object) -> FakeServer:
        servers.append(FakeServer(script, **settings).__enter__())  # type: ignore[arg-type]
        return servers[-1]

    yield start
    for each in servers:
        each.__exit__()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a second attempt."""
    monkeypatch.setattr(client, "MAX_WAIT_SECONDS", 0)


class TestRequest:
    def test_every_server_finds_what_it_needs(self) -> None:
        query = request_for(CHARACTER, None).to_query()
        assert query["voice_prompt"] == "NATF2.pt" and query["text_prompt"] == CHARACTER.persona.prompt
        assert "seed" not in query and "persona" not in query
        assert request_for(CHARACTER, 7).to_query()["seed"] == "7"

    @given(st.text(max_size=200), st.sampled_from([voice.name for voice in voices()]), st.integers(0, 2**40))
    def test_what_is_asked_for_arrives(self, prompt: str, voice: str, seed: int) -> None:
        character = choose_character(
            "chef", prompt.removeprefix("@"), voice, Sampling(seed=seed, text_temperature=0.25)
        )
        arrived = Request.from_query(request_for(character, seed).to_query())
        assert arrived == Request(voice, None, character.persona.prompt or " ", seed, 0.25, 25, 0.8, 250)

    def test_greedy_is_a_temperature_that_every_server_knows(self) -> None:
        request = request_for(choose_character("chef", None, None, Sampling(greedy=True)), None)
        assert request.text_temperature == request.audio_temperature == 0

    def test_a_voice_that_is_a_file_here_stays_here(self, tmp_path: Path) -> None:
        (tmp_path / "mine.pt").touch()
        with pytest.raises(UsageError, match="has its own voices"):
            request_for(choose_character("teacher", None, str(tmp_path / "mine.pt"), Sampling()), None)

    def test_a_prompt_that_fits_in_no_url_is_told(self) -> None:
        with pytest.raises(UsageError, match="too long"):
            request_for(choose_character("teacher", "no " * 3000, None, Sampling()), None)


class TestTalking:
    @pytest.mark.parametrize("paced", [False, True])
    def test_all_that_is_said_arrives_in_order(
        self, paced: bool, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        frames = noise(8)
        here = talk(serve().url, paced=paced)
        here.agent.begin()
        heard = [here.agent.step(frame).pcm for frame in frames]
        expected = through_opus(frames)
        while sum(map(len, heard)) < len(expected):
            heard.append(here.agent.step(SILENT_FRAME).pcm)
        assert np.array_equal(np.concatenate(heard)[: len(expected)], expected)
        assert here.states == ["connecting", "warming up"]

    def test_nothing_is_said_before_the_server_is_ready(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        ready = False
        early: list[bytes] = []

        async def primes(guest: Guest) -> None:
            async def be_ready() -> None:
                nonlocal ready
                await asyncio.sleep(0.3)
                ready = True
                await guest.say(HANDSHAKE)

            priming = asyncio.create_task(be_ready())
            while (message := await guest.hear()) is not None:
                early.extend([] if ready else [message])
                await guest.say(message)
            await priming

        here = talk(serve(primes).url)
        here.agent.begin()
        assert here.states == ["connecting", "warming up"]
        here.until(lambda: len(here.agent.step(SILENT_FRAME).pcm) > 0)
        assert ready and not early

    def test_words_come_with_the_sound(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        async def speaks(guest: Guest) -> None:
            await guest.say(HANDSHAKE + b"\x01\x02\x03\x04\x05\x06\x07\x08")  # some servers add their version
            for word in (" good", " m\u00f6rning", "!"):
                await guest.say(WORDS + word.encode())
            await echo_on(guest)

        here = talk(serve(speaks).url)
        here.agent.begin()
        said = "".join(here.agent.step(SILENT_FRAME).text for _ in range(5))
        assert said == " good mörning!"

    def test_what_a_server_tells_about_itself_is_known(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        told = {"seed": 5, "model": "a-model", "precision": "bf16", "prompt_frames": 40, "context": 3000, "voice": None}

        async def tells(guest: Guest) -> None:
            await guest.say(METADATA + b'{"queue": 2}')
            await guest.say(HANDSHAKE)
            await guest.say(METADATA + json.dumps(told).encode())
            await guest.say(METADATA + b'{"step_ms": 31.5, "frame": 1}')
            await echo_on(guest)

        here = talk(serve(tells).url)
        began = here.agent.begin()
        assert (began.seed, began.model, began.precision) == (5, "a-model", "bf16")
        assert (began.prompt_frames, began.context, began.voice) == (40, 3000, "NATF2")
        assert here.of(State)[-1].detail.endswith("2 before you")
        assert here.agent.settings["sampling"]["seed"] == 5
        here.until(lambda: bool(here.of(Network)))
        assert here.of(Network)[-1].server_step == 31.5 and here.of(Network)[-1].round_trip > 0

    @pytest.mark.parametrize("values", [b"{}", b'{"seed": "x", "context": [], "model": 3, "step_ms": true}'])
    def test_what_it_does_not_tell_is_not_made_up(
        self, values: bytes, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        async def tells(guest: Guest) -> None:
            await guest.say(HANDSHAKE)
            await guest.say(METADATA + values)
            await echo_on(guest)

        here = talk(serve(tells).url, seed=4)
        began = here.agent.begin()
        assert (began.seed, began.model, began.prompt_frames, began.context) == (None, "", 0, 0)
        here.until(lambda: bool(here.of(Network)))
        assert here.of(Network)[-1].server_step is None

    def test_told_to_stop_talking_it_is_silent_until_the_user_speaks(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        async def talks(guest: Guest) -> None:
            """On and on, whatever it is told: not every server knows how to stop."""
            await guest.say(HANDSHAKE)
            writer = OpusWriter()
            while (message := await guest.hear()) is not None:
                if message[:1] == SOUND:
                    await guest.say(SOUND + writer.write(noise(1)[0]))
                    await guest.say(WORDS + b" on")

        server = serve(talks)
        here = talk(server.url)
        here.agent.begin()
        assert here.until(lambda: here.agent.step(SILENT_FRAME).text != "").any() or True
        here.agent.hush()
        quiet = [here.agent.step(SILENT_FRAME) for _ in range(20)]
        assert here.agent.hushed and not any(each.text or each.pcm.any() for each in quiet)
        assert CONTROL + b"\x02" in server.guests[0].said
        loud = [here.agent.step(noise(1)[0]) for _ in range(10)]
        assert not here.agent.hushed and any(each.text and each.pcm.any() for each in loud[3:])

    def test_the_next_conversation_is_a_new_call(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        server = serve()
        here = talk(server.url)
        for _ in range(3):
            here.agent.begin()
            here.agent.step(noise(1)[0])
        assert len(server.guests) == 3 and "disconnected" not in here.states

    def test_our_server_is_asked_on_the_same_call(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        """Nothing of the conversation before is heard in the next one."""

        introduced = []

        async def ours(guest: Guest) -> None:
            await guest.say(HANDSHAKE)
            await guest.say(METADATA + b'{"personaplex": "1"}')
            while (message := await guest.hear()) is not None:
                introduced.append(message[:1] == METADATA)
                if message == CONTROL + b"\x03":
                    await guest.say(WORDS + b" old")
                    await guest.say(HANDSHAKE)
                    await guest.say(METADATA + b'{"personaplex": "1", "seed": 9}')
                    await guest.say(WORDS + b" new")

        server = serve(ours)
        here = talk(server.url)
        assert here.agent.begin().seed is None
        assert here.agent.begin().seed == 9
        assert here.agent.step(SILENT_FRAME).text == " new"
        assert len(server.guests) == 1 and any(introduced)


async def echo_on(guest: Guest) -> None:
    """`echo` without the handshake."""
    while (message := await guest.hear()) is not None:
        if message[:1] == SOUND:
            await guest.say(message)


def answers(status: int, **headers: str) -> Callable[[web.Request], web.Response | None]:
    return lambda request: web.Response(
        status=status, headers={name.replace("_", "-"): headers[name] for name in headers}
    )


async def leaves(guest: Guest) -> None:
    guest.cut()


def says(*messages: bytes, code: int | None = None) -> Script:
    async def script(guest: Guest) -> None:
        for message in messages:
            await guest.say(message)
        if code is None:
            await guest.hear()
        else:
            await guest.socket.close(code=code, message=b"because")

    return script


class TestFailures:
    """Each has a sentence and a remedy, and ends the first call; no thread stays."""

    @pytest.mark.parametrize(
        ("refuse", "token", "said", "hint"),
        [
            (answers(503, Retry_After="7"), None, "has no time", "Try again in 7 s."),
            (answers(503, Retry_After="soon"), None, "has no time", "later"),
            (answers(401), None, "wants a token", "--token"),
            (answers(403), "wrong", "does not accept this token", "--token"),
            (answers(404), None, "HTTP 404", "/api/chat"),
            (answers(200), None, "HTTP 200", "/api/chat"),
            (answers(500), None, "HTTP 500", "later"),
        ],
    )
    def test_no_conversation_here(
        self,
        refuse: Callable[[web.Request], web.Response | None],
        token: str | None,
        said: str,
        hint: str,
        serve: Callable[..., FakeServer],
        talk: Callable[..., TokenGenerator],
    ) -> None:
        here = talk(serve(refuse=refuse).url, token=token)
        with pytest.raises(NetworkError, match=said) as told:
            here.agent.begin()
        assert hint in told.value.hint and "disconnected" not in here.states

    @pytest.mark.parametrize(
        ("script", "said"),
        [
            (says(FAILURE + "Kein Platz für dich".encode()), "refuses: Kein Platz für dich"),
            (says(b""), "does not speak Moshi's protocol"),
            (says(METADATA + b"\xff{"), "does not speak Moshi's protocol"),
            (says(HANDSHAKE, SOUND + b"no Ogg at all, but long enough to be looked at" * 9), "does not speak"),
            (says(code=1000), "ended the conversation: because"),
            (says(HANDSHAKE, code=4408), "ended the conversation: because"),
            (says(HANDSHAKE, FAILURE + b"Time is up.", code=4408), "ended the conversation: Time is up."),
            (leaves, "broke off"),
        ],
    )
    def test_a_server_that_ends_it(
        self, script: Script, said: str, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        here = talk(serve(script).url)
        with pytest.raises(NetworkError, match=said):
            here.agent.begin()
            here.until(lambda: False)

    def test_what_nobody_knows_is_ignored(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        async def odd(guest: Guest) -> None:
            await guest.socket.send_str("hello")
            await guest.socket.ping(b"are you there?")
            for message in (b"\x77?", b"\x06", HANDSHAKE, b"\x06", b"\xff\xff", METADATA + b"{}"):
                await guest.say(message)
            await echo_on(guest)

        here = talk(serve(odd).url)
        here.agent.begin()
        assert len(here.until(lambda: bool(here.of(Network)))) or here.agent.step(SILENT_FRAME)

    def test_nobody_there(self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]) -> None:
        with FakeServer() as server:
            pass
        with pytest.raises(NetworkError, match="cannot be reached") as told:
            talk(server.url).agent.begin()
        assert "personaplex serve" in told.value.hint
        with pytest.raises(NetworkError, match="No host of that name"):
            talk("ws://nowhere.invalid").agent.begin()

    def test_certificates(
        self, tmp_path: Path, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
        subprocess.run([*new, *files, *subject], check=True, capture_output=True)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
        server = serve(tls=context)
        with pytest.raises(NetworkError, match=r"certificate of .* is not trusted: self-signed") as told:
            talk(server.url).agent.begin()
        assert "--insecure" in told.value.hint
        here = talk(server.url, insecure=True)
        here.agent.begin()
        assert here.agent.step(SILENT_FRAME) is not None
        with pytest.raises(NetworkError) as told:
            talk(server.url.replace("wss", "ws")).agent.begin()
        assert "wss://" in told.value.hint or "address" in told.value.hint
        with pytest.raises(NetworkError, match="does not speak TLS"):
            talk(serve().url.replace("ws", "wss")).agent.begin()

    def test_a_server_that_says_nothing_is_given_up(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def deaf(guest: Guest) -> None:
            """It hears no pings either, as one that waits for its lock."""
            await gone.wait()

        gone = asyncio.Event()
        monkeypatch.setattr(connection, "READY_SECONDS", 0.2)
        server = serve(deaf)
        with pytest.raises(Disconnected, match="silent") as told:
            talk(server.url).agent.begin()
        assert "somebody else" in told.value.hint
        server.loop.call_soon_threadsafe(gone.set)


class TestReconnecting:
    def test_a_cut_wire_is_told_and_called_again(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        server = serve()
        with Wire(server) as wire:
            here = talk(wire.url)
            here.agent.begin()
            here.until(lambda: bool(here.of(Network)))
            wire.cut()
            with pytest.raises(Disconnected, match="broke off"):
                here.until(lambda: False)
            here.agent.begin()
            assert here.states == ["connecting", "warming up", "disconnected", "connecting", "warming up"]
            assert any("a new conversation is tried" in note.text for note in here.of(Note))
            assert len(through_opus(noise(3))) <= len(here.until(lambda: len(server.guests[1].said) > 6)) + 4 * FRAME
            here.agent.close()

    def test_it_waits_longer_and_longer(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        server = serve()
        here = talk(server.url)
        here.agent.begin()
        here.until(lambda: bool(here.of(Network)))
        server.refuse = answers(503)
        waited: list[float] = []

        class Clock(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout
                waited.append(timeout)
                if len(waited) == 8:
                    server.refuse = lambda request: None
                return self.is_set()

        here.agent._closed = Clock()
        server.loop.call_soon_threadsafe(server.guests[0].cut)
        with pytest.raises(Disconnected):
            here.until(lambda: False)
        here.agent.begin()
        assert waited == [1, 2, 4, 8, 16, 30, 30, 30]
        assert [note.text.count("In 30 s") for note in here.of(Note)][-3:] == [1, 1, 1]

    def test_a_server_that_shuts_down_is_called_again_one_that_ends_it_is_not(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        for code, error in ((1001, Disconnected), (1011, Disconnected), (1008, NetworkError), (4400, NetworkError)):
            here = talk(serve(says(HANDSHAKE, code=code)).url)
            here.agent.begin()
            with pytest.raises(NetworkError) as told:
                here.until(lambda: False)
            assert type(told.value) is error

    def test_a_recording_is_not_tried_again(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        server = serve()
        here = talk(server.url, paced=True)
        here.agent.begin()
        server.refuse = answers(503)
        with pytest.raises(Disconnected):
            here.agent.begin()
        assert "disconnected" not in here.states

    @pytest.mark.parametrize("where", ["before", "dialling", "warming up", "live", "disconnected"])
    def test_it_can_be_ended_at_any_time(
        self,
        where: str,
        serve: Callable[..., FakeServer],
        talk: Callable[..., TokenGenerator],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """From another thread, and nobody is left waiting; `talk` counts the threads."""
        monkeypatch.undo()

        async def silent(guest: Guest) -> None:
            await guest.hear()

        server = serve(silent if where == "warming up" else echo)
        with Wire(server, stuck=where == "dialling") as wire:
            here = talk(wire.url)
            ended: list[NetworkError] = []

            def hold() -> None:
                try:
                    here.agent.begin()
                    if where == "disconnected":
                        server.refuse = answers(503)
                        wire.cut()
                    while True:
                        try:
                            here.agent.step(SILENT_FRAME)
                        except Disconnected:
                            here.agent.begin()
                except NetworkError as error:
                    ended.append(error)

            holding = threading.Thread(target=hold)
            if where == "before":
                here.agent.close()
            holding.start()
            seen = {"dialling": "connecting", "before": "", "live": "warming up"}.get(where, where)
            while seen and seen not in here.states:
                pass
            here.agent.close()
            holding.join(timeout=30)
            assert not holding.is_alive()
            assert all(isinstance(error, Disconnected) for error in ended) and len(ended) == 1


class TestSlowNetworks:
    def test_delay_is_measured_and_nothing_is_lost(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        server = serve()
        with Wire(server, delay=0.15) as wire:
            here = talk(wire.url, paced=True)
            here.agent.begin()
            assert np.array_equal(*self.spoken(here, noise(20)))
            assert here.of(Network)[0].round_trip > 300
            here.agent.close()

    def test_while_it_is_stuck_the_oldest_is_dropped_and_nothing_piles_up(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "STALL_SECONDS", 0.3)
        monkeypatch.setattr(connection, "PING_SECONDS", 0.05)
        server = serve()
        with Wire(server) as wire:
            here = talk(wire.url)
            here.agent.begin()
            here.until(lambda: bool(here.of(Network)))
            wire.stuck = True
            for number in range(60):
                here.agent.step(np.full(FRAME, number / 100, dtype=np.float32))
                assert len(here.agent._connection._waiting) <= client.MAX_UNSENT_FRAMES
            unsent = here.agent._connection.unsent
            assert unsent > 30  # most of what was said after the first third of a second
            assert [glitch.kind for glitch in here.of(Glitch)] == ["unsent"] * len(here.of(Glitch)) != []
            wire.stuck = False
            said = len(server.guests[0].said)
            heard = here.until(lambda: len(server.guests[0].said) > said + 8)
            assert len(heard) < (60 - unsent + 30) * FRAME  # no burst of old sound
            assert "disconnected" not in here.states
            here.agent.close()

    def test_a_recording_waits_for_a_server_that_is_slow_and_drops_what_comes_too_fast(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        async def slow(guest: Guest) -> None:
            waiting: deque[bytes] = deque(maxlen=12)

            async def answer() -> None:
                while True:
                    await asyncio.sleep(0.1)
                    if waiting:
                        await guest.say(waiting.popleft())

            await guest.say(HANDSHAKE)
            answering = asyncio.create_task(answer())
            while (message := await guest.hear()) is not None:
                waiting.append(message)
            answering.cancel()

        here = talk(serve(slow).url, paced=True)
        here.agent.begin()
        assert np.array_equal(*self.spoken(here, noise(60)))

    def test_a_recording_waits_while_the_network_is_stuck(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator]
    ) -> None:
        with Wire(serve()) as wire:
            here = talk(wire.url, paced=True)
            here.agent.begin()
            threading.Timer(0.5, lambda: setattr(wire, "stuck", True)).start()
            threading.Timer(2.0, lambda: setattr(wire, "stuck", False)).start()
            heard, expected = self.spoken(here, noise(30))
            assert np.array_equal(heard, expected) and not here.agent._connection.unsent
            here.agent.close()

    def test_a_recording_does_not_wait_for_ever(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "ANSWER_SECONDS", 0.1)

        async def listens(guest: Guest) -> None:
            await guest.say(HANDSHAKE)
            while await guest.hear() is not None:
                pass

        here = talk(serve(listens).url, paced=True)
        here.agent.begin()
        with pytest.raises(NetworkError, match="does not answer any more"):
            here.until(lambda: False)

    def spoken(self, here: TokenGenerator, frames: Samples) -> tuple[Samples, Samples]:
        """What came back of frames that were said, silence after them, and what should have."""
        expected = through_opus(frames)
        audio = Recording(frames.reshape(-1))
        for frame in audio.frames():
            audio.play(here.agent.step(frame).pcm)
        return audio.answer, expected

    def test_a_dead_network_is_noticed(
        self, serve: Callable[..., FakeServer], talk: Callable[..., TokenGenerator], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "DEAD_SECONDS", 0.3)
        monkeypatch.setattr(connection, "PING_SECONDS", 0.05)
        with Wire(serve()) as wire:
            here = talk(wire.url)
            here.agent.begin()
            here.until(lambda: bool(here.of(Network)))
            wire.stuck = True
            with pytest.raises(Disconnected, match="silent"):
                here.until(lambda: False)
            wire.stuck = False
            here.agent.close()
