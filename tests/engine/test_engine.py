"""The engine, whole: sound in, sound and text out, on the demo model through the real loader."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Prompt, Sampling
from personaplex_cli.conversation import converse
from personaplex_cli.engine.engine import Engine
from personaplex_cli.errors import DeviceError, ModelError, UsageError
from personaplex_cli.events import Event, Note
from personaplex_cli.library.weights import VOICES, ModelFiles, open_folder, voice_file
from personaplex_cli.loader.device import choose_device, out_of_memory_explained
from personaplex_cli.loader.load import Demand, load_engine
from personaplex_cli.loader.precision import precision_for
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples


@pytest.fixture
def files(demo_folder: Path) -> ModelFiles:
    return open_folder(demo_folder)


def load(files: ModelFiles, precision: str = "auto", cpu_offload: bool = False) -> tuple[Engine, list[Event]]:
    heard: list[Event] = []
    return load_engine(files, Demand("cpu", precision, cpu_offload), heard.append), heard


def speech(seconds: float, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    return (random.standard_normal(round(seconds * SAMPLE_RATE)) * 0.1).astype(np.float32)


def held(engine: Engine, prompt: Prompt, recording: Samples) -> tuple[Samples, list[str]]:
    engine.begin(prompt)
    audio = Recording(recording)
    texts = [step.text for step in converse(engine, audio)]
    return audio.answer, texts


def saved_voice(files: ModelFiles, name: str = "NATF2") -> Path:
    return voice_file(files, f"{name}.pt")


def test_same_prompt_and_seed_same_talk_also_the_second_time(files: ModelFiles) -> None:
    engine, _ = load(files)
    prompt = Prompt("You are kind.", saved_voice(files), Sampling(seed=3))
    first, text = held(engine, prompt, speech(1))
    held(engine, Prompt("", speech(0.5, seed=9), Sampling(seed=4)), speech(1, seed=5))
    second, same_text = held(engine, prompt, speech(1))
    assert np.array_equal(first, second) and text == same_text
    assert len(first) == SAMPLE_RATE and np.abs(first).max() > 0


@pytest.mark.parametrize("change", ["voice", "text", "seed", "sound"])
def test_everything_that_is_asked_for_makes_a_difference(files: ModelFiles, change: str) -> None:
    engine, _ = load(files)
    usual: dict[str, Any] = {"voice": "NATF2", "text": "You are kind.", "seed": 1, "sound": 1}
    other = {**usual, change: {"voice": "VARM3", "text": "You are rude.", "seed": 2, "sound": 2}[change]}
    answers = [
        held(
            engine,
            Prompt(each["text"], saved_voice(files, each["voice"]), Sampling(seed=each["seed"])),
            speech(1, each["sound"]),
        )
        for each in (usual, other)
    ]
    assert not np.array_equal(answers[0][0], answers[1][0])


def test_what_the_user_says_is_heard_at_once_and_never_before(files: ModelFiles) -> None:
    engine, _ = load(files)
    prompt = Prompt("", saved_voice(files), Sampling(greedy=True))
    recording = speech(1)
    for frame in (0, 5):
        louder = recording.copy()
        louder[frame * FRAME : (frame + 1) * FRAME] *= -3
        (before, _), (after, _) = held(engine, prompt, recording), held(engine, prompt, louder)
        assert np.array_equal(before[: frame * FRAME], after[: frame * FRAME])
        differs = np.flatnonzero(before != after)
        # Code 1 is read in call k, the other seven one position later; each alone can be enough.
        assert len(differs) and frame * FRAME <= differs[0] < (frame + 2) * FRAME


def test_the_prompt_costs_what_it_says(files: ModelFiles) -> None:
    engine, _ = load(files)
    assert engine.begin(Prompt("", saved_voice(files))) == 12 + 6 + 6
    assert engine.begin(Prompt("", speech(1.0))) == 13 + 6 + 6  # the last frame of the sample is filled up
    assert engine.begin(Prompt("the", saved_voice(files))) > 12 + 6 + 6


def test_a_prompt_longer_than_the_context_is_refused_and_the_engine_stays_usable(files: ModelFiles) -> None:
    engine, _ = load(files)
    with pytest.raises(UsageError, match="remembers 3000"):
        engine.begin(Prompt("word " * 3000, saved_voice(files)))
    assert len(held(engine, Prompt("", saved_voice(files)), speech(0.2))[1]) == 3


def test_on_the_cpu_offload_is_said_to_change_nothing(files: ModelFiles) -> None:
    _, heard = load(files, cpu_offload=True)
    assert any("changes nothing" in event.text for event in heard if isinstance(event, Note))


def test_on_the_cpu_fewer_bits_are_said_to_cost_time(files: ModelFiles) -> None:
    _, heard = load(files, "int8")
    assert any("more time" in event.text for event in heard if isinstance(event, Note))


@pytest.mark.parametrize("precision", ["bf16", "fp32", "int8", "int4"])
def test_precisions_run(files: ModelFiles, precision: str) -> None:
    engine, _ = load(files, precision)
    assert engine.precision == precision
    answer, _ = held(engine, Prompt("", saved_voice(files)), speech(0.5))
    assert np.isfinite(answer).all()


def test_a_voice_file_that_fits_another_model_is_refused(files: ModelFiles, tmp_path: Path) -> None:
    engine, _ = load(files)
    golden_voice = Path(__file__).parents[1] / "data/golden/golden-b.voice.pt"
    with pytest.raises(ModelError, match="another model"):
        engine.begin(Prompt("", golden_voice))
    page = tmp_path / "voice.pt"
    page.write_text("<html></html>")
    with pytest.raises(ModelError, match="web page"):
        engine.begin(Prompt("", page))


def test_no_event_and_no_reply_holds_a_tensor(files: ModelFiles) -> None:
    engine, heard = load(files)
    engine.begin(Prompt("", saved_voice(files)))
    reply = engine.step(np.zeros(FRAME, dtype=np.float32))
    assert type(reply.pcm) is np.ndarray and reply.pcm.dtype == np.float32 and reply.pcm.shape == (FRAME,)
    values: Sequence[Any] = [reply.text, *vars(reply.timings).values(), *(vars(event) for event in heard)]
    assert not any(isinstance(value, torch.Tensor) for value in values)
    assert min(vars(reply.timings).values()) >= 0


def test_a_model_folder_needs_no_archive_if_its_voices_are_unpacked(files: ModelFiles, tmp_path: Path) -> None:
    shutil.copytree(files.folder, tmp_path / "model")
    (tmp_path / "model/voices").mkdir()
    shutil.copy(saved_voice(files), tmp_path / "model/voices/MINE.pt")
    (tmp_path / "model" / VOICES).unlink()
    assert voice_file(open_folder(tmp_path / "model"), "MINE.pt").parent == tmp_path / "model/voices"


class TestDevice:
    def test_auto_is_the_cpu_where_there_is_no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        device, why = choose_device("auto")
        assert device.type == "cpu" and "no GPU" in why

    @pytest.mark.parametrize(("name", "message"), [("cuda", "no CUDA device"), ("cuda:3", "no CUDA"), ("mps", "MPS")])
    def test_a_gpu_that_is_not_there(self, name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(DeviceError, match=message):
            choose_device(name)

    @pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "CPU "])
    def test_no_such_device(self, name: str) -> None:
        with pytest.raises(UsageError, match="no device"):
            choose_device(name)

    @pytest.mark.parametrize(
        ("capability", "architectures", "fits"),
        [
            ((8, 9), ["sm_80", "sm_86", "sm_90"], True),
            ((12, 0), ["sm_80", "sm_90", "compute_90"], True),  # compiled on first use
            ((12, 0), ["sm_80", "sm_90"], False),
            ((6, 1), ["sm_70", "sm_90", "compute_90"], False),
            ((9, 0), ["sm_90a"], True),
        ],
    )
    def test_a_gpu_this_torch_was_not_built_for(
        self, capability: tuple[int, int], architectures: list[str], fits: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {
            "is_available": True,
            "device_count": 2,
            "get_device_capability": capability,
            "get_arch_list": architectures,
            "get_device_name": "Some GPU",
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
        with pytest.raises(DeviceError, match="cuda:2"):
            choose_device("cuda:2")
        if fits:
            assert choose_device("cuda:1")[0] == torch.device("cuda", 1)
        else:
            with pytest.raises(DeviceError, match="not among the GPUs"):
                choose_device("cuda:1")

    def test_precision_follows_the_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert precision_for("auto", torch.device("cpu")).dtype == torch.float32
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
        assert precision_for("auto", torch.device("cuda", 0)).name == "fp16"
        assert precision_for("int8", torch.device("cuda", 0)).dtype == torch.float16
        with pytest.raises(UsageError, match="Old GPU cannot"):
            precision_for("bf16", torch.device("cuda", 0))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
        assert precision_for("auto", torch.device("cuda", 0)).name == "bf16"
        with pytest.raises(UsageError, match="no precision"):
            precision_for("int3", torch.device("cpu"))

    @pytest.mark.parametrize(
        "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: x")]
    )
    def test_memory_that_ran_out_is_explained(self, error: Exception) -> None:
        with pytest.raises(DeviceError, match="too small"), out_of_memory_explained():
            raise error


class TestHush:
    def test_a_new_talk_is_not_hushed(self, files: ModelFiles) -> None:
        engine, _ = load(files)
        prompt = Prompt("", saved_voice(files), Sampling(seed=1))
        first, _ = held(engine, prompt, speech(1))
        engine.hush()
        assert np.array_equal(held(engine, prompt, speech(1))[0], first)

    def test_nothing_is_said_meanwhile(self, files: ModelFiles) -> None:
        engine, _ = load(files)
        engine.begin(Prompt("", saved_voice(files), Sampling(seed=1)))
        engine.hush()
        assert "".join(engine.step(np.zeros(FRAME, dtype=np.float32)).text for _ in range(100)) == ""
        for _ in range(60):
            engine.step(np.zeros(FRAME, dtype=np.float32))
        assert engine.talk.position == 24 + 160


def test_a_sample_is_encoded_once_and_gives_the_same_talk_again(files: ModelFiles, monkeypatch: Any) -> None:
    engine, _ = load(files)
    prompt, other = Prompt("", speech(0.5, seed=9)), Prompt("", speech(0.5, seed=8))
    first, _ = held(engine, prompt, speech(0.5))
    again, _ = held(engine, prompt, speech(0.5))
    different, _ = held(engine, other, speech(0.5))
    assert np.array_equal(first, again) and not np.array_equal(first, different)


def test_memory_that_runs_out_in_the_middle_is_explained_too(files: ModelFiles, monkeypatch: Any) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine, _ = load(files)
    monkeypatch.setattr(engine.mimi, "encode", full)
    with pytest.raises(DeviceError, match="too small"):
        engine.step(np.zeros(FRAME, dtype=np.float32))


def test_warming_up_leaves_no_trace(files: ModelFiles) -> None:
    engine, _ = load(files)
    prompt = Prompt("You are kind.", saved_voice(files), Sampling(seed=3))
    cold, _ = held(engine, prompt, speech(0.5))
    assert engine.warm_up(prompt) > 0
    assert np.array_equal(held(engine, prompt, speech(0.5))[0], cold)
