"""The engine, whole: sound in, sound and text out, on a random model through the real loader."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Character, Sampling
from personaplex_cli.conversation import Conversation, Reply, converse, converse_all
from personaplex_cli.engine import engine as engine_room
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.errors import DeviceError, ModelError, UsageError
from personaplex_cli.events import Began, Ended, Event, Note, Phase, State
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.library.weights import open_folder, voice_file
from personaplex_cli.loader.load import load, load_cold
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME, SAMPLE_RATE, SILENT_FRAME, Samples

KIND = Character("kind", "You are kind.", "NATF2", "NATF2.pt", Sampling(seed=3))
BARE = replace(KIND, prompt="")


def loaded(folder: Path, precision: str = "auto", cpu_offload: bool = False) -> tuple[LocalEngine, list[Event]]:
    heard: list[Event] = []
    return load_cold(ModelOptions(str(folder), None, "cpu", precision, cpu_offload), heard.append), heard


@pytest.fixture
def engine(random_folder: Path) -> LocalEngine:
    return loaded(random_folder)[0]


def speech(seconds: float, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    return (random.standard_normal(round(seconds * SAMPLE_RATE)) * 0.1).astype(np.float32)


def held(engine: LocalEngine, character: Character, recording: Samples) -> tuple[Samples, list[str]]:
    audio = Recording(recording)
    texts = [step.text for step in converse(engine, audio, character)]
    return audio.answer, texts


def begun(engine: LocalEngine, character: Character) -> list[Event | Exception]:
    """What happens while the prompt of a character is read."""
    engine.begin(0, character)
    return [event for _, event in engine.prefill() or ()]


def prompt_frames(engine: LocalEngine, character: Character) -> int:
    began = begun(engine, character)[-1]
    assert isinstance(began, Began), began
    return began.prompt_frames


def test_same_prompt_and_seed_same_talk_also_the_second_time(engine: LocalEngine) -> None:
    first, text = held(engine, KIND, speech(1))
    held(engine, replace(BARE, sound=speech(0.5, seed=9), sampling=Sampling(seed=4)), speech(1, seed=5))
    second, same_text = held(engine, KIND, speech(1))
    assert np.array_equal(first, second) and text == same_text
    assert len(first) == SAMPLE_RATE and np.abs(first).max() > 0


def test_without_a_seed_each_talk_draws_its_own_and_says_which(engine: LocalEngine) -> None:
    free = replace(KIND, sampling=Sampling())
    conversations = [Conversation(free, Recording(speech(0.2))) for _ in range(2)]
    seeds = [event.seed for _, event in converse_all(engine, conversations) if isinstance(event, Began)]
    assert len(set(seeds)) == 2
    again = replace(KIND, sampling=Sampling(seed=seeds[0]))
    repeated = Recording(speech(0.2))
    list(converse(engine, repeated, again))
    assert np.array_equal(repeated.answer, conversations[0].audio.answer)  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", ["voice", "text", "seed", "sound"])
def test_everything_that_is_asked_for_makes_a_difference(engine: LocalEngine, change: str) -> None:
    usual: dict[str, Any] = {"voice": "NATF2", "text": "You are kind.", "seed": 1, "sound": 1}
    other = {**usual, change: {"voice": "VARM3", "text": "You are rude.", "seed": 2, "sound": 2}[change]}
    answers = [
        held(
            engine,
            Character("someone", each["text"], each["voice"], f"{each['voice']}.pt", Sampling(seed=each["seed"])),
            speech(1, each["sound"]),
        )
        for each in (usual, other)
    ]
    assert not np.array_equal(answers[0][0], answers[1][0])


def test_what_the_user_says_is_heard_at_once_and_never_before(engine: LocalEngine) -> None:
    greedy = replace(BARE, sampling=Sampling(greedy=True))
    recording = speech(1)
    for frame in (0, 5):
        louder = recording.copy()
        louder[frame * FRAME : (frame + 1) * FRAME] *= -3
        (before, _), (after, _) = held(engine, greedy, recording), held(engine, greedy, louder)
        assert np.array_equal(before[: frame * FRAME], after[: frame * FRAME])
        differs = np.flatnonzero(before != after)
        # Code 1 is read in call k, the other seven one position later; each alone can be enough.
        assert len(differs) and frame * FRAME <= differs[0] < (frame + 2) * FRAME


def test_the_prompt_costs_what_it_says(engine: LocalEngine) -> None:
    assert prompt_frames(engine, BARE) == 12 + 6 + 6
    assert prompt_frames(engine, replace(BARE, sound=speech(1.0))) == 13 + 6 + 6  # the sample's last frame is filled up
    assert prompt_frames(engine, replace(BARE, prompt="the")) > 12 + 6 + 6


def test_began_tells_what_is_needed_to_hold_the_talk_again(engine: LocalEngine, random_folder: Path) -> None:
    priming, began = begun(engine, KIND)
    assert priming == State(Phase.PRIMING) and isinstance(began, Began)
    assert (began.persona, began.voice, began.device, began.seed) == ("kind", "NATF2", "cpu", 3)
    assert began.settings["model"] == str(random_folder) and began.settings["prompt"] == "You are kind."
    assert began.settings["sampling"]["seed"] == 3 and began.settings["revision"] == "local"


def test_a_prompt_that_fills_the_memory_gets_a_note(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_room, "LONG_PROMPT_FRAMES", 20)
    notes = [event.text for event in begun(engine, KIND) if isinstance(event, Note)]
    assert len(notes) == 1 and "of the 240 s" in notes[0]


def test_a_prompt_longer_than_the_context_is_refused_and_the_engine_stays_usable(engine: LocalEngine) -> None:
    with pytest.raises(UsageError, match="remembers 3000"):
        held(engine, replace(KIND, prompt="word " * 3000), speech(0.2))
    assert len(held(engine, BARE, speech(0.2))[1]) == 3


def test_on_the_cpu_offload_is_said_to_change_nothing(random_folder: Path) -> None:
    _, heard = loaded(random_folder, cpu_offload=True)
    assert any("changes nothing" in event.text for event in heard if isinstance(event, Note))


def test_on_the_cpu_fewer_bits_are_said_to_cost_time(random_folder: Path) -> None:
    _, heard = loaded(random_folder, "int8")
    assert any("more time" in event.text for event in heard if isinstance(event, Note))


@pytest.mark.parametrize("precision", ["bf16", "fp32", "int8", "int4"])
def test_precisions_run(random_folder: Path, precision: str) -> None:
    engine, _ = loaded(random_folder, precision)
    assert engine.model.precision == precision
    answer, _ = held(engine, BARE, speech(0.5))
    assert np.isfinite(answer).all()


def test_a_voice_that_does_not_fit_is_refused(engine: LocalEngine, tmp_path: Path) -> None:
    golden_voice = Path(__file__).parents[1] / "data/golden/golden-b.voice.pt"
    page = tmp_path / "voice.pt"
    page.write_text("<html></html>")
    for sound, kind, message in (
        (golden_voice, ModelError, "another model"),
        (page, ModelError, "web page"),
        ("NATF9.pt", UsageError, "no voice named 'NATF9'"),
    ):
        with pytest.raises(kind, match=message):
            held(engine, replace(BARE, sound=sound), speech(0.1))


def test_a_voice_that_is_not_there_is_refused_while_loading(random_folder: Path) -> None:
    with pytest.raises(UsageError, match="no voice named"):
        load(ModelOptions(str(random_folder), device="cpu"), rehearsal=replace(BARE, sound="NATF9.pt"))


def test_no_event_and_no_reply_holds_a_tensor(random_folder: Path) -> None:
    engine, heard = loaded(random_folder)
    happened = [*heard, *begun(engine, BARE)]
    reply = engine.step({0: SILENT_FRAME})[0]
    assert isinstance(reply, Reply) and reply.timings
    assert reply.pcm.base is None  # nor the sound of all slots, which a recording would keep
    assert type(reply.pcm) is np.ndarray and reply.pcm.dtype == np.float32 and reply.pcm.shape == (FRAME,)
    assert len(reply.tokens) == 17 and all(type(token) is int for token in reply.tokens)
    values: Sequence[Any] = [reply.text, *vars(reply.timings).values(), *(vars(event).values() for event in happened)]
    assert not any(isinstance(value, torch.Tensor) for value in values)
    assert min(vars(reply.timings).values()) >= 0


def test_a_model_folder_needs_no_archive_if_its_voices_are_unpacked(random_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(random_folder, tmp_path / "model")
    (tmp_path / "model/voices").mkdir()
    shutil.copy(voice_file(open_folder(random_folder), "NATF2.pt"), tmp_path / "model/voices/MINE.pt")
    assert PERSONAPLEX.voices_file
    (tmp_path / "model" / PERSONAPLEX.voices_file).unlink()
    assert voice_file(open_folder(tmp_path / "model"), "MINE.pt").parent == tmp_path / "model/voices"


def test_nothing_is_said_while_the_agent_is_made_silent(engine: LocalEngine) -> None:
    began = prompt_frames(engine, BARE)
    silent = [engine.step({0: SILENT_FRAME}, {0: 1})[0] for _ in range(100)]
    assert "".join(reply.text for reply in silent if isinstance(reply, Reply)) == ""
    for _ in range(60):
        engine.step({0: SILENT_FRAME})
    assert engine.pipeline._slots[0].position == began + 160


def test_a_sample_is_encoded_once_and_gives_the_same_talk_again(engine: LocalEngine) -> None:
    mine, other = replace(BARE, sound=speech(0.5, seed=9)), replace(BARE, sound=speech(0.5, seed=8))
    first, _ = held(engine, mine, speech(1.5))
    again, _ = held(engine, mine, speech(1.5))
    different, _ = held(engine, other, speech(1.5))
    assert np.array_equal(first, again) and not np.array_equal(first, different)


def full(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_memory_that_runs_out_in_the_middle_is_explained_too(engine: LocalEngine, monkeypatch: Any) -> None:
    begun(engine, BARE)
    with monkeypatch.context() as patch:
        patch.setattr(engine.model.codec, "encode", full)
        error = engine.step({0: SILENT_FRAME})[0]
    assert isinstance(error, DeviceError) and "too small" in str(error)


def test_an_engine_that_recovers_answers_with_the_error_and_one_that_does_not_raises(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.warm_up(KIND)
    conversations = [Conversation(KIND, Recording(speech(0.5))) for _ in range(2)]
    run, runs = engine.pipeline.run, iter([False, False, True])

    def fails_once(*rest: Any) -> Any:
        return 1 / 0 if next(runs, False) else run(*rest)

    monkeypatch.setattr(engine.pipeline, "run", fails_once)
    ends = [event.error for _, event in converse_all(engine, conversations) if isinstance(event, Ended)]
    assert [type(error) for error in ends] == [ZeroDivisionError, type(None)]
    monkeypatch.setattr(engine.pipeline, "run", lambda *rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        held(engine, KIND, speech(0.5))


def test_a_request_that_is_refused_does_not_warm_the_model_up_again(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.warm_up(KIND)
    monkeypatch.setattr(engine, "_rehearse", lambda *_: pytest.fail("it was"))
    (tmp_path / "voice.pt").write_bytes(b"nothing of the kind")
    for wrong in (replace(KIND, prompt="word " * 3000), replace(KIND, sound=tmp_path / "voice.pt")):
        assert isinstance(begun(engine, wrong)[-1], UsageError | ModelError)


@pytest.mark.parametrize("where", ["hearing", "speaking"])
@pytest.mark.filterwarnings("ignore:invalid value|overflow:RuntimeWarning")
def test_a_model_whose_numbers_run_away_is_refused(engine: LocalEngine, where: str) -> None:
    """Its weights are numbers, but what is computed with them is none."""
    parts = {"hearing": engine.model.generator.lm.out_norm.alpha, "speaking": engine.model.codec.mimi.decoder.model[0]}
    parameters = [parts[where]] if isinstance(parts[where], torch.Tensor) else list(parts[where].parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(3e38)
    with pytest.raises(ModelError, match="numbers overflow"):
        engine.warm_up(KIND)


def test_warming_up_leaves_no_trace(engine: LocalEngine) -> None:
    cold, _ = held(engine, KIND, speech(0.5))
    assert engine.warm_up(KIND) > 0
    assert np.array_equal(held(engine, KIND, speech(0.5))[0], cold)


def test_a_machine_too_slow_to_talk_gets_a_note(random_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalEngine, "warm_up", lambda *_: 120.0)
    heard: list[Event] = []
    load(ModelOptions(str(random_folder), device="cpu"), heard.append)
    assert any("120 ms" in event.text for event in heard if isinstance(event, Note))
