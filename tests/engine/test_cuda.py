"""What only a CUDA GPU can show: that what was recorded, packed and streamed answers there as it does on the CPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import CPU, FP32, load_golden

from personaplex_cli.character import Prompt, Sampling
from personaplex_cli.engine.engine import Engine
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.prompting import lay_out
from personaplex_cli.engine.quantised import why_no_kernels
from personaplex_cli.events import Note
from personaplex_cli.library.weights import WEIGHTS, open_folder, voice_file
from personaplex_cli.loader.checkpoint import load_lm
from personaplex_cli.loader.load import Demand, load_engine
from personaplex_cli.loader.memory_plan import EMBEDDINGS
from personaplex_cli.loader.offload import StreamedLayers, waits_in_main_memory
from personaplex_cli.samples import FRAME

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

GPU = torch.device("cuda", 0)
GOLDENS = sorted((Path(__file__).parents[1] / "data/golden").glob("golden-*.json"))


@pytest.fixture(autouse=True)
def whole_precision() -> Iterator[None]:
    """fp32 shall be fp32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield


@pytest.fixture
def prompt(demo_folder: Path) -> Prompt:
    return Prompt("You are kind.", voice_file(open_folder(demo_folder), "NATF2.pt"), Sampling(seed=3))


def engine_for(folder: Path, precision: str = "fp32") -> Engine:
    return load_engine(open_folder(folder), Demand("cuda", precision), lambda event: None)


def held(engine: Engine, prompt: Prompt, frames: int = 40) -> list[tuple[bytes, str]]:
    engine.begin(prompt)
    noise = np.random.default_rng(1).normal(0.0, 0.1, (frames, FRAME)).astype(np.float32)
    return [(reply.pcm.tobytes(), reply.text) for reply in map(engine.step, noise)]


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
@pytest.mark.parametrize("streamed", [0, 1])
def test_tokens_are_the_references(path: Path, streamed: int, tmp_path: Path) -> None:
    golden = load_golden(path)
    layers = golden.sizes["num_layers"]

    def place(name: str) -> torch.device:
        waits = waits_in_main_memory(name, layers, streamed) or name.startswith(EMBEDDINGS)
        return CPU if waits else GPU

    lm = load_lm(golden.write_weights(tmp_path / WEIGHTS), golden.sizes, FP32, place)
    talk = TokenGenerator(lm, StreamedLayers(lm.transformer.layers, streamed, GPU) if streamed else None)
    talk.begin(lay_out(golden.codes("voice"), golden.data["text_prompt"], talk.rows), Sampling(greedy=True))
    answers = [talk.step(user) for user in golden.codes("user").T[:-1]]
    assert [text for text, _ in answers] == golden.data["expected_text"]
    assert torch.equal(torch.tensor([codes for _, codes in answers]).T, golden.codes("expected_audio"))


def test_graphs_are_recorded_and_change_nothing(demo_folder: Path, prompt: Prompt) -> None:
    engine = engine_for(demo_folder)
    plain = held(engine, prompt, 250)  # past the first span of the ring
    told: list[Any] = []
    engine.warm_up(prompt, told.append)
    assert any("equal to the plain way" in each.text for each in told if isinstance(each, Note)), told
    assert engine.recorded == 1 + 5 + 1 + 1
    assert held(engine, prompt, 250) == plain


def test_no_frame_waits_but_for_its_answer(demo_folder: Path, prompt: Prompt) -> None:
    engine = engine_for(demo_folder)
    engine.warm_up(prompt)
    engine.begin(prompt)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            engine.step(np.zeros(FRAME, dtype=np.float32))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_stays_flat(demo_folder: Path, prompt: Prompt) -> None:
    engine = engine_for(demo_folder)
    engine.warm_up(prompt)
    held(engine, prompt)
    before = torch.cuda.memory_allocated()
    held(engine, prompt, 200)
    assert torch.cuda.memory_allocated() == before


def test_the_kernels_work() -> None:
    pytest.importorskip("triton", reason="there is no Triton for this system")
    assert why_no_kernels() == ""


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "int4"])
def test_every_precision_talks(demo_folder: Path, prompt: Prompt, precision: str) -> None:
    engine = engine_for(demo_folder, precision)
    engine.warm_up(prompt)
    first = held(engine, prompt)
    assert held(engine, prompt) == first
    assert all(np.isfinite(np.frombuffer(sound, dtype=np.float32)).all() for sound, _ in first)
