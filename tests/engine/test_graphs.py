"""A frame that is recorded once and replayed answers like one that is run: nothing in it is decided by Python."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import CPU
from tape import record

from personaplex_cli.character import Prompt, Sampling
from personaplex_cli.engine.engine import Engine
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.graphs import Part, Recorder, Recording
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Note
from personaplex_cli.library.spec import sizes_of
from personaplex_cli.library.weights import open_folder, voice_file
from personaplex_cli.loader.checkpoint import load_mimi
from personaplex_cli.loader.load import Demand, load_engine
from personaplex_cli.loader.offload import StreamedLayers
from personaplex_cli.samples import FRAME, Samples


@pytest.fixture
def prompt(demo_folder: Path) -> Prompt:
    return Prompt("You are kind.", voice_file(open_folder(demo_folder), "NATF2.pt"), Sampling(seed=3))


def engine_with(folder: Path, recorder: Recorder | None) -> Engine:
    engine = load_engine(open_folder(folder), Demand("cpu"), lambda event: None)
    engine._recorder = recorder
    return engine


def warmed_up(folder: Path, recorder: Recorder | None, prompt: Prompt) -> tuple[Engine, list[str]]:
    engine = engine_with(folder, recorder)
    notes: list[Any] = []
    engine.warm_up(prompt, notes.append)
    return engine, [note.text for note in notes if isinstance(note, Note)]


def speech(frames: int) -> list[Samples]:
    return list(np.random.default_rng(1).normal(0.0, 0.1, (frames, FRAME)).astype(np.float32))


def held(engine: Engine, prompt: Prompt, frames: int, hushed_at: int = -1) -> list[tuple[bytes, str]]:
    engine.begin(prompt)
    said = []
    for index, frame in enumerate(speech(frames)):
        if index == hushed_at:
            engine.hush()
        reply = engine.step(frame)
        said.append((reply.pcm.tobytes(), reply.text))
    return said


def test_recorded_frames_answer_like_plain_ones_also_past_the_first_span(demo_folder: Path, prompt: Prompt) -> None:
    plain, _ = warmed_up(demo_folder, None, prompt)
    recorded, notes = warmed_up(demo_folder, record, prompt)
    assert recorded.recorded == 1 + 5 + 1 + 1 and plain.recorded == 0  # five lengths of the ring
    assert len(notes) == 1 and "equal to the plain way" in notes[0]
    # 24 positions of prompt: the ring is read further from frame 232 on.
    assert held(recorded, prompt, 250, hushed_at=5) == held(plain, prompt, 250, hushed_at=5)


@pytest.mark.parametrize(
    "sampling", [Sampling(greedy=True), Sampling(audio_top_k=1000, seed=2), Sampling(audio_temperature=2, seed=2)]
)
def test_other_sampling_needs_no_other_engine(demo_folder: Path, prompt: Prompt, sampling: Sampling) -> None:
    plain, _ = warmed_up(demo_folder, None, prompt)
    recorded, _ = warmed_up(demo_folder, record, prompt)
    other = Prompt("", prompt.voice, sampling)
    assert held(recorded, other, 12) == held(plain, other, 12)
    assert held(recorded, prompt, 12) == held(plain, prompt, 12)


def test_layers_that_come_over_the_bus_are_left_out(demo_folder: Path, prompt: Prompt) -> None:
    plain, _ = warmed_up(demo_folder, None, prompt)
    engine = engine_with(demo_folder, record)
    lm = engine.talk.lm
    mimi = load_mimi(open_folder(demo_folder).mimi, sizes_of(demo_folder).mimi, CPU)
    streaming = TokenGenerator(lm, StreamedLayers(lm.transformer.layers, 1, CPU))
    streamed = Engine(streaming, mimi, engine._tokenizer, "fp32", record)
    notes: list[Any] = []
    streamed.warm_up(prompt, notes.append)
    assert streamed.recorded == 3 and "equal to the plain way" in notes[0].text
    assert held(streamed, prompt, 12) == held(plain, prompt, 12)


class Broken(Recording):
    def replay(self) -> None:
        pass


@pytest.mark.parametrize(
    ("recorder", "why"),
    [(lambda part: Broken(), "differently"), (lambda part: fail(RuntimeError("operation not permitted")), "permitted")],
)
def test_what_cannot_be_recorded_is_run(demo_folder: Path, prompt: Prompt, recorder: Recorder, why: str) -> None:
    plain, _ = warmed_up(demo_folder, None, prompt)
    engine, notes = warmed_up(demo_folder, recorder, prompt)
    assert engine.recorded == 0
    assert len(notes) == 1 and "No CUDA graphs" in notes[0] and why in notes[0] and "several times" in notes[0]
    assert held(engine, prompt, 12) == held(plain, prompt, 12)


def test_a_mistake_in_the_frame_is_not_taken_for_a_failed_recording(demo_folder: Path, prompt: Prompt) -> None:
    with pytest.raises((ValueError, PersonaplexError)):
        warmed_up(demo_folder, lambda part: fail(ValueError("wrong")), prompt)


def fail(error: Exception) -> Recording:
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
