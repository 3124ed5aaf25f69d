"""Settings: the order of their sources through a real Typer app, and what is wrong with a `config.toml`."""

import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from unittest import mock

import pytest
import typer
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from personaplex_cli.errors import UsageError
from personaplex_cli.library import settings

ROOT = Path(__file__).parents[2]
OPTIONS = {"run": ["voice", "seed", "cpu_offload"], "chat": ["voice", "mute"]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose `.env` leaves no trace in the environment afterwards."""
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ):
        yield tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def app() -> typer.Typer:
    """A program that takes its settings as the real one does, and prints them."""
    program = typer.Typer()

    @program.callback()
    def start(ctx: typer.Context) -> None:
        settings.load_dotenv_file()
        ctx.default_map = settings.default_map(settings.config_path(), OPTIONS)

    @program.command()
    def run(
        voice: Annotated[str, typer.Option(envvar=settings.variable("voice"))] = "default",
        seed: Annotated[int, typer.Option(envvar=settings.variable("seed"))] = 0,
        cpu_offload: Annotated[
            bool, typer.Option("--cpu-offload/--no-cpu-offload", envvar=settings.variable("cpu_offload"))
        ] = False,
    ) -> None:
        print(voice, seed, cpu_offload)

    @program.command()
    def chat(voice: str = "default", mute: bool = False) -> None:
        print(voice, mute)

    return program


def outcome(*flags: str, environment: dict[str, str] | None = None) -> str:
    with mock.patch.dict(os.environ, environment or {}):
        result = CliRunner().invoke(app(), ["run", *flags])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


SOURCES = ("flag", "environment", ".env", "config.toml")


@pytest.mark.parametrize("present", [kept for n in range(5) for kept in itertools.combinations(SOURCES, n)], ids=str)
@pytest.mark.parametrize("variables", [(0, 0), (0, -1), (-1, 0), (-1, -1)], ids=["ours", "file", "shell", "both"])
def test_the_strongest_source_present_wins(present: tuple[str, ...], variables: tuple[int, int], folder: Path) -> None:
    """For a text, a number and a flag; in the shell, the file or both by the established names instead of ours."""
    # Neighbouring sources disagree about the flag, and all about the rest.
    values = {source: (source, str(n), n % 2 == 0) for n, source in enumerate(SOURCES, start=1)}
    names = {
        source: [settings.variable(option)[which] for option in OPTIONS["run"]]
        for source, which in zip(("environment", ".env"), variables, strict=True)
    }
    flags: list[str] = []
    environment: dict[str, str] = {}
    for source in present:
        voice, seed, offload = values[source]
        word = str(offload).lower()
        match source:
            case "flag":
                flags = ["--voice", voice, "--seed", seed, "--cpu-offload" if offload else "--no-cpu-offload"]
            case "environment":
                environment = dict(zip(names[source], (voice, seed, word), strict=True))
            case ".env":
                lines = zip(names[source], (voice, seed, word), strict=True)
                write(folder / ".env", "".join(f"{name}={value}\n" for name, value in lines))
            case _:
                write(settings.config_path(), f'voice = "{voice}"\nseed = {seed}\ncpu-offload = {word}\n')
    voice, seed, offload = values[present[0]] if present else ("default", "0", False)
    assert outcome(*flags, environment=environment) == f"{voice} {seed} {offload}"


def test_an_empty_variable_counts_as_unset(folder: Path) -> None:
    write(folder / ".env", "PERSONAPLEX_VOICE=NATM1\nHF_HOME=\nHF_TOKEN\n")
    assert outcome(environment={"PERSONAPLEX_VOICE": "", "PERSONAPLEX_SEED": ""}) == "NATM1 0 False"
    settings.load_dotenv_file()
    assert not {"HF_HOME", "HF_TOKEN"} & set(os.environ)


def test_only_the_working_folders_own_dotenv_counts_and_a_byte_order_mark_is_no_part_of_a_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_bytes(b"\xef\xbb\xbfHF_TOKEN=secret\n")
    (folder / "deep" / "below").mkdir(parents=True)
    monkeypatch.chdir(folder / "deep" / "below")
    assert settings.load_dotenv_file() == settings.Dotenv() and "HF_TOKEN" not in os.environ
    monkeypatch.chdir(folder)
    assert settings.load_dotenv_file().taken == {"HF_TOKEN"} and os.environ["HF_TOKEN"] == "secret"


SAFE = {name for option in ("model", "voice", "seed", "server_url", "token") for name in settings.variable(option)}
REDIRECTING = [
    *("HF_ENDPOINT", "HF_TOKEN_PATH", "HUGGINGFACE_HUB_ENDPOINT", "HF_INFERENCE_ENDPOINT", "PERSONAPLEX_CONFIG"),
    *("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES"),
    *("PYTHONPATH", "PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR", "CC"),
]


@given(
    st.lists(
        st.sampled_from(REDIRECTING) | st.sampled_from(sorted(SAFE)) | st.from_regex(r"[A-Z_]{1,12}", fullmatch=True)
    )
)
def test_a_dotenv_changes_no_variable_but_those_that_are_listed(names: list[str]) -> None:
    known = {*SAFE, "HF_TOKEN", "HF_HOME"}
    with mock.patch.dict(os.environ):
        for name in SAFE:
            os.environ.pop(name, None)
        write(Path(".env"), "".join(f"{name}=elsewhere\n" for name in names))
        before = dict(os.environ)
        got = settings.load_dotenv_file()
        changed = {name for name in os.environ if os.environ[name] != before.get(name)}
        assert changed == got.taken <= known
        assert {*names} & {*REDIRECTING[:17]} <= {*got.refused}, "what would matter is not ignored in silence"


def test_a_secret_of_the_environment_is_not_put_into_an_address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    write(folder / ".env", "PERSONAPLEX_SERVER_URL=ws://elsewhere/?${HF_TOKEN}\n")
    settings.load_dotenv_file()
    assert "secret" not in os.environ["PERSONAPLEX_SERVER_URL"]


@pytest.mark.parametrize("name", ["PERSONAPLEX_SERVER_URL", "MOSHI_WS_URL", "MOSHI_HOST", "MOSHI_PORT"])
def test_a_server_of_the_environment_is_not_replaced(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSHI_HOST", "mine")
    write(folder / ".env", f"{name}=9\n")
    settings.load_dotenv_file()
    assert [os.environ.get(each) for each in settings.variable("server_url")] == [None, "mine"]


def test_a_settings_file_that_is_named_must_be_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONAPLEX_CONFIG", str(folder / "gone.toml"))
    with pytest.raises(UsageError, match=r"no file .*gone\.toml, which PERSONAPLEX_CONFIG names") as caught:
        settings.default_map(settings.config_path(), OPTIONS)
    assert caught.value.hint


@pytest.mark.parametrize("name", [".env", "config.toml"])
def test_settings_are_regular_files_of_a_megabyte_at_most(name: str, folder: Path) -> None:
    """A FIFO would wait until somebody writes."""

    def read() -> object:
        return settings.load_dotenv_file() if name == ".env" else settings.read_config(folder / name)

    os.mkfifo(folder / name)
    with pytest.raises(UsageError, match="not a regular file"):
        read()
    (folder / name).unlink()
    write(folder / name, "#" * 1_000_001)
    with pytest.raises(UsageError, match="larger than 1 MB"):
        read()


def test_a_dotenv_that_is_not_text_is_named(folder: Path) -> None:
    (folder / ".env").write_bytes("HF_TOKEN=a".encode("utf-16"))
    with pytest.raises(UsageError, match=r"\.env is not plain text") as caught:
        settings.load_dotenv_file()
    assert "UTF-8" in caught.value.hint


def test_config_path_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.config_path() == settings.config_folder() / "config.toml"
    monkeypatch.setenv("PERSONAPLEX_CONFIG", "~/mine.toml")
    assert settings.config_path() == Path.home() / "mine.toml"
    monkeypatch.setenv("PERSONAPLEX_CONFIG", "")
    assert settings.config_path() == settings.config_folder() / "config.toml"


def test_settings_reach_the_commands_that_have_them_and_a_table_wins(folder: Path) -> None:
    path = write(folder / "config.toml", 'voice = "NATF0"\nseed = 7\n[chat]\nvoice = "NATM1"\nmute = true\n')
    assert settings.default_map(path, OPTIONS) == {
        "run": {"voice": "NATF0", "seed": "7"},
        "chat": {"voice": "NATM1", "mute": True},
    }


def test_a_missing_file_sets_nothing(folder: Path) -> None:
    assert settings.default_map(folder / "config.toml", OPTIONS) == {}


def test_a_fraction_is_not_cut_to_a_whole_number() -> None:
    write(settings.config_path(), "seed = 1.5")
    assert CliRunner().invoke(app(), ["run"]).exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("voise = 1", ["'voise'", "voice"]),
        ("cpu-ofload = true", ["'cpu-ofload'", "cpu_offload"]),
        ("[run]\nmute = true", ["'mute'", "[run]"]),
        ("[chatt]\nmute = true", ["command", "'chatt'", "chat"]),
        ("run = 1", ["run", "command", "[run]"]),
        ("[[run]]\nseed = 1", ["run", "command", "[run]"]),
        ("[run.inner]\nseed = 1", ["setting", "'inner'"]),
        ("seed = [1]", ["seed", "single"]),
        ("seed = 2026-01-01", ["seed", "single"]),
        ("[run]\nseed = {a = 1}", ["seed", "single"]),
        ("[seed]\na = 1", ["seed", "single"]),
        ("cpu-offload = true\ncpu_offload = false", ["cpu_offload", "twice"]),
        ("seed = 1\nvoice = \n", ["line 2"]),
        ("seed = 1\nseed = 2\n", ["line 2"]),
        ("seed = " + "[" * 20_000, ["nested"]),
        ("seed = " + "{a=" * 20_000, ["nested"]),
        ("seed = 0x" + "f" * 5_000, ["too large"]),
        ("seed = " + "9" * 5_000, ["digits"]),
    ],
)
def test_errors_name_the_file_and_the_key(text: str, words: list[str], folder: Path) -> None:
    path = write(folder / "config.toml", text)
    with pytest.raises(UsageError) as caught:
        settings.default_map(path, OPTIONS)
    said = f"{caught.value} {caught.value.hint}"
    assert all(word in said for word in [str(path), *words]), said


def test_what_cannot_be_read_is_an_error(folder: Path) -> None:
    (folder / "config.toml").mkdir()
    with pytest.raises(UsageError, match=r"config\.toml cannot be read"):
        settings.default_map(folder / "config.toml", OPTIONS)


@given(contents=st.binary() | st.text(alphabet="=[]{}\"'\n runseedvoice1.-_").map(str.encode))
def test_any_file_gives_settings_or_a_usage_error(tmp_path_factory: pytest.TempPathFactory, contents: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(contents)
    try:
        found = settings.default_map(path, OPTIONS)
    except UsageError as error:
        assert str(path) in f"{error} {error.hint}"
    else:
        assert all(set(values) <= set(OPTIONS[command]) for command, values in found.items())


@pytest.mark.parametrize(
    ("environment", "server"),
    [
        ({"MOSHI_HOST": "gpu"}, "gpu"),
        ({"MOSHI_HOST": "gpu", "MOSHI_PORT": "9000"}, "gpu:9000"),
        ({"MOSHI_PORT": "9000"}, None),
        ({"MOSHI_HOST": "gpu", "MOSHI_WS_URL": "ws://other"}, "ws://other"),
        ({"MOSHI_HOST": "gpu", "PERSONAPLEX_SERVER_URL": "ours", "MOSHI_WS_URL": "ws://other"}, "ours"),
        ({"MOSHI_HOST": "gpu", "PERSONAPLEX_SERVER_URL": "ours"}, "ours"),
    ],
)
@pytest.mark.parametrize("place", ["shell", "file"])
def test_a_server_may_be_named_as_moshis_clients_name_it(
    environment: dict[str, str], server: str | None, place: str, folder: Path
) -> None:
    if place == "file":
        write(folder / ".env", "".join(f"{name}={value}\n" for name, value in environment.items()))
    with mock.patch.dict(os.environ, environment if place == "shell" else {}):
        settings.load_dotenv_file()
        found = [os.environ.get(name) for name in settings.variable("server_url")]
    assert next(filter(None, found), None) == server


def test_the_example_changes_nothing_until_a_line_is_uncommented() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert dotenv_values(ROOT / ".env.example") == {}
    assignments = [line[2:].partition("=")[0] for line in example.splitlines() if line.startswith("# ") and "=" in line]
    ours = [name.removeprefix("PERSONAPLEX_").lower() for name in assignments if name.startswith("PERSONAPLEX_")]
    assert {"HF_TOKEN", "HF_HOME"} | {settings.variable(option)[0] for option in ours} == set(assignments)
    assert all(settings.variable(option)[-1] in example for option in settings.ESTABLISHED)


class TestTextThatIsNone:
    """No file makes the program stumble, whatever bytes it holds."""

    @given(content=st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
    def test_any_bytes_in_a_dotenv(self, content: bytes) -> None:
        Path(".env").write_bytes(content)
        with suppress(UsageError):
            settings.load_dotenv_file()

    @given(key=st.sampled_from(["voice", "seed"]), text=st.text(max_size=10))
    def test_any_text_in_a_config(self, key: str, text: str) -> None:
        quoted = "".join(f"\\u{ord(each):04x}" if ord(each) < 0x10000 else each for each in text)
        path = write(Path("config.toml"), f'{key} = "{quoted}"')
        try:
            settings.default_map(path, OPTIONS)
        except UsageError as error:
            assert "\0" in text and "NUL" in str(error)
        else:
            assert "\0" not in text

    def test_lines_that_set_nothing_are_known(self) -> None:
        write(Path(".env"), 'DEFAULT_VOICE=NATM1\nDEFAULT_PERSONA chef\n# a comment\n\nPERSONAPLEX_SEED="1\n')
        got = settings.load_dotenv_file()
        assert got.taken == {"DEFAULT_VOICE"} and got.unclear == (2, 5)


def test_a_folder_that_was_removed(folder: Path) -> None:
    """The model's libraries would end the process, with words of their own."""
    gone = folder / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError, match="does not exist any more"):
        settings.load_dotenv_file()
