"""Every way in which a server can refuse or end a conversation."""

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from fakeserver import FAILURE, HANDSHAKE, METADATA, SOUND, FakeServer, Guest, Script, answers, echo_on, leaves, says
from remote import Call, Serve

from personaplex_cli.client import connection
from personaplex_cli.conversation import Disconnected
from personaplex_cli.errors import NetworkError
from personaplex_cli.events import Network, Note, Phase
from personaplex_cli.samples import SILENT_FRAME


class TestFailures:
    """Each has a sentence and a remedy, and ends the first call; no thread stays."""

    @pytest.mark.parametrize(
        ("refuse", "token", "said", "hint"),
        [
            (answers(503, Retry_After="7"), None, "is busy", "Try again in 7 s."),
            (answers(503, Retry_After="soon"), None, "is busy", "later"),
            (answers(503, Retry_After="9" * 300), None, "is busy", "later"),
            (answers(503, Retry_After="-7"), None, "is busy", "later"),
            (answers(503, X_Personaplex_Error="busy"), None, "is busy: all places are taken", "later"),
            (answers(503, X_Personaplex_Error="slow"), None, "is busy: its model has all it can do", "later"),
            (answers(503, X_Personaplex_Error="loading"), None, "is still loading its model", "later"),
            (answers(421), None, "does not know this name", "--origin"),
            (answers(401), None, "requires a token", "--token"),
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
        serve: Serve,
        talk: Call,
    ) -> None:
        here = talk(serve(refuse=refuse).url, token=token)
        with pytest.raises(NetworkError, match=said) as caught:
            here.begin()
        assert hint in caught.value.hint and Phase.DISCONNECTED not in here.states

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
    def test_a_server_that_ends_it(self, script: Script, said: str, serve: Serve, talk: Call) -> None:
        here = talk(serve(script).url)
        with pytest.raises(NetworkError, match=said):
            here.begin()
            here.until(lambda: False)

    @pytest.mark.parametrize("first", ['{"type": "ready"}', "{}"])
    def test_another_protocol_is_known_by_its_first_message(self, first: str, serve: Serve, talk: Call) -> None:
        async def other(guest: Guest) -> None:
            await guest.socket.send_str(first)
            await guest.hear()

        with pytest.raises(NetworkError, match="speaks another protocol") as caught:
            talk(serve(other).url).begin()
        assert "Leave the path away: ws://127.0.0.1" in caught.value.hint

    def test_unknown_messages_are_ignored(self, serve: Serve, talk: Call) -> None:
        async def odd(guest: Guest) -> None:
            await guest.socket.send_str("hello")
            await guest.socket.ping(b"are you there?")
            for message in (b"\x77?", b"\x06", HANDSHAKE, b"\x06", b"\xff\xff", METADATA + b"{}"):
                await guest.say(message)
            await echo_on(guest)

        here = talk(serve(odd).url)
        here.begin()
        here.until(lambda: bool(here.of(Network)))  # which may come before the first sound does
        here.until(lambda: len(here.step().pcm) > 0)

    def test_no_server_there(self, serve: Serve, talk: Call) -> None:
        with FakeServer() as server:
            pass
        with pytest.raises(NetworkError, match="Cannot reach") as caught:
            talk(server.url).begin()
        assert "personaplex serve" in caught.value.hint
        with pytest.raises(NetworkError, match="no such host"):
            talk("ws://nowhere.invalid").begin()

    def test_certificates(self, tmp_path: Path, serve: Serve, talk: Call) -> None:
        subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
        subprocess.run([*new, *files, *subject], check=True, capture_output=True)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
        server = serve(tls=context)
        with pytest.raises(NetworkError, match=r"certificate of .* is not trusted: self-signed") as caught:
            talk(server.url).begin()
        assert "--insecure" in caught.value.hint
        here = talk(server.url, insecure=True)
        here.begin()
        here.step(SILENT_FRAME)
        with pytest.raises(NetworkError) as caught:
            talk(server.url.replace("wss", "ws")).begin()
        assert "wss://" in caught.value.hint or "address" in caught.value.hint
        with pytest.raises(NetworkError, match="does not speak TLS"):
            talk(serve().url.replace("ws", "wss")).begin()

    def test_a_server_that_says_nothing_is_given_up(
        self, serve: Serve, talk: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def deaf(guest: Guest) -> None:
            """It hears no pings either, as one that waits for its lock."""
            await gone.wait()

        gone = asyncio.Event()
        monkeypatch.setattr(connection, "READY_TIMEOUT", 0.2)
        server = serve(deaf)
        with pytest.raises(Disconnected, match="silent") as caught:
            talk(server.url).begin()
        assert "another conversation" in caught.value.hint
        server.loop.call_soon_threadsafe(gone.set)


def test_a_goodbye_is_said_once(serve: Serve, talk: Call) -> None:
    here = talk(serve(says(HANDSHAKE, FAILURE + b"The server shuts down.", code=1001)).url, paced=True)
    here.begin()
    with pytest.raises(NetworkError, match="ended the conversation: The server shuts down"):
        here.until(lambda: False)
    assert not here.of(Note)


def test_an_error_that_ends_nothing_is_a_note(serve: Serve, talk: Call) -> None:
    async def complains(guest: Guest) -> None:
        await guest.say(HANDSHAKE)
        await guest.say(FAILURE + b"Speak up.")
        await guest.say(FAILURE + b"Louder.")
        await echo_on(guest)

    here = talk(serve(complains).url)
    here.begin()
    here.until(lambda: len(here.of(Note)) == 2)
    assert [note.text.partition(": ")[2] for note in here.of(Note)] == ["Speak up.", "Louder."]
