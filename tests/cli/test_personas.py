"""The commands that write, check and try personas."""

import io
import json
import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from personaplex_cli import character
from personaplex_cli.audio.recording import read_recording, write_wav
from personaplex_cli.cli.main import program
from personaplex_cli.cli.output import Output
from personaplex_cli.library.catalog import find_persona
from personaplex_cli.samples import SAMPLE_RATE

CHAT = "You enjoy having a good conversation."
pytestmark = pytest.mark.model  # a check counts tokens


@pytest.fixture
def own(user_folders: Path) -> Path:
    return Path(os.environ["XDG_CONFIG_HOME"]) / "personaplex" / "personas"


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Sets a program as the editor of a user at a terminal: Python, in which `path` is what it is to edit."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: "n\n"))
    monkeypatch.setattr(Output, "isatty", lambda self: True, raising=False)
    script = tmp_path / "my editor.py"

    def does(code: str) -> None:
        script.write_text(f"import sys; from pathlib import Path; path = Path(sys.argv[-1]); {code}")
        monkeypatch.setenv("VISUAL", shlex.join([sys.executable, str(script), "--wait"]))

    return does


@pytest.mark.parametrize("way", ["option", "file", "stdin"])
def test_a_persona_is_written_from_a_text(
    way: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f'{CHAT} You are "Ada".\nBe kind.'
    (tmp_path / "text").write_text(f"{text}\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(text if way == "stdin" else ""))
    given = {"option": ["--prompt", text], "file": ["--prompt", f"@{tmp_path / 'text'}"], "stdin": []}[way]
    assert program(["personas", "new", "ada", "--voice", "natm1", "--description", "Kind", *given]) == 0
    persona = find_persona("ada")
    assert (persona.prompt, persona.voice, persona.description) == (text, "NATM1", "Kind")
    finding, done = capsys.readouterr().out.splitlines()
    assert persona.path == own / "ada.toml" and finding.startswith("ok\tada\t")
    assert done == "Added the persona ada. Talk with it: personaplex chat --persona ada."
    assert program(["personas", "new", "Ada", "--prompt", "Other."]) == 2
    assert find_persona("ada") == persona


@pytest.mark.parametrize(
    "arguments",
    [["a/b", "--prompt", "x"], ["new", "--prompt", "x"], ["ada", "--prompt", " "], ["ada"], ["ada", "-v", "Q"]],
)
def test_what_cannot_be_is_not_written(arguments: list[str], own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert program(["personas", "new", *arguments]) == 2
    assert not own.exists()


def test_a_new_one_is_written_in_the_editor(editor: object, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    editor("path.write_text(path.read_text().replace('...', 'tea'))")  # type: ignore[operator]
    assert program(["personas", "new", "ada", "-v", "VARF1"]) == 0
    assert find_persona("ada").voice == "VARF1" and "about tea" in find_persona("ada").prompt
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("code", ["pass", "sys.exit(3)", "path.unlink()"])
@pytest.mark.parametrize("command", ["new ada", "edit chef"])
def test_where_the_editor_writes_nothing_nothing_is_left(
    command: str, code: str, editor: object, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    editor(code)  # type: ignore[operator]
    assert program(["personas", *command.split()]) == (0 if command == "edit chef" and code != "sys.exit(3)" else 2)
    assert list(own.iterdir()) == []
    assert ("failed (exit code 3)" if "exit" in code else "Nothing was") in capsys.readouterr().err


@pytest.mark.parametrize(("command", "side"), [("edit chef", "stdin"), ("edit chef", "stdout"), ("new ada", "stdout")])
def test_no_editor_is_opened_without_a_terminal(
    command: str,
    side: str,
    editor: object,
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    editor("path.write_text('edited')")  # type: ignore[operator]
    stream = {"stdin": sys.stdin, "stdout": Output}[side]
    monkeypatch.setattr(stream, "isatty", lambda *self: False)  # as in a pipe
    assert program(["personas", *command.split()]) == 2
    assert "without a terminal" in capsys.readouterr().err and not own.exists()


def test_without_an_editor_it_is_told(editor: object, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nowhere/nothing", "'"):
        monkeypatch.setenv("VISUAL", name)
        assert program(["personas", "new", "ada"]) == 2
        assert list(own.iterdir()) == []


def test_one_that_ships_is_copied_and_then_changed(
    editor: object, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = find_persona("chef")
    editor("path.write_text(path.read_text().replace('Bruno', 'Ada'))")  # type: ignore[operator]
    assert program(["personas", "edit", "chef"]) == 0
    assert find_persona("chef").prompt == shipped.prompt.replace("Bruno", "Ada")
    assert "Bruno" in shipped.path.read_text()
    assert f"Copied to {own / 'chef.toml'}" in " ".join(capsys.readouterr().err.split())
    editor("path.write_text('broken')")  # type: ignore[operator]
    assert program(["personas", "edit", "chef"]) == 2  # and what was written is kept
    assert "Changed the persona chef. Change it: personaplex personas edit chef." in capsys.readouterr().out
    assert (own / "chef.toml").read_text() == "broken"
    editor(f"path.write_text('prompt = \"{CHAT}\"')")  # type: ignore[operator]
    assert program(["personas", "edit", "chef"]) == 0
    assert program(["personas", "remove", "chef"]) == 2 and find_persona("chef").prompt == CHAT
    assert program(["personas", "remove", "chef", "--yes"]) == 0 and find_persona("chef") == shipped
    assert program(["personas", "remove", "chef", "--yes"]) == 2


def test_without_names_ones_own_are_checked(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["personas", "check"]) == 0
    assert capsys.readouterr().out == ""
    own.mkdir(parents=True)
    (own / "ada.toml").write_text(f'prompt = "{CHAT}"')
    assert program(["personas", "check"]) == 0
    assert [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()] == [["ok", "ada"]]
    (own / "bad.toml").write_text("prompt")
    assert program(["personas", "check"]) == program(["personas", "check", "chef", "bad"]) == 2
    kinds = [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()]
    assert kinds == [["ok", "ada"], ["wrong", "bad"], ["ok", "chef"], ["wrong", "bad"]]
    assert program(["personas", "check", "ada"]) == 0
    capsys.readouterr()
    assert program(["personas", "check", "ada", "nosuch"]) == 2
    assert capsys.readouterr().out == ""


def test_the_model_of_config_toml_counts(
    own: Path, random_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own.parent.mkdir(parents=True)
    (own.parent / "config.toml").write_text(f'model = "{random_folder}"\n["personas check"]\nrevision = "x"\n')
    assert program(["personas", "check", "chef"]) == 0
    assert str(random_folder) in "".join(capsys.readouterr().err.split())


class TestTry:
    @pytest.fixture(autouse=True)
    def always_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(character, "fresh_seed", lambda: 3)

    def test_it_says_what_run_says(
        self, random_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with open("question.wav", "wb") as file:
            write_wav(file, np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32))
        usual = ["--model", str(random_folder), "--device", "cpu"]
        assert program(["personas", "try", "chef", "question.wav", "-o", "tried.wav", *usual]) == 0
        said = capsys.readouterr().out.strip()
        run = ["run", "question.wav", "-o", "run.wav", "--persona", "chef", "--tail", "4", "--seed", "3"]
        assert program([*run, *usual]) == 0
        assert said and said == json.loads(Path("run.json").read_text())["text"]
        assert np.array_equal(read_recording("tried.wav"), read_recording("run.wav"))
        assert sorted(each.name for each in tmp_path.glob("tried*")) == ["tried.wav"]

    def test_without_a_question_it_hears_ours_and_writes_nothing(
        self, random_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        before = set(tmp_path.iterdir())
        assert program(["personas", "try", "teacher", "--model", str(random_folder), "--device", "cpu"]) == 0
        assert capsys.readouterr().out.strip() and set(tmp_path.iterdir()) <= before | {tmp_path / "user"}

    def test_what_cannot_be_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert program(["personas", "try", "nobody"]) == 2
        assert program(["personas", "try", "chef", str(tmp_path / "gone.wav")]) == 2
        (tmp_path / "empty.wav").touch()
        assert program(["personas", "try", "chef", str(tmp_path / "empty.wav")]) == 4
        assert "Traceback" not in capsys.readouterr().err
