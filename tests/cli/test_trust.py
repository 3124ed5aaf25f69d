"""Who names the server, and which secrets go to it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from personaplex_cli.cli.main import program
from personaplex_cli.client import engine
from personaplex_cli.events import Event, Note
from personaplex_cli.options import RemoteOptions

ENVIRONMENT = {"token": "PERSONAPLEX_TOKEN", "server": "PERSONAPLEX_SERVER_URL", "insecure": "PERSONAPLEX_INSECURE"}
VALUES = {"token": "hush", "server": "ws://gpu.example:8998", "insecure": "true"}
PLACES = ("flag", "environment", ".env", "config.toml")


class Called(Exception):
    """With what `connect` was called last."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("q.wav").write_bytes((Path(__file__).parents[2] / "examples/question.wav").read_bytes())
    with mock.patch.dict(os.environ):
        yield


def asked(monkeypatch: pytest.MonkeyPatch, **places: str) -> tuple[RemoteOptions, str]:
    """What `run` asks of the client, and what it says, when each option comes from its place."""
    arguments, lines, config = ["run", "q.wav"], [""], [""]
    for option, place in places.items():
        match place:
            case "flag":
                arguments += [f"--{option}"] if option == "insecure" else [f"--{option}", VALUES[option]]
            case "environment":
                monkeypatch.setenv(ENVIRONMENT[option], VALUES[option])
            case ".env":
                lines.append(f"{ENVIRONMENT[option]}={VALUES[option]}")
            case "config.toml":
                config.append(f"{option} = {VALUES[option] if option == 'insecure' else repr(VALUES[option])}")
    Path(".env").write_text("\n".join(lines))
    settings = Path(os.environ["XDG_CONFIG_HOME"], "personaplex/config.toml")
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("\n".join(config))
    got: list[RemoteOptions] = []
    said: list[Event] = []

    def connect(options: RemoteOptions, listen: Any = None, paced: bool = False) -> Any:
        got.append(options)
        if listen:
            raise Called

    monkeypatch.setattr(engine, "connect", connect)
    monkeypatch.setattr("personaplex_cli.screen.screens.ProgressScreen.show", lambda self, event: said.append(event))
    program(arguments)
    return got[-1], " ".join(each.text for each in said if isinstance(each, Note))


@pytest.mark.parametrize("server", PLACES)
@pytest.mark.parametrize("token", PLACES)
def test_a_token_goes_only_to_the_server_of_its_own_source(
    token: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, said = asked(monkeypatch, server=server, token=token, insecure=token)
    goes = token in ("flag", server)
    assert (options.token, options.insecure) == (("hush", True) if goes else (None, False))
    assert ("is not used" in said) != goes and "hush" not in said


@pytest.mark.parametrize("server", PLACES)
def test_one_line_says_which_file_set_the_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, said = asked(monkeypatch, server=server)
    expected = {"flag": "", "environment": "the environment"}.get(server, server)
    assert (f"{expected} says" in said) == (server != "flag") and ("gpu.example:8998" in said) == (server != "flag")


def test_what_a_dotenv_may_not_set_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_text("HF_ENDPOINT=http://127.0.0.1:9\nPOSTGRES_PASSWORD=secret\n")
    assert program(["voices"]) == 0
    told = capsys.readouterr().err
    assert (
        f"{tmp_path}/.env may not set HF_ENDPOINT" in told
        and "POSTGRES" not in told
        and "HF_ENDPOINT" not in os.environ
    )


@pytest.mark.parametrize(
    ("server", "token", "warned"),
    [
        ("ws://gpu.example", "hush", True),
        ("192.0.2.7:8998", "hush", True),
        ("wss://gpu.example", "hush", False),
        ("localhost", "hush", False),
        ("127.0.0.2:1", "hush", False),
        ("::1", "hush", False),
        ("ws://gpu.example", None, False),
        ("ws://localhost.example", "hush", True),
    ],
)
def test_a_token_that_can_be_read_on_the_way_is_warned_of(server: str, token: str | None, warned: bool) -> None:
    said: list[Event] = []
    engine.connect(RemoteOptions(server, token), said.append)
    assert bool(said) == warned and "hush" not in repr(said)
