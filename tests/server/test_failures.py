"""What goes wrong at the server."""

import asyncio
from pathlib import Path

import pytest
from runningserver import (
    SEED,
    RunningServer,
    connected,
    fetched,
    next_json,
    next_message,
    opus,
    pcm,
    samples,
    speech,
    talk_moshi,
)

from personaplex_cli.cli.terminal import traces
from personaplex_cli.engine.pipeline import FramePipeline
from personaplex_cli.errors import AudioError, ModelError, NetworkError, UsageError
from personaplex_cli.options import AccessOptions, ServeOptions
from personaplex_cli.protocols.wire import PATH, Failure, Handshake
from personaplex_cli.samples import FRAME, pcm16
from personaplex_cli.server.metrics import Metrics


def test_a_talk_that_fails_ends_alone_and_the_next_one_is_served(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FramePipeline.run

    def fail_once(*_: object) -> None:
        monkeypatch.setattr(FramePipeline, "run", run)
        raise ZeroDivisionError

    async def fail(server: RunningServer) -> None:
        async with connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            monkeypatch.setattr(FramePipeline, "run", fail_once)
            await socket.send_bytes(pcm16(speech(1)))
            error = await next_json(socket, "error")
            assert error["message"] == "The server failed." and "ZeroDivision" not in str(error)
            await next_json(socket, "state")
            await socket.receive()
            assert socket.close_code == 1011

    with RunningServer(random_folder) as server:
        asyncio.run(fail(server))
        asyncio.run(pcm(server))
        assert any("ZeroDivisionError" in note for note in server.notes)


@pytest.mark.parametrize("debug", [False, True])
def test_where_an_error_comes_from_is_shown_to_those_who_ask(
    server: RunningServer, debug: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Metrics, "text", lambda self: 1 / 0)
    with traces(debug):
        assert asyncio.run(fetched(f"{server.url}/metrics"))[0] == 500
    said = capfd.readouterr().err
    assert ("Traceback" in said and "test_failures.py" in said) is debug
    assert any("ZeroDivisionError" in note for note in server.notes)


def test_a_model_that_does_not_recover_ends_the_server(random_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(server: RunningServer) -> None:
        async with connected(server.socket("/pcm")) as socket:
            await next_json(socket, "ready")
            monkeypatch.setattr(FramePipeline, "run", lambda *_: 1 / 0)
            await socket.send_bytes(pcm16(speech(1)))
            async for _ in socket:
                pass
            assert socket.close_code == 1011  # not "the server shuts down": it did not mean to

    with pytest.raises(ZeroDivisionError), RunningServer(random_folder) as server:
        asyncio.run(fail(server))
        server.wait(lambda: False)


def test_without_a_model_it_ends_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a PersonaPlex model"), RunningServer(tmp_path):
        pass


def test_a_port_that_is_taken_is_refused(server: RunningServer, random_folder: Path) -> None:
    port = int(server.url.rpartition(":")[2])
    with (
        pytest.raises(NetworkError, match=f"port {port} cannot be opened"),
        RunningServer(random_folder, access=AccessOptions(port=port)),
    ):
        pass


def test_clients_get_an_error_when_it_shuts_down(random_folder: Path, tmp_path: Path) -> None:
    async def talk(server: RunningServer) -> None:
        async with connected(server.socket(f"{PATH}?{SEED}")) as socket:
            await next_message(socket, Handshake)
            await talk_moshi(socket, opus(speech(20)))
            async with connected(server.socket("/pcm")) as waiting:
                await next_json(waiting, "state")
                server.app.stop()
                assert "shuts down" in (await next_message(socket, Failure)).text
                assert (await next_json(waiting, "error"))["message"] == "The server shuts down."
                await socket.receive()
                assert socket.close_code == 1001

    with RunningServer(random_folder, ServeOptions(queue=1, record=tmp_path)) as server:
        asyncio.run(talk(server))
    (kept,) = tmp_path.glob("*/conversation.wav")
    assert len(samples(kept)) >= 19 * FRAME


def test_what_cannot_work_is_refused_before_the_model_loads(tmp_path: Path) -> None:
    spoiled = tmp_path / "cert.pem"
    spoiled.write_text("no")
    access = AccessOptions(port=0, ssl_cert=spoiled, ssl_key=spoiled)
    with pytest.raises(UsageError, match="certificate cannot be used"), RunningServer(tmp_path, access=access):
        pass
    with pytest.raises(AudioError):
        RunningServer(tmp_path, ServeOptions(record=Path("/proc/nowhere")))
    with pytest.raises(UsageError):
        RunningServer(tmp_path, ServeOptions(persona="nobody"))


def test_a_recording_that_fails_does_not_end_the_talk(random_folder: Path, tmp_path: Path) -> None:
    with RunningServer(random_folder, ServeOptions(record=tmp_path / "talks")) as server:
        (tmp_path / "talks").rmdir()
        (tmp_path / "talks").touch()
        assert len(asyncio.run(pcm(server))) == 5 * 2 * FRAME
        assert any("not recorded" in note and "talks" in note for note in server.notes)
