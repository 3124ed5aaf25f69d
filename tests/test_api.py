"""The public names: there, typed, lazy, and used as the README uses them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import personaplex_cli

NAMES = """
    Character CharacterOptions Conversation ModelOptions PersonaplexError Recording RemoteOptions Sampling SoundCard
    SoundCardOptions connect converse converse_all find_character load
"""
README = Path(__file__).parents[1] / "README.md"


def test_these_names_are_exported_and_no_others() -> None:
    assert personaplex_cli.__all__ == sorted(NAMES.split())
    for name in personaplex_cli.__all__:
        assert getattr(personaplex_cli, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'chat_with'"):
        personaplex_cli.chat_with  # noqa: B018


def test_a_type_checker_knows_the_same_names() -> None:
    source = Path(str(personaplex_cli.__file__)).read_text()
    assert set(re.findall(r"import \w+ as (\w+)", source)) == set(personaplex_cli.__all__)


def test_importing_them_imports_nothing_heavy() -> None:
    code = (
        "import sys, personaplex_cli; from personaplex_cli import Sampling, converse; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.model
def test_the_readmes_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    example = example.replace("examples/", f"{README.parent}/examples/")
    run = subprocess.run([sys.executable, "-W", "error", "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() and (tmp_path / "answer.wav").stat().st_size > 100_000
