"""A frame that is recorded once and replayed answers like one that is run: nothing in it is decided by Python."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from golden import CPU
from tape import record

from personaplex_cli.character import Character, Sampling
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.graphs import CapturedGraph, GraphRecorder, Part
from personaplex_cli.engine.mimi import MimiCodec
from personaplex_cli.errors import ModelError, PersonaplexError
from personaplex_cli.events import Note
from personaplex_cli.library.spec import spec_of_folder
from personaplex_cli.library.weights import open_folder
from personaplex_cli.loader.checkpoint import load_mimi
from personaplex_cli.loader.load import load_cold
from personaplex_cli.loader.offload import StreamedLayers
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME, Samples

CHARACTER = Character("kind", "You are kind.", "NATF2", "NATF2.pt", Sampling(seed=3))


def engine_with(folder: Path, recorder: GraphRecorder | None, notes: list[Any] | None = None) -> LocalEngine:
    model = load_cold(ModelOptions(str(folder), device="cpu")).model
    return LocalEngine(model, recorder, (notes if notes is not None else []).append)


def warmed_up(folder: Path, recorder: GraphRecorder | None) -> tuple[LocalEngine, list[str]]:
    notes: list[Any] = []
    engine = engine_with(folder, recorder, notes)
    engine.warm_up(CHARACTER)
    return engine, [note.text for note in notes if isinstance(note, Note)]


def speech(frames: int) -> list[Samples]:
    return list(np.random.default_rng(1).normal(0.0, 0.1, (frames, FRAME)).astype(np.float32))


def held(engine: LocalEngine, character: Character, frames: int, silent: range = range(0)) -> list[tuple[bytes, str]]:
    engine._begin(0, character)
    said = []
    for index, frame in enumerate(speech(frames)):
        reply = engine.pipeline.run({0: frame}, [0] if index in silent else [])[0]
        said.append((reply.pcm.tobytes(), reply.text))
    return said


@pytest.mark.slow
def test_recorded_frames_answer_like_plain_ones_also_past_the_first_span(random_folder: Path) -> None:
    plain, _ = warmed_up(random_folder, None)
    recorded, notes = warmed_up(random_folder, record)
    assert len(recorded.pipeline.recordings) == 1 + 5 + 1 + 1 and not plain.pipeline.recordings  # five spans
    assert len(notes) == 1 and "equal to the plain way" in notes[0]
    # 24 positions of prompt: the ring is read further from frame 232 on.
    assert held(recorded, CHARACTER, 250, range(5, 9)) == held(plain, CHARACTER, 250, range(5, 9))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling", [Sampling(greedy=True), Sampling(audio_top_k=1000, seed=2), Sampling(audio_temperature=2, seed=2)]
)
def test_other_sampling_needs_no_other_engine(random_folder: Path, sampling: Sampling) -> None:
    plain, _ = warmed_up(random_folder, None)
    recorded, _ = warmed_up(random_folder, record)
    other = replace(CHARACTER, prompt="", sampling=sampling)
    assert held(recorded, other, 12) == held(plain, other, 12)
    assert held(recorded, CHARACTER, 12) == held(plain, CHARACTER, 12)


def test_layers_that_come_over_the_bus_are_left_out(random_folder: Path) -> None:
    plain, _ = warmed_up(random_folder, None)
    model = engine_with(random_folder, None).model
    lm = model.generator.lm
    streaming = TokenGenerator(lm, StreamedLayers(lm.transformer.layers, 1, CPU))
    mimi = load_mimi(open_folder(random_folder).mimi, spec_of_folder(random_folder), CPU)
    notes: list[Any] = []
    streamed = LocalEngine(replace(model, generator=streaming, codec=MimiCodec(mimi, CPU)), record, notes.append)
    streamed.warm_up(CHARACTER)
    assert len(streamed.pipeline.recordings) == 3 and "equal to the plain way" in notes[0].text
    assert held(streamed, CHARACTER, 12) == held(plain, CHARACTER, 12)


def test_another_top_k_records_what_chooses_tokens_anew(random_folder: Path) -> None:
    engine, _ = warmed_up(random_folder, record)
    assert len(engine.pipeline.recordings) == 1 + 5 + 1 + 1
    engine._begin(0, replace(CHARACTER, sampling=Sampling(audio_top_k=1000, seed=2)))
    assert len(engine.pipeline.recordings) == 1 + 5 + 2 + 1


class Broken(CapturedGraph):
    def replay(self) -> None:
        pass


@pytest.mark.parametrize(
    ("recorder", "why"),
    [(lambda part: Broken(), "differently"), (lambda part: fail(RuntimeError("operation not permitted")), "permitted")],
)
def test_what_cannot_be_recorded_is_run(random_folder: Path, recorder: GraphRecorder, why: str) -> None:
    plain, _ = warmed_up(random_folder, None)
    engine, notes = warmed_up(random_folder, recorder)
    assert len(engine.pipeline.recordings) == 0
    assert len(notes) == 1 and "No CUDA graphs" in notes[0] and why in notes[0] and "several times" in notes[0]
    assert held(engine, CHARACTER, 12) == held(plain, CHARACTER, 12)


class Spoiled(CapturedGraph):
    """A part that runs, and then something of what it made is lost."""

    def __init__(self, part: Part, lost: torch.Tensor) -> None:
        self._part, self._lost = part, lost

    def replay(self) -> None:
        self._part()
        self._lost.zero_()


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        (("decode", 1), "sound"),
        (("depform", 1, 256), "sampled"),
        (("transform", 1, 256), "hidden"),
        (("transform", 1, 3000), "hidden"),
    ],
)
def test_a_spoiled_part_shows_also_in_an_agent_that_is_silent(
    random_folder: Path, name: tuple[Any, ...], lost: str
) -> None:
    """Each part alone; the transformer in one length of the ring, also in one that is only reached after minutes."""
    notes: list[Any] = []
    engine = engine_with(random_folder, lambda part: recorders.pop(0)(part), notes)
    decode, generator = engine.model.codec.decode, engine.model.generator
    engine.model.codec.decode = lambda codes: decode(codes) * 1e-3  # type: ignore[method-assign]
    parts = [each for span in generator.cache.spans for each in engine.pipeline._parts(1, span, 256)]
    sound = engine.pipeline._answer[:, :FRAME]
    tensor = sound if lost == "sound" else getattr(generator, lost)
    recorders: list[GraphRecorder] = [
        (lambda part: Spoiled(part, tensor)) if each == name else record for each in dict.fromkeys(parts)
    ]
    engine.warm_up(CHARACTER)
    assert not engine.pipeline.recordings and "differently" in notes[-1].text


def test_numbers_that_are_none_stop_before_anything_is_recorded(random_folder: Path) -> None:
    engine = engine_with(random_folder, lambda part: pytest.fail("it was recorded"))
    torch.nn.init.constant_(engine.model.generator.lm.text_linear.weight, 1.0)
    with torch.no_grad():
        engine.model.generator.lm.out_norm.alpha.fill_(float("nan"))
    with pytest.raises(ModelError, match="numbers overflow"):
        engine.warm_up(CHARACTER)


def unsteady(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last digits of what the transformer answers are chance, which a token shows now and then."""
    monkeypatch.setattr("personaplex_cli.engine.engine.are_equal", lambda *_: False)
    read = engine.model.generator.read
    monkeypatch.setattr(
        engine.model.generator, "read", lambda *rest: (each := read(*rest)) + 1e-6 * torch.randn_like(each) * each.std()
    )


