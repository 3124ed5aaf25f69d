"""A prompt that was read once need not be read again, and nothing but the time tells the difference."""

import os
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from costs import LargestCopy
from golden import Golden, TokenTalk, finished, load_golden
from safetensors.torch import load_file

from personaplex_cli.character import Sampling
from personaplex_cli.engine import prompt_cache
from personaplex_cli.engine.prefill import read_prompt
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import Layout, lay_out, load_saved_voice


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load_golden(Path(__file__).parents[1] / "data/golden/golden-b.json")


def talk_with(golden: Golden, folder: Path, kept: PromptCache) -> TokenTalk:
    return golden.talk(folder, kept)


def layout(golden: Golden, talk: TokenTalk, text: list[int]) -> Layout:
    return lay_out(golden.codes("voice"), text, talk.spec)


def held(talk: TokenTalk, prompt: Layout, golden: Golden) -> list[Any]:
    talk.begin(prompt, Sampling(seed=5))
    return [talk.step(user) for user in golden.codes("user").T]


class Unread(Exception):
    pass


def refuse_to_read(talk: TokenTalk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise Unread

    monkeypatch.setattr(talk.generator, "embed", refuse)


def test_from_the_cache_the_talk_is_the_same(golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "prompts"
    first = talk_with(golden, tmp_path, PromptCache(folder, "model"))
    said = held(first, layout(golden, first, [5, 6]), golden)
    other = held(first, layout(golden, first, [5, 7]), golden)
    assert said != other
    second = talk_with(golden, tmp_path, PromptCache(folder, "model"))  # the next program
    for talk in (first, second):
        refuse_to_read(talk, monkeypatch)
        assert held(talk, layout(golden, talk, [5, 6]), golden) == said
        assert held(talk, layout(golden, talk, [5, 7]), golden) == other
        with pytest.raises(Unread):
            talk.begin(layout(golden, talk, [5]), Sampling())
    assert not list(folder.glob(".*"))


def test_another_model_or_voice_is_another_prompt(golden: Golden, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "prompts"
    first = talk_with(golden, tmp_path, PromptCache(folder, "model"))
    prompt = layout(golden, first, [5])
    first.begin(prompt, Sampling())
    saved = load_saved_voice(golden.saved_voice, first.spec)
    refuse_to_read(first, monkeypatch)
    with pytest.raises(Unread):
        first.begin(lay_out(saved, [5], first.spec), Sampling())
    second = talk_with(golden, tmp_path, PromptCache(folder, "model in int8"))
    refuse_to_read(second, monkeypatch)
    with pytest.raises(Unread):
        second.begin(prompt, Sampling())


def test_a_spoiled_file_is_as_good_as_none(golden: Golden, tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    first = talk_with(golden, tmp_path, PromptCache(folder, "model"))
    said = held(first, layout(golden, first, [5]), golden)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    second = talk_with(golden, tmp_path, PromptCache(folder, "model"))
    assert held(second, layout(golden, second, [5]), golden) == said


def test_only_the_last_used_are_kept(golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache, "IN_MEMORY", 2)
    monkeypatch.setattr(prompt_cache, "ON_DISK", 3)
    kept = PromptCache(tmp_path / "prompts", "model")
    talk = talk_with(golden, tmp_path, kept)
    for token in range(5, 10):
        talk.begin(layout(golden, talk, [token]), Sampling())
    assert len(kept._here) == 2 and len(list((tmp_path / "prompts").iterdir())) == 3


def test_what_is_kept_has_limits_in_bytes(golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = PromptCache(tmp_path / "prompts", "model")
    talk = talk_with(golden, tmp_path, kept)

    def in_memory_and_on_disk() -> tuple[int, int]:
        return len(kept._here), len(list((tmp_path / "prompts").iterdir()))

    talk.begin(layout(golden, talk, [5]), Sampling())
    (file,) = (tmp_path / "prompts").iterdir()
    monkeypatch.setattr(prompt_cache, "BYTES_IN_MEMORY", int(1.5 * file.stat().st_size))
    monkeypatch.setattr(prompt_cache, "BYTES_ON_DISK", int(2.5 * file.stat().st_size))
    for token, expected in ((6, (1, 2)), (7, (1, 2))):
        talk.begin(layout(golden, talk, [token]), Sampling())
        assert in_memory_and_on_disk() == expected
    talk.begin(layout(golden, talk, [7] * 200), Sampling())  # too large to be kept: what is there stays
    assert in_memory_and_on_disk() == (1, 2)
    refuse_to_read(talk, monkeypatch)
    talk.begin(layout(golden, talk, [7]), Sampling())
    with pytest.raises(Unread):
        talk.begin(layout(golden, talk, [7] * 200), Sampling())


def test_a_disk_that_cannot_be_written_stops_nothing(golden: Golden, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    talk = talk_with(golden, tmp_path, PromptCache(tmp_path / "file" / "prompts", "model"))
    assert len(held(talk, layout(golden, talk, [5]), golden)) > 0


def test_without_a_folder_nothing_is_written(golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = talk_with(golden, tmp_path, PromptCache())
    said = held(talk, layout(golden, talk, [5]), golden)
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]
    refuse_to_read(talk, monkeypatch)
    assert held(talk, layout(golden, talk, [5]), golden) == said
    assert torch.is_tensor(talk.generator.hidden)


def test_what_is_remembered_goes_to_and_fro_layer_by_layer(golden: Golden, tmp_path: Path) -> None:
    """A copy from or to the ring of a GPU passes through memory there that is as large."""
    talk = talk_with(golden, tmp_path, PromptCache())
    prompt = layout(golden, talk, list(range(1, 300)))
    remembered = talk.generator.cache.of(0, prompt.positions)
    for _ in ("kept", "found"):
        with LargestCopy() as largest:
            talk.begin(prompt, Sampling(greedy=True))
        assert largest.nbytes == remembered.nbytes / len(remembered)


def test_a_long_prompt_is_read_in_parts_and_remembered_as_in_one(golden: Golden, tmp_path: Path) -> None:
    talk = talk_with(golden, tmp_path, PromptCache())
    prompt = layout(golden, talk, list(range(1, 300)))
    remembered = talk.generator.cache.of(0, prompt.positions)
    whole = finished(read_prompt(talk.generator, 0, prompt, PromptCache())), remembered.clone()
    remembered.zero_()
    parts = finished(read_prompt(talk.generator, 0, prompt, PromptCache(), at_once=100)), remembered.clone()
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


READS_LATE = """
import select, sys
print(len(select.select([sys.stdin], [], [], 20)[0]))  # until it is told to, or nobody can tell it
open(sys.argv[2], "wb").write(open(sys.argv[1], "rb").read())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe with a name stands for a slow disk")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nobody_waits_for_a_slow_disk(dtype: torch.dtype, tmp_path: Path) -> None:
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    os.mkfifo(disk)
    prompt = {"remembered": torch.randn(2, 2, 1, 4, 50, 32).to(dtype), "hidden": torch.randn(1, 1, 7).to(dtype)}
    command = [sys.executable, "-c", READS_LATE, str(disk), str(copy)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        writer = Thread(target=prompt_cache._save, args=(prompt, disk))
        writer.start()
        told, _ = reader.communicate("now")
        writer.join()
    assert told == "1\n"
    read = load_file(copy)
    assert read.keys() == prompt.keys() and all(torch.equal(read[name], prompt[name]) for name in prompt)
