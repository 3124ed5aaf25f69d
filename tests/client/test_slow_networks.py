"""Networks that are slow, stuck or dead."""

import asyncio
import threading
from collections import deque

import numpy as np
import pytest
from fakeserver import HANDSHAKE, METADATA, SOUND, WORDS, Guest, Wire
from remote import Call, Lost, Remote, Serve, noise, through_opus

from personaplex_cli.audio.recording import Recording
from personaplex_cli.client import connection
from personaplex_cli.client import engine as client
from personaplex_cli.errors import NetworkError
from personaplex_cli.events import Glitch, Network, Note, Phase
from personaplex_cli.samples import FRAME, Samples


@pytest.mark.slow
class TestSlowNetworks:
    def test_delay_is_measured_and_nothing_is_lost(self, serve: Serve, talk: Call) -> None:
        server = serve()
        with Wire(server, delay=0.15) as wire:
            here = talk(wire.url, paced=True)
            here.begin()
            assert np.array_equal(*self.spoken(here, noise(20)))
            assert here.of(Network)[0].round_trip > 300
            here.engine.close()

    def test_while_it_is_stuck_the_oldest_is_dropped_and_nothing_piles_up(
        self, serve: Serve, talk: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "STALL_TIMEOUT", 0.3)
        monkeypatch.setattr(connection, "PING_INTERVAL", 0.05)
        server = serve()
        with Wire(server) as wire:
            here = talk(wire.url)
            here.begin()
            here.until(lambda: bool(here.of(Network)))
            wire.stuck = True
            for number in range(60):
                here.step(np.full(FRAME, number / 100, dtype=np.float32))
                assert len(here.engine._connection._waiting) <= client.MAX_UNSENT_FRAMES
            unsent = here.engine._connection.unsent
            assert unsent > 30  # most of what was said after the first third of a second
            assert [glitch.kind for glitch in here.of(Glitch)] == ["unsent"] * len(here.of(Glitch)) != []
            wire.stuck = False
            said = len(server.guests[0].said)
            heard = here.until(lambda: len(server.guests[0].said) > said + 8)
            assert len(heard) < (60 - unsent + 30) * FRAME  # no burst of old sound
            assert Phase.DISCONNECTED not in here.states
            here.engine.close()

    def test_a_recording_waits_for_a_server_that_is_slow_and_drops_what_comes_too_fast(
        self, serve: Serve, talk: Call
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
        here.begin()
        assert np.array_equal(*self.spoken(here, noise(60)))

    def test_a_recording_waits_while_the_network_is_stuck(self, serve: Serve, talk: Call) -> None:
        with Wire(serve()) as wire:
            here = talk(wire.url, paced=True)
            here.begin()
            threading.Timer(0.5, lambda: setattr(wire, "stuck", True)).start()
            threading.Timer(2.0, lambda: setattr(wire, "stuck", False)).start()
            heard, expected = self.spoken(here, noise(30))
            assert np.array_equal(heard, expected) and not here.engine._connection.unsent
            here.engine.close()

    @pytest.mark.parametrize("drops", [b"", WORDS + b" well", SOUND, METADATA + b"{}"])
    def test_a_recording_does_not_wait_forever(
        self, drops: bytes, serve: Serve, talk: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever comes meanwhile, if it is no sound."""
        monkeypatch.setattr(client, "ANSWER_TIMEOUT", 0.1)
        monkeypatch.setattr(client, "MAX_FRAMES_AHEAD", 1)

        async def listens(guest: Guest) -> None:
            async def drip() -> None:
                while drops:
                    await guest.say(drops)
                    await asyncio.sleep(0.001)

            await guest.say(HANDSHAKE)
            dripping = asyncio.create_task(drip())
            while await guest.hear() is not None:
                pass
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)

        here = talk(serve(listens).url, paced=True)
        here.begin()
        with pytest.raises(NetworkError, match="has stopped answering"):
            here.until(lambda: False)

    def spoken(self, here: Remote, frames: Samples) -> tuple[Samples, Samples]:
        """What came back of frames that were said, silence after them, and what should have."""
        expected = through_opus(frames)
        audio = Recording(frames.reshape(-1))
        for frame in audio.frames():
            audio.play(here.step(frame).pcm)
        return audio.answer, expected

    def test_a_dead_network_is_noticed(self, serve: Serve, talk: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "DEAD_TIMEOUT", 0.3)
        monkeypatch.setattr(connection, "PING_INTERVAL", 0.05)
        with Wire(serve()) as wire:
            here = talk(wire.url)
            here.begin()
            here.until(lambda: bool(here.of(Network)))
            wire.stuck = True
            with pytest.raises(Lost):
                here.until(lambda: False)
            wire.stuck = False
            here.began()
            assert "silent" in here.of(Note)[-1].text
            here.engine.close()
