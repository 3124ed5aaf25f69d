"""Memory that runs out, and a device that is lost, wherever that happens: who talks learns of it, the rest is kept."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runningserver import RunningServer, connected, next_json, samples, speech

from personaplex_cli.audio.recording import Recording, write_wav
from personaplex_cli.character import Character, Sampling
from personaplex_cli.cli import main as cli
from personaplex_cli.conversation import Conversation, converse_all
from personaplex_cli.engine.pipeline import FramePipeline
from personaplex_cli.errors import DeviceError
from personaplex_cli.events import Ended
from personaplex_cli.loader.load import load
from personaplex_cli.options import ModelOptions, ServeOptions
from personaplex_cli.samples import FRAME, SILENT_FRAME, pcm16

KIND = Character("kind", "You are kind.", "NATF2", "NATF2.pt", Sampling(seed=3))
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96.00 MiB.")
LOST = RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later.")


def fails(error: Exception, after: int = 0) -> Callable[..., Any]:
    """In place of `FramePipeline.run`: it fails for good after so many steps."""
    run, steps = FramePipeline.run, iter(range(after))

    def failing(*rest: Any) -> Any:
        if next(steps, None) is None:
            raise error
        return run(*rest)

    return failing


def recordings(folder: Path, count: int) -> None:
    folder.mkdir()
    for index in range(count):
        with (folder / f"{index}.wav").open("wb") as file:
            write_wav(file, speech(10, seed=index))


def run(folder: Path, model: Path, *more: str) -> int:
    command = ["run", str(folder / "in"), "-o", str(folder / "out"), "--model", str(model), "--device", "cpu"]
    return cli.program([*command, "--seed", "3", *more])


@pytest.mark.parametrize("where", ["load_mimi", "load_lm"])
def test_without_memory_for_the_model_the_program_says_what_to_do(
    where: str, random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise NO_MEMORY

    recordings(tmp_path / "in", 1)
    monkeypatch.setattr(f"personaplex_cli.loader.load.{where}", full)
    assert run(tmp_path, random_folder) == DeviceError.exit_code
    said = capsys.readouterr().err
    assert "too small for the model" in said and "--precision int8" in said and "Traceback" not in said
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.wav"))


def test_without_memory_for_a_prompt_that_conversation_ends_alone(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = FramePipeline.begin
    first = iter([NO_MEMORY])

    def failing(*rest: Any) -> Iterator[None]:
        if error := next(first, None):
            raise error
        return (yield from begin(*rest))

    with closing(load(ModelOptions(str(random_folder), device="cpu"), rehearsal=KIND)) as model:
        monkeypatch.setattr(FramePipeline, "begin", failing)
        talks = [Conversation(KIND, Recording(np.tile(SILENT_FRAME, 3))) for _ in range(2)]
        ends = [event.error for _, event in converse_all(model, talks) if isinstance(event, Ended)]
    assert isinstance(ends[0], DeviceError) and ends[1] is None
    assert len(talks[1].audio.answer) == 3 * FRAME  # type: ignore[attr-defined]


def test_a_device_lost_among_many_files_keeps_what_was_answered(
    random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings(tmp_path / "in", 4)
    with monkeypatch.context() as patch:
        load_warm = load

        def loaded(*rest: Any) -> Any:
            model = load_warm(*rest)
            patch.setattr(FramePipeline, "run", fails(LOST, after=25))
            return model

        patch.setattr("personaplex_cli.loader.load.load", loaded)
        assert run(tmp_path, random_folder) == DeviceError.exit_code
    said = capsys.readouterr().err
    assert "The GPU has failed (CUDA error: unspecified launch failure)." in said and "Traceback" not in said
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.wav")}
    assert sorted(kept) == ["0.wav", "1.wav"]
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert {Path(line["input"]).stem for line in lines if "error" not in line} == {"0", "1"}
    assert run(tmp_path, random_folder, "--skip-existing") == 0
    assert len(list((tmp_path / "out").glob("*.wav"))) == 4
    assert all((tmp_path / "out" / name).read_bytes() == content for name, content in kept.items())


def test_a_device_lost_under_a_server_ends_it_and_every_recording_is_whole(
    random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(server: RunningServer) -> None:
        async with connected(server.socket("/pcm?seed=3")) as socket:
            await next_json(socket, "ready")
            monkeypatch.setattr(FramePipeline, "run", fails(LOST, after=5))
            await socket.send_bytes(pcm16(speech(12)))
            error = await next_json(socket, "error")
            assert "CUDA" not in str(error)  # no business of strangers
            async for _ in socket:
                pass
            assert socket.close_code == 1011

    serve = ServeOptions(record=tmp_path)
    with pytest.raises(DeviceError, match="The GPU has failed"), RunningServer(random_folder, serve) as server:
        asyncio.run(talk(server))
        server.wait(lambda: False)
    (wav,) = tmp_path.glob("*/conversation.wav")
    assert len(samples(wav)) == 5 * FRAME
    json.loads(wav.with_name("transcript.json").read_text())
