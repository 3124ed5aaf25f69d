"""Our client against PyPI moshi's own server, `python -m moshi.server`, in a process of its own, with tiny weights."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from moshi.models import LMModel
from safetensors.torch import save_file

from personaplex_cli.audio.recording import read_recording, write_wav
from personaplex_cli.cli import main as cli
from personaplex_cli.library.spec import spec_of_folder
from personaplex_cli.samples import SAMPLE_RATE

QUESTION = Path(__file__).parents[2] / "examples/question.wav"
SAFETY_SECONDS = 100
# It waits for the GPU after warming up, whether there is one or not.
START = "import runpy, torch; torch.cuda.synchronize = lambda: None; runpy.run_module('moshi.server', run_name='x')"


@pytest.fixture(scope="module")
def moshi_server(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    folder = tmp_path_factory.mktemp("moshi")
    spec = spec_of_folder(random_folder)
    torch.manual_seed(1)
    save_file(LMModel(device="cpu", dtype=torch.bfloat16, **spec.lm).state_dict(), folder / "lm.safetensors")
    (folder / "mimi.json").write_text(json.dumps(spec.mimi))
    (folder / "config.json").write_text(json.dumps({**spec.lm, "mimi_config_name": f"file://{folder}/mimi.json"}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "host": "127.0.0.1",
        "port": port,
        "static": "none",
        "device": "cpu",
        "tokenizer": random_folder / spec.tokenizer_file,
        "moshi-weight": folder / "lm.safetensors",
        "mimi-weight": random_folder / spec.mimi_file,
        "config-path": folder / "config.json",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    environment = {**os.environ, "NO_TORCH_COMPILE": "1", "NO_CUDA_GRAPH": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", START, *arguments], stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + SAFETY_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_it_answers_a_recording_whole_again_and_again(
    moshi_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    question = read_recording(QUESTION)[: 2 * SAMPLE_RATE]
    for name in ("a", "b"):
        with Path(f"{name}.wav").open("wb") as file:
            write_wav(file, question)
    assert cli.program(["run", "a.wav", "b.wav", "-o", "out", "--server", moshi_server, "--seed", "1"]) == 0
    for name in ("a", "b"):
        answer = read_recording(Path(f"out/{name}.wav"))
        assert len(answer) == len(question) and answer.any()
        report = json.loads(Path(f"out/{name}.json").read_text())
        assert report["words"] and report["settings"]["model"] == ""  # it says nothing about itself
