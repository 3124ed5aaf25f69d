"""Who speaks, by what the user gave: files of prompts."""

import os
import threading
from pathlib import Path

import pytest

from personaplex_cli.errors import UsageError
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions


def prompt(text: str) -> str:
    return find_character(CharacterOptions(prompt=text)).prompt


def test_a_prompt_is_read_from_a_file_or_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(b"\xef\xbb\xbf  You are kind.\n")
    assert prompt(f"@{path}") == "You are kind."
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("You are brief."))
    writer.start()
    assert prompt(f"@{tmp_path / 'pipe'}") == "You are brief."
    writer.join()


def test_a_known_personas_prompt_has_its_name() -> None:
    chef = find_character(CharacterOptions(persona="chef"))
    assert find_character(CharacterOptions(prompt=f" {chef.prompt}\n")).persona == "chef"
    assert find_character(CharacterOptions(prompt="You sing.")).persona == "a custom persona"


@pytest.mark.parametrize("name", ["/dev/zero", "/", "", "loop", "large", "~nobody/x", "nowhere", "a\0b", "a" * 5000])
def test_what_is_no_file_of_a_prompt(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("large").write_text("x" * 1_000_001)
    with pytest.raises(UsageError, match="prompt file") as caught:
        prompt(f"@{name}")
    assert caught.value.hint
