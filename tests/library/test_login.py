"""`personaplex login`: the token is checked, stored as huggingface_hub does, and shown nowhere."""

import io
from pathlib import Path

import pytest
from fakehub import TOKEN, FakeHub
from huggingface_hub import get_token

from personaplex_cli.cli import machine
from personaplex_cli.cli.main import program

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("caches"),
]


@pytest.fixture(autouse=True)
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_STORED_TOKENS_PATH", str(tmp_path / "stored_tokens"))
    monkeypatch.chdir(tmp_path)


def typed(token: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The token on standard input, which is a pipe."""
    monkeypatch.setattr("sys.stdin", io.StringIO(token))
    return program(["login"])


def test_a_good_token_is_stored(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(f"  {TOKEN}\n", monkeypatch) == 0
    told = capsys.readouterr()
    assert told.out == "Logged in at Hugging Face as ada.\n" and told.err == ""
    assert get_token() == TOKEN


def test_on_a_terminal_it_is_asked_for_without_echo(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr(machine, "getpass", lambda prompt: TOKEN)
    assert program(["login"]) == 0 and get_token() == TOKEN


def test_a_licence_that_is_not_accepted_is_told_at_once(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.mode = "unaccepted"
    assert typed(TOKEN, monkeypatch) == 0 and get_token() == TOKEN
    assert "accept its licence first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("token", "code"),
    [("hf_wrong", 3), ("", 2), ("\n", 2), ("two words", 2), ("hf_\u2026", 2), ("api_org_x", 2), ("x" * 5000, 3)],
)
def test_what_is_no_token_is_not_stored_and_not_shown(
    hub: FakeHub, token: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(token, monkeypatch) == code
    told = "".join(capsys.readouterr())
    assert "token" in told and (len(token) < 3 or token not in told)
    assert get_token() is None


def test_a_token_of_the_environment_wins_and_that_is_said(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert typed(TOKEN, monkeypatch) == 0
    assert "HF_TOKEN is set" in capsys.readouterr().err


def test_no_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert typed(TOKEN, monkeypatch) == 6
    assert TOKEN not in "".join(capsys.readouterr()) and get_token() is None
