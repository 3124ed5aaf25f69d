"""The layout of the prompt: every frame sits where the model was trained to find it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.engine.prompting import (
    SILENT_FRAMES,
    UNKNOWN,
    SavedVoice,
    lay_out,
    load_saved_voice,
    no_prompt,
    system_text,
)
from personaplex_cli.errors import ModelError, UsageError
from personaplex_cli.library.spec import AGENT, MOSHI, TEXT, USER, spec_with

SPEC = spec_with({"lm": {"text_card": 400, "dim": 8}})
PAD, SILENCE, SINE = SPEC.padding, list(SPEC.silence), list(SPEC.tone)
DELAYED = torch.tensor(SPEC.delays) == 1

voices = st.integers(1, 12).map(lambda n: torch.arange(8 * n).view(8, n))
texts = st.lists(st.integers(4, 399), max_size=12)


@given(voices, texts)
def test_frame_f_of_row_k_sits_at_position_f_plus_delay(voice: torch.Tensor, text: list[int]) -> None:
    layout = lay_out(voice, text, SPEC)
    frames = voice.shape[1] + 2 * SILENT_FRAMES + len(text)
    assert layout.positions == frames
    assert layout.columns.shape == (17, frames + 1)
    spoken = [PAD] * (voice.shape[1] + SILENT_FRAMES) + text + [PAD] * SILENT_FRAMES
    for frame in range(2, frames):
        in_voice = frame < voice.shape[1]
        agent = voice[:, frame].tolist() if in_voice else SILENCE
        expected = [spoken[frame], *agent, *SINE]
        found = [int(layout.columns[row, frame + delay]) for row, delay in enumerate(SPEC.delays)]
        assert found == expected


@given(voices, texts)
def test_rows_begin_with_their_initial_token_and_end_with_what_the_talk_brings(
    voice: torch.Tensor, text: list[int]
) -> None:
    columns = lay_out(voice, text, SPEC).columns
    assert columns[:, 0].tolist() == list(SPEC.initial)
    assert columns[DELAYED, 1].tolist() == [2048] * 14
    assert (columns[:, -1] == UNKNOWN).tolist() == (~DELAYED).tolist()
    assert not (columns[:, :-1] == UNKNOWN).any()


@given(st.integers(2, 12), texts)
def test_a_saved_voice_continues_like_its_codes(frames: int, text: list[int]) -> None:
    voice = torch.randint(2048, (8, frames), generator=torch.Generator().manual_seed(frames))
    whole = lay_out(voice, text, SPEC).columns
    cache = torch.full((17, 4), 77)  # what earlier positions left in the other slots does not matter
    cache[:, (frames - 1) % 4] = whole[:, frames - 1]
    cache[DELAYED, frames % 4] = whole[DELAYED, frames]
    layout = lay_out(SavedVoice(torch.zeros(frames - 1, 8), cache), text, SPEC)
    assert layout.positions == whole.shape[1] - 1
    assert torch.equal(layout.columns, whole[:, frames - 1 :])


def test_an_empty_prompt_has_both_silences_and_no_text() -> None:
    layout = lay_out(torch.zeros(8, 3, dtype=torch.long), [], SPEC)
    assert layout.positions == 3 + 2 * SILENT_FRAMES
    assert set(layout.columns[TEXT, 1:-1].tolist()) == {PAD}
    assert layout.columns[AGENT, 10].tolist()[0] == SILENCE[0]
    assert layout.columns[USER, 10].tolist()[0] == SINE[0]


def test_a_model_without_a_prompt_begins_with_a_frame_that_it_never_sees() -> None:
    layout = no_prompt(MOSHI)
    assert layout.positions == 1
    assert layout.columns[:, 0].tolist() == list(MOSHI.initial)
    delayed = torch.tensor(MOSHI.delays) == 1
    assert set(layout.columns[delayed, 1].tolist()) == {2048}
    assert set(layout.columns[~delayed, 1].tolist()) == {UNKNOWN}


def test_system_tags_are_added_once() -> None:
    assert system_text("") == system_text("  ") == ""
    assert system_text(" Be kind. ") == "<system> Be kind. <system>"
    assert system_text("<system> Be kind. <system>") == "<system> Be kind. <system>"
    assert system_text("<system>") == "<system> <system> <system>"


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    layout = lay_out(torch.zeros(8, 3, dtype=torch.long), [5] * 20, SPEC)
    layout.check_room(layout.positions + 1)
    with pytest.raises(UsageError, match="takes 35 frames"):
        layout.check_room(layout.positions)


@pytest.mark.parametrize(
    "saved",
    [
        {"embeddings": torch.zeros(3, 1, 1, 16), "cache": torch.zeros(1, 17, 4, dtype=torch.long)},
        {"embeddings": torch.zeros(3, 1, 1, 8), "cache": torch.zeros(1, 9, 4, dtype=torch.long)},
        {"embeddings": torch.full((3, 1, 1, 8), torch.nan), "cache": torch.zeros(1, 17, 4, dtype=torch.long)},
        {"embeddings": torch.zeros(3, 1, 1, 8), "cache": torch.zeros(1, 17, 4)},
        {"embeddings": torch.zeros(3, 8)},
        ["nothing of the kind"],
    ],
)
def test_a_voice_of_another_model_is_refused(saved: object, tmp_path: Path) -> None:
    path = tmp_path / "voice.pt"
    torch.save(saved, path)
    with pytest.raises(ModelError, match="voice"):
        load_saved_voice(path, SPEC)


def test_a_voice_file_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"embeddings": Evil()}, tmp_path / "voice.pt")
    with pytest.raises(ModelError):
        load_saved_voice(tmp_path / "voice.pt", SPEC)
    assert not (tmp_path / "ran").exists()
