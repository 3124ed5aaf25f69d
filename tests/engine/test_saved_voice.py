"""Voices from files that anyone may have made: what they claim is checked before anything is taken for it."""

import io
import os
import resource
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from personaplex_cli.engine import prompting
from personaplex_cli.engine.prompting import load_saved_voice
from personaplex_cli.errors import ModelError
from personaplex_cli.library.spec import PERSONAPLEX, spec_with

DIM, FRAMES = 8, 6
SPEC = spec_with({"lm": {"text_card": 400, "dim": DIM}})
EMBEDDINGS = torch.arange((FRAMES - 1) * DIM, dtype=torch.float32).view(FRAMES - 1, 1, 1, DIM)
CACHE = torch.arange(17 * 4).view(1, 17, 4)
MEGABYTE = 2**20 if sys.platform == "darwin" else 2**10  # as `ru_maxrss` counts
TOPS = torch.tensor(SPEC.initial)

any_file = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def saved(path: Path, embeddings: Any = EMBEDDINGS, cache: Any = CACHE, **more: Any) -> Path:
    torch.save({"embeddings": embeddings, "cache": cache}, path, **more)
    return path


def refused(path: Path) -> str:
    began = time.perf_counter()
    with pytest.raises(ModelError, match=str(path)) as caught:
        load_saved_voice(path, SPEC)
    assert time.perf_counter() - began < 5 and caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_voice_comes_as_it_was_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    voice = load_saved_voice(saved(tmp_path / "v.pt", EMBEDDINGS.to(dtype).requires_grad_(), CACHE.int()), SPEC)
    assert torch.equal(voice.embeddings, EMBEDDINGS[:, 0, 0].to(dtype)) and torch.equal(voice.cache, CACHE[0])
    assert not voice.embeddings.requires_grad and voice.cache.dtype == torch.int64
    assert voice.last.tolist() == CACHE[0, :, 1].tolist() and voice.following.tolist() == CACHE[0, :, 2].tolist()


BOMBS = {
    "embeddings": {"embeddings": torch.zeros(1).expand(100_000_000, 1, 1, DIM)},
    "few enough frames": {"embeddings": torch.zeros(1).expand(2000, 1, 1, DIM)},
    "wide": {"embeddings": torch.zeros(1).expand(5, 1, 1, 10**12)},
    "cache": {"cache": torch.zeros(1, dtype=torch.long).expand(1, 17, 10**9)},
    "endless": {"embeddings": torch.zeros(1, dtype=torch.int8).expand(2**40, 1, 1, DIM)},
    "sparse": {"embeddings": torch.sparse_coo_tensor(torch.zeros(4, 1), torch.ones(1), (10**7, 1, 1, DIM))},
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_two_kilobytes_take_no_more_memory_than_they_have(bomb: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "bomb.pt", **BOMBS[bomb])
    assert path.stat().st_size < 5000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * MEGABYTE


def test_a_compressed_archive_is_refused_unread(tmp_path: Path) -> None:
    plain = io.BytesIO()
    torch.save({"embeddings": torch.zeros(20_000_000, 1, 1, DIM), "cache": CACHE}, plain)
    with zipfile.ZipFile(plain) as records, zipfile.ZipFile(tmp_path / "v.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in records.namelist():
            packed.writestr(name, records.read(name))
    assert (tmp_path / "v.pt").stat().st_size < 10_000_000
    assert "not a voice file" in refused(tmp_path / "v.pt")


def test_the_old_format_says_how_much_memory_to_take_and_is_refused(tmp_path: Path) -> None:
    refused(saved(tmp_path / "v.pt", _use_new_zipfile_serialization=False))


def test_a_file_larger_than_voices_are_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompting, "VOICE_BYTES", 1000)
    refused(saved(tmp_path / "v.pt"))


def test_a_voice_as_long_as_the_context_is_refused(tmp_path: Path) -> None:
    longest = torch.zeros(PERSONAPLEX.lm["context"] - 2, 1, 1, DIM)
    assert len(load_saved_voice(saved(tmp_path / "v.pt", longest), SPEC).embeddings) == len(longest)
    longer = torch.zeros(len(longest) + 1, 1, 1, DIM)
    assert "3000 frames long, and the model remembers 3000" in refused(saved(tmp_path / "w.pt", longer))


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "v.pt")
    refused(tmp_path / "v.pt")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.int8, torch.bool, torch.complex64])
def test_embeddings_of_other_kinds_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    refused(saved(tmp_path / "v.pt", EMBEDDINGS.to(dtype)))


@pytest.mark.parametrize("frames", [0, 1, 2, 5])
def test_any_number_of_frames(frames: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "v.pt", torch.zeros(frames, 1, 1, DIM))
    if frames:
        assert len(load_saved_voice(path, SPEC).embeddings) == frames
    else:
        refused(path)


@any_file
@given(value=st.floats(width=32), place=st.integers(0, 3))
def test_every_number_must_be_such_as_half_precision_holds(value: float, place: int, tmp_path: Path) -> None:
    assume(not abs(value) <= 65504)
    embeddings = EMBEDDINGS.clone().float()
    embeddings[place % len(embeddings), 0, 0, place] = value
    refused(saved(tmp_path / "v.pt", embeddings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8, torch.complex64])
def test_tokens_of_other_kinds_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    refused(saved(tmp_path / "v.pt", cache=CACHE.to(dtype)))


@any_file
@given(row=st.integers(0, 16), place=st.integers(0, 3), token=st.integers(-(2**63), 2**63 - 1))
def test_every_token_must_be_one_of_its_row(row: int, place: int, token: int, tmp_path: Path) -> None:
    assume(not -2 <= token <= TOPS[row])
    cache = CACHE.clone()
    cache[0, row, place] = token
    refused(saved(tmp_path / "v.pt", cache=cache))


@any_file
@given(row=st.integers(0, 16), place=st.integers(0, 3), token=st.integers(-2, 400))
def test_a_token_may_be_missing_where_none_is_read(row: int, place: int, token: int, tmp_path: Path) -> None:
    cache = CACHE.clone()
    cache[0, row, place] = token
    path = saved(tmp_path / "v.pt", cache=cache)
    read = place == 1 or (place == 2 and SPEC.delays[row] == 1)  # the last frame is in place 5 % 4
    if token < 0 and read:
        refused(path)
    else:
        assert load_saved_voice(path, SPEC).cache[row, place] == token


@any_file
@given(
    changes=st.dictionaries(st.integers(0, 3000), st.integers(0, 255), min_size=1, max_size=8), cut=st.integers(0, 9)
)
def test_a_damaged_file_is_refused_or_makes_sense(changes: dict[int, int], cut: int, tmp_path: Path) -> None:
    content = bytearray(saved(tmp_path / "v.pt").read_bytes())
    for place, byte in changes.items():
        content[place % len(content)] = byte
    (tmp_path / "v.pt").write_bytes(content[: len(content) - cut * 100])
    try:
        voice = load_saved_voice(tmp_path / "v.pt", SPEC)
    except ModelError:
        return
    assert voice.is_possible(SPEC) and voice.embeddings.shape[1] == DIM
