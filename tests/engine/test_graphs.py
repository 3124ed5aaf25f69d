"""A frame that is recorded once and replayed answers like one that is run: nothing in it is decided by Python."""

from dataclasses import replace
from pathlib import Path
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
from personaplex_cli.errors import PersonaplexError
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
