"""What only a CUDA GPU can show: that what was recorded, packed and streamed answers there as it does on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakecuda import ABOUT_NOTICING_WAITS
from golden import CPU, FP32, Golden, TokenTalk, load_golden
from longtalk import CONTEXT, GOLDEN, Talker, held

from personaplex_cli.character import Character, Sampling
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.engine.prompting import lay_out
from personaplex_cli.engine.quantised import why_no_kernels
from personaplex_cli.engine.steps import why_plain
from personaplex_cli.events import Listener, Note, ignore
from personaplex_cli.loader.checkpoint import load_lm
from personaplex_cli.loader.load import load_cold
from personaplex_cli.loader.offload import StreamedLayers, waits_in_main_memory
from personaplex_cli.loader.precision import EMBEDDINGS
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

GPU = torch.device("cuda", 0)
GOLDENS = sorted((Path(__file__).parents[1] / "data/golden").glob("golden-*.json"))


@pytest.fixture(autouse=True)
def whole_precision() -> None:
    """fp32 shall be fp32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture
def character() -> Character:
    return Character("kind", "You are kind.", "NATF2", "NATF2.pt", Sampling(seed=3))


def engine_for(folder: Path, precision: str = "fp32", listen: Listener = ignore) -> LocalEngine:
    return load_cold(ModelOptions(str(folder), device="cuda", precision=precision), listen)


def answers(engine: LocalEngine, character: Character, frames: int = 40) -> list[tuple[bytes, str]]:
    engine.begin(0, character)
    list(engine.prefill() or ())
    noise = np.random.default_rng(1).normal(0.0, 0.1, (frames, FRAME)).astype(np.float32)
    replies: list[Any] = [engine.step({0: frame})[0] for frame in noise]
    return [(reply.pcm.tobytes(), reply.text) for reply in replies]


def talk_on_gpu(golden: Golden, folder: Path, streamed: int, **sizes: int) -> TokenTalk:
    """As many of its layers as are `streamed` wait in main memory."""
    wanted = {**golden.sizes, **sizes}

    def place(name: str) -> torch.device:
        waits = waits_in_main_memory(name, wanted["num_layers"], streamed) or name.startswith(EMBEDDINGS)
        return CPU if waits else GPU

    lm = load_lm(golden.write_weights(folder / golden.spec.weights_file), wanted, FP32, place)
    return TokenTalk(lm, golden.spec, StreamedLayers(lm.transformer.layers, streamed, GPU) if streamed else None)


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
@pytest.mark.parametrize("streamed", [0, 1])
def test_tokens_are_the_references(path: Path, streamed: int, tmp_path: Path) -> None:
    golden = load_golden(path)
    talk = talk_on_gpu(golden, tmp_path, streamed)
    talk.begin(lay_out(golden.codes("voice"), golden.data["text_prompt"], talk.spec), Sampling(greedy=True))
    answers = [talk.step(user) for user in golden.codes("user").T[:-1]]
    assert [text for text, _ in answers] == golden.data["expected_text"]
    assert torch.equal(torch.tensor([codes for _, codes in answers]).T, golden.codes("expected_audio"))


def test_graphs_are_recorded_and_change_nothing(random_folder: Path, character: Character) -> None:
    told: list[Any] = []
    engine = engine_for(random_folder, listen=told.append)
    plain = answers(engine, character, 250)  # past the first span of the ring
    engine.warm_up(character)
    assert any("equal to the plain way" in each.text for each in told if isinstance(each, Note)), told
    assert len(engine.pipeline.recordings) == 1 + len(engine.model.generator.spans) + 1 + 1
    assert answers(engine, character, 250) == plain


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_the_second_gpu_answers_like_the_first(random_folder: Path, character: Character, precision: str) -> None:
    first, second = (load_cold(ModelOptions(str(random_folder), None, f"cuda:{each}", precision)) for each in (0, 1))
    torch.cuda.set_device(0)  # as in a thread that did not load
    second.warm_up(character)
    assert held(second, character) == held(first, character)


@pytest.mark.filterwarnings(ABOUT_NOTICING_WAITS)
def test_no_frame_waits_but_for_its_answer(random_folder: Path, character: Character) -> None:
    engine = engine_for(random_folder)
    engine.warm_up(character)
    engine._begin(0, character)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            engine.pipeline.run({0: np.zeros(FRAME, dtype=np.float32)})
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_stays_flat(random_folder: Path, character: Character) -> None:
    engine = engine_for(random_folder)
    engine.warm_up(character)
    answers(engine, character)
    before = torch.cuda.memory_allocated()
    answers(engine, character, 200)
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("streamed", [0, 1])
def test_a_renewed_memory_is_that_of_the_cpu(streamed: int, tmp_path: Path) -> None:
    here, there = Talker(), Talker()
    held(GOLDEN.talk(tmp_path, context=CONTEXT), {0: here})
    held(talk_on_gpu(GOLDEN, tmp_path, streamed, context=CONTEXT), {0: there})
    assert len(there.events) >= 2 and there == here


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_kernels_work(dtype: torch.dtype) -> None:
    pytest.importorskip("triton", reason="there is no Triton for this system")
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability(GPU) < (8, 0):
        pytest.skip("bf16 is newer than this GPU")
    assert why_no_kernels(GPU, dtype) == "" and why_plain(GPU, dtype) == ""


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "int4"])
def test_every_precision_talks(random_folder: Path, character: Character, precision: str) -> None:
    engine = engine_for(random_folder, precision)
    engine.warm_up(character)
    first = answers(engine, character)
    assert answers(engine, character) == first
    assert all(np.isfinite(np.frombuffer(sound, dtype=np.float32)).all() for sound, _ in first)
