"""The command line around the programs: lists, settings, help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakecard import FakeCard, plug_in

from personaplex_cli import __version__
from personaplex_cli.cli.main import program


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_voices_are_lines_on_a_pipe_and_objects_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["voices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 18 and all(line.count("\t") == 2 for line in lines)
    assert program(["voices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [voice["name"] for voice in listed] == [line.split("\t")[0] for line in lines]
    assert {voice["name"]: voice["persona"] for voice in listed}["NATF2"] == "teacher"


def test_personas_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["personas", "--json"]) == 0
    names = [persona["name"] for persona in json.loads(capsys.readouterr().out)]
    assert names == ["assistant", "astronaut", "chef", "customer_service", "teacher"]
    for name in names:
        assert program(["personas", "show", name]) == 0
        assert capsys.readouterr().out.splitlines()[0].startswith(name)
    assert program(["personas", "show", "cheff"]) == 2
    assert "Did you mean chef?" in capsys.readouterr().err


def test_one_persona_or_voice_is_shown_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["personas", "show", "chef"]) == program(["personas", "chef"]) == 0
    first, second = capsys.readouterr().out.split("chef: ")[1:]
    assert first == second
    assert program(["personas", "techer"]) == 2
    assert "Did you mean teacher?" in capsys.readouterr().err
    assert program(["voices", "natm1"]) == 0
    assert capsys.readouterr().out.startswith("name: NATM1\n")
    assert program(["voices", "NATM1", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == ["NATM1"]
    assert program(["voices", "NATN1"]) == 2
    assert "Did you mean NATM1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("voices rm", "Did you mean remove?"),
        ("voices rm ada --yes", "Did you mean remove?"),
        ("personas remov", "Did you mean remove?"),
        ("personas chek ada", "Did you mean check?"),
        ("voices delete ada", "See `personaplex voices --help`."),
    ],
)
def test_what_is_no_command_is_not_taken_for_a_name(
    words: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(words.split()) == 2
    assert capsys.readouterr().err == f"There is no command {words.split()[1]!r}.\n{remedy}\n"


def test_a_name_like_a_command_is_a_name(user_folders: Path) -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "personaplex/personas"
    folder.mkdir(parents=True)
    (folder / "try-me.toml").write_text('prompt = "Hello."')
    (folder / "removed.toml").write_text('prompt = "Hello."')
    assert program(["personas", "removed"]) == program(["personas", "try-me"]) == 0


def test_talk_is_chat(user_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "personaplex"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('[chat]\npersona = "nobody"')
    for name in ("chat", "talk"):
        assert program([name]) == 2
        assert "no persona named 'nobody'" in capsys.readouterr().err
        assert program([name, "-h"]) == 0
        assert "personaplex chat" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["chat", "run", "serve", "bench"])
def test_short_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"run": ["a.wav"]}.get(command, [])
    assert program([command, *arguments, "-p", "nobody"]) == 2
    assert "no persona named 'nobody'" in capsys.readouterr().err
    assert program([command, *arguments, "-p", "chef", "-v", "NATF9"]) == 2
    assert "no voice named 'NATF9'" in capsys.readouterr().err
    assert program([command, "-h"]) == 0
    shown = capsys.readouterr().out
    assert "-v " in shown and "-p " in shown and "-m " in shown


def test_the_users_own_files_are_listed(user_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = Path(os.environ["XDG_CONFIG_HOME"]) / "personaplex/personas"
    own.mkdir(parents=True)
    (own / "pirate.toml").write_text('prompt = "You enjoy having a good conversation."\ndescription = "Ahoy"')
    assert program(["personas"]) == 0
    assert "pirate\tAhoy\tNATF2" in capsys.readouterr().out


def test_settings_of_the_config_file_reach_the_command(
    user_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "personaplex"
    folder.mkdir(parents=True)
    Path("a.wav").touch()
    (folder / "config.toml").write_text('persona = "nobody"')
    assert program(["run", "a.wav"]) == 2
    assert "no persona named 'nobody'" in capsys.readouterr().err
    monkeypatch.setenv("DEFAULT_PERSONA", "noone")
    assert program(["run", "a.wav"]) == 2
    assert "no persona named 'noone'" in capsys.readouterr().err
    assert program(["run", "a.wav", "--persona", "nemo"]) == 2
    assert "no persona named 'nemo'" in capsys.readouterr().err
    (folder / "config.toml").write_text('personna = "teacher"')
    assert program(["run", "a.wav"]) == 2
    assert "persona" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--version", "-V"):
        assert program([option]) == 0
        assert capsys.readouterr().out == f"personaplex {__version__}\n"


PERSONAS = ("personas", "personas show", "personas new", "personas check", "personas try")


@pytest.mark.parametrize("command", [[], ["run"], ["download"], ["voices"], *map(str.split, PERSONAS)])
def test_help_fits_80_columns(command: list[str]) -> None:
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    code = "import sys; from personaplex_cli.cli.main import program; sys.exit(program(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and "Usage: personaplex" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("command", "busy", "said"),
    [
        (["doctor"], "programs.doctor.examine", "Stopped.\n"),
        (["bench", "--model", "demo"], "programs.bench.measure", "Stopped.\n"),
        (["devices", "--test"], "audio.devices.check_devices", "Stopped.\n"),
        (
            ["download"],
            "loader.find.find_files",
            "Stopped. What has arrived is kept; the next download continues there.\n",
        ),
    ],
)
def test_ctrl_c_says_what_is_kept_where_anything_is(
    command: list[str],
    busy: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"personaplex_cli.{busy}", interrupted)
    assert program(command) == 130
    assert capsys.readouterr().err == said


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "import sys; from personaplex_cli.cli.main import program; sys.exit(program(['voices', '--json']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_a_test_of_devices_says_what_is_wrong_before_it_announces_a_tone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in(FakeCard(), monkeypatch)
    assert program(["devices", "--test", "--input-device", "zz"]) == 2
    err = capsys.readouterr().err
    assert "There is no input device 'zz'" in err and "tone" not in err
