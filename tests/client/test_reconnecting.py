"""Connections that break: when the server is called again, when not, and that it can be ended."""

import threading
import time

import pytest
from fakeserver import HANDSHAKE, Guest, Wire, answers, echo, says
from remote import Call, Lost, Serve

from personaplex_cli.conversation import Disconnected
from personaplex_cli.errors import NetworkError
from personaplex_cli.events import Network, Note, Phase
from personaplex_cli.samples import FRAME, SILENT_FRAME


class TestReconnecting:
    def test_a_cut_wire_is_told_and_called_again(self, serve: Serve, talk: Call) -> None:
        server = serve()
        with Wire(server) as wire:
            here = talk(wire.url)
            here.begin()
            here.until(lambda: bool(here.of(Network)))
            wire.cut()
            with pytest.raises(Lost):
                here.until(lambda: False)
            here.began()
            called = [Phase.CONNECTING, Phase.WARMING_UP]
            assert here.states == [*called, Phase.DISCONNECTED, *called]
            assert any("Reconnecting" in note.text and "broke off" in note.text for note in here.of(Note))
            assert len(here.until(lambda: len(server.guests[1].said) > 6)) >= 2 * FRAME
            here.engine.close()

    def test_it_waits_longer_and_longer(self, serve: Serve, talk: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        server = serve()
        here = talk(server.url)
        here.begin()
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

        here.engine._closed = Clock()
        server.loop.call_soon_threadsafe(server.guests[0].cut)
        with pytest.raises(Lost):
            here.until(lambda: False)
        here.began()
        assert waited == [1, 2, 4, 8, 16, 30, 30, 30]
        assert [note.text.count("in 30 s") for note in here.of(Note)][-3:] == [1, 1, 1]

    def test_a_server_that_shuts_down_is_called_again_one_that_ends_it_is_not(self, serve: Serve, talk: Call) -> None:
        for code, error in ((1001, Lost), (1011, Lost), (1008, NetworkError), (4400, NetworkError)):
            here = talk(serve(says(HANDSHAKE, code=code)).url)
            here.begin()
            with pytest.raises(error):
                here.until(lambda: False)

    def test_a_recording_is_not_tried_again(self, serve: Serve, talk: Call) -> None:
        server = serve()
        here = talk(server.url, paced=True)
        here.begin()
        server.refuse = answers(503)
        with pytest.raises(Disconnected):
            here.begin()
        assert Phase.DISCONNECTED not in here.states

    @pytest.mark.parametrize("where", ["before", "dialling", "warming up", "live", "disconnected"])
    def test_it_can_be_ended_at_any_time(
        self, where: str, serve: Serve, talk: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From another thread, and no thread is left waiting; `talk` counts them."""
        monkeypatch.undo()

        async def silent(guest: Guest) -> None:
            await guest.hear()

        server = serve(silent if where == "warming up" else echo)
        with Wire(server, stuck=where == "dialling") as wire:
            here = talk(wire.url)
            ended: list[Exception] = []

            def hold() -> None:
                try:
                    here.begin()
                    if where == "disconnected":
                        server.refuse = answers(503)
                        wire.cut()
                    while True:
                        try:
                            here.step(SILENT_FRAME)
                        except Lost:
                            here.began()
                except Exception as error:  # all of them, so that the assertion shows what it was
                    ended.append(error)

            reached = {
                "before": lambda: True,
                "dialling": lambda: Phase.CONNECTING in here.states,
                "warming up": lambda: Phase.WARMING_UP in here.states,
                "live": lambda: any(guest.said for guest in server.guests),
                "disconnected": lambda: Phase.DISCONNECTED in here.states,
            }
            holding = threading.Thread(target=hold)
            if where == "before":
                here.engine.close()
            holding.start()
            while not reached[where]():
                time.sleep(0.001)
            here.engine.close()
            holding.join(timeout=30)
            assert not holding.is_alive()
            assert [type(error) for error in ended] == [Disconnected], ended