@pytest.mark.parametrize("kept", [True, False])
def test_where_answers_vary_the_first_frames_are_compared(
    random_folder: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[Any] = []
    recorder: Any = (lambda part: SimpleNamespace(replay=part)) if kept else lambda part: Broken()
    engine = engine_with(random_folder, recorder, notes)
    unsteady(engine, monkeypatch)
    engine.warm_up(CHARACTER)
    assert bool(engine.pipeline.recordings) == kept
    assert ("as far as answers vary" if kept else "differently") in notes[-1].text


def test_what_cannot_be_recorded_later_is_run_too(random_folder: Path) -> None:
    plain, _ = warmed_up(random_folder, None)
    told: list[Any] = []
    broken: list[bool] = []
    engine = engine_with(random_folder, lambda part: fail(RuntimeError("no room")) if broken else record(part), told)
    engine.warm_up(CHARACTER)
    broken.append(True)
    other = replace(CHARACTER, sampling=Sampling(audio_top_k=1000, seed=2))
    assert held(engine, other, 5) == held(plain, other, 5)
    assert "No CUDA graphs here (no room)" in told[-1].text and not engine.pipeline.recordings
    assert held(engine, CHARACTER, 5) == held(plain, CHARACTER, 5)


def test_a_mistake_in_the_frame_is_not_taken_for_a_failed_recording(random_folder: Path) -> None:
    with pytest.raises((ValueError, PersonaplexError)):
        warmed_up(random_folder, lambda part: fail(ValueError("wrong")))


def fail(error: Exception) -> CapturedGraph:
    raise error


@pytest.mark.parametrize(
    ("part", "notice"),
    [
        (lambda: float(torch.zeros(3)[0]), "asks the device"),
        (lambda: torch.zeros(3)[torch.zeros((), dtype=torch.long)], "asks the device"),
        (lambda: torch.zeros(3) + torch.tensor(2.0), "brings the device"),
    ],
)
def test_the_tape_notices_what_cannot_be_recorded(part: Part, notice: str) -> None:
    with pytest.raises(AssertionError, match=notice):
        record(part)
