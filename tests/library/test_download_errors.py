"""What may be wrong on the hub or on the disk: a download says what it is, and what helps."""

import errno
import os
import socket
import traceback
import warnings
from collections import namedtuple
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
from fakehub import TOKEN, FakeHub, hub_at
from fakemodel import CHUNK, MIMI, TOKENIZER, VOICES, WEIGHTS, failure
from huggingface_hub.utils import reset_sessions

from personaplex_cli.errors import ModelError, NetworkError, PersonaplexError, UsageError
from personaplex_cli.events import Event, ignore
from personaplex_cli.library import hub as hub_module
from personaplex_cli.library.spec import CONFIG_FILE
from personaplex_cli.library.weights import cached, download
from personaplex_cli.options import DEFAULT_MODEL

# huggingface_hub leaves the connections of answers that it does not like to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("caches"),
]

Usage = namedtuple("Usage", "total used free")

# What may be wrong on the hub


def test_gated_without_a_token(hub: FakeHub) -> None:
    hub.mode = "gated"
    error = failure()
    assert isinstance(error, ModelError) and error.exit_code == 3
    assert "gated" in str(error) and "no Hugging Face token" in str(error)
    for help in ("hf auth login", "HF_TOKEN", "huggingface.co/settings/tokens", f"huggingface.co/{DEFAULT_MODEL}"):
        assert help in error.hint


@pytest.mark.parametrize("way", ["environment", "login"])
def test_gated_with_a_good_token(hub: FakeHub, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.mode = "gated"
    if way == "environment":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    else:
        (tmp_path / "token").write_text(TOKEN)
    events: list[Event] = []
    files = download(DEFAULT_MODEL, None, events.append)
    assert TOKEN not in repr((files, events))
    kept = [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]
    assert kept and not any(TOKEN.encode() in path.read_bytes() for path in kept)


@pytest.mark.parametrize(
    ("mode", "words", "help"),
    [
        ("unaccepted", "no access", f"https://huggingface.co/{DEFAULT_MODEL}"),
        ("pending", "not answered", f"https://huggingface.co/{DEFAULT_MODEL}"),
        ("fine-grained", "gated models", "Read access to contents of all public gated repos you can access"),
        ("disabled", "Access to this resource is disabled", DEFAULT_MODEL),
        ("vanished", "file", DEFAULT_MODEL),
    ],
)
def test_refused_with_a_token(hub: FakeHub, mode: str, words: str, help: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.mode = mode
    error = failure()
    assert isinstance(error, ModelError) and words in str(error) and help in error.hint


def test_the_refusal_is_understood_from_inside_the_client_too(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused after the list: then hf_hub_download meets it, and wraps it in another error."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    get = huggingface_hub.hf_hub_download

    def refused(*args: object, **options: object) -> str:
        hub.mode = "fine-grained"
        return str(get(*args, **options))  # type: ignore[call-overload]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    assert "settings/tokens" in failure().hint


@pytest.mark.parametrize("mode", ["open", "gated"])
def test_a_token_the_hub_does_not_know(hub: FakeHub, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
    hub.mode = mode
    error = failure()
    assert isinstance(error, ModelError) and "does not know your token" in str(error)
    assert "settings/tokens" in error.hint and "hf auth login" in error.hint


@pytest.mark.parametrize("token", ["hf_secret_with_dots\u2026", "hf_secret_wrong"])
def test_the_token_is_in_no_message_and_no_traceback(
    hub: FakeHub, token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that no header can carry makes the client's own error quote the header."""
    monkeypatch.setenv("HF_TOKEN", token)
    error = failure()
    text = "".join(traceback.format_exception(error)) + repr(error) + error.hint
    assert "does not know your token" in text and "hf_secret" not in text
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("token", [None, TOKEN])
def test_no_such_repo(hub: FakeHub, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    error = failure("nvidia/personaplex-8b")
    assert isinstance(error, ModelError) and "nvidia/personaplex-8b" in str(error) and "private" in str(error)


def test_no_such_revision(hub: FakeHub) -> None:
    error = failure(revision="v9")
    assert isinstance(error, ModelError) and "'v9'" in str(error) and "commits" in error.hint


@pytest.mark.parametrize("name", [WEIGHTS, MIMI, TOKENIZER, VOICES])
def test_a_repo_that_is_no_personaplex_model(hub: FakeHub, origin: Path, name: str) -> None:
    (origin / name).unlink()
    error = failure()
    assert isinstance(error, ModelError) and name in str(error) and "not a PersonaPlex model" in str(error)
    assert not hub.downloads(CONFIG_FILE)


@pytest.mark.parametrize("model", ["", "personaplex", "./models/mine", "a/b/c", "nvidia/personaplex 7b", "a/b..c"])
def test_names_that_no_repo_has(model: str) -> None:
    with pytest.raises(UsageError, match="neither a folder nor") as caught:
        cached(model)
    assert "ORG/NAME" in caught.value.hint


@pytest.mark.parametrize("revision", ["", "../../main", "/etc", "a b"])
def test_names_that_no_revision_has(revision: str) -> None:
    with pytest.raises(UsageError, match="not a revision"):
        download(DEFAULT_MODEL, revision, ignore)


@pytest.mark.parametrize(("mode", "status"), [("unavailable", "503"), ("broken", "500")])
def test_the_hub_is_ill(hub: FakeHub, mode: str, status: str) -> None:
    hub.mode = mode
    error = failure()
    assert isinstance(error, NetworkError) and status in str(error) and "status.huggingface.co" in error.hint


def test_no_network_and_not_here() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(NetworkError, match="Cannot reach 127") as caught, hub_at(f"http://127.0.0.1:{port}"):
            download(DEFAULT_MODEL, None, ignore)
    assert "network" in caught.value.hint


def test_offline_by_wish_and_not_here(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    reset_sessions()
    error = failure()
    assert isinstance(error, NetworkError) and "HF_HUB_OFFLINE" in error.hint


def test_something_else_answers(tmp_path: Path) -> None:
    """A login page of a wireless network, say."""
    (tmp_path / "web").mkdir()
    with FakeHub(tmp_path / "web") as hub, hub_at(f"{hub.url}/elsewhere"), pytest.raises(PersonaplexError) as caught:
        download(DEFAULT_MODEL, None, ignore)
    assert caught.value.exit_code in (3, 6)


# What may be wrong on the disk


def test_a_full_disk_is_noticed_before(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**12, 10**12 - 300_000_000, 300_000_000))
    error = failure()
    assert isinstance(error, ModelError) and "0.5 GB" in str(error) and "0.3 GB" in str(error)
    assert str(tmp_path) in str(error) and "HF_HOME" in error.hint
    assert not hub.downloads(CONFIG_FILE)


def test_only_what_is_missing_must_fit(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.cuts = [12 * CHUNK, 0, 0, 0]
    failure()
    monkeypatch.setattr(hub_module, "RESERVE", 0)
    free = 4 * CHUNK + 5
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**12, 10**12 - free, free))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the client would warn
        download(DEFAULT_MODEL, None, ignore)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up(hub: FakeHub, cache: Path) -> None:
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / f"{hub.blob(WEIGHTS)}.incomplete").symlink_to("/dev/full")
    error = failure()
    assert isinstance(error, ModelError) and "full" in str(error) and "HF_HOME" in error.hint


def test_a_cache_that_may_not_be_written(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*args: object, **options: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", "/cache/blobs")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", closed)
    error = failure()
    assert isinstance(error, ModelError) and "permission" in str(error) and "/cache/blobs" in str(error)
    assert "HF_HOME" in error.hint


def test_a_cache_that_is_no_folder(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    error = failure()
    assert isinstance(error, ModelError) and "hub" in str(error) and "HF_HOME" in error.hint


def test_a_file_that_arrives_short_is_completed_by_the_next_run(hub: FakeHub, origin: Path) -> None:
    hub.short = 3
    error = failure()
    assert isinstance(error, ModelError) and "incomplete" in str(error) and error.hint
    hub.short = 0
    files = download(DEFAULT_MODEL, None, ignore)
    assert files.weights.read_bytes() == (origin / WEIGHTS).read_bytes()


def test_a_file_damaged_here_is_fetched_anew(hub: FakeHub, origin: Path) -> None:
    files = download(DEFAULT_MODEL, None, ignore)
    with files.mimi.open("ab") as file:
        file.truncate(CHUNK)
    files.weights.unlink()  # the file's name: what it points to stays
    again = download(DEFAULT_MODEL, None, ignore)
    assert again.mimi.read_bytes() == (origin / MIMI).read_bytes()
    assert (len(hub.downloads(MIMI)), len(hub.downloads(WEIGHTS))) == (2, 1)


def test_a_beginning_that_is_too_long_is_thrown_away(hub: FakeHub, origin: Path, cache: Path) -> None:
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / f"{hub.blob(TOKENIZER)}.incomplete").write_bytes(b"more than there is")
    files = download(DEFAULT_MODEL, None, ignore)
    assert files.tokenizer.read_bytes() == (origin / TOKENIZER).read_bytes()


def test_a_wrong_size_is_an_error_and_the_file_goes(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    get = huggingface_hub.hf_hub_download

    def damaged(repo: str, name: str, **options: object) -> str:
        path = str(get(repo, name, **options))  # type: ignore[call-overload]
        if name == MIMI:
            os.truncate(path, 7)
        return path

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", damaged)
    error = failure()
    assert isinstance(error, ModelError) and MIMI in str(error) and "size" in str(error)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", get)
    download(DEFAULT_MODEL, None, ignore)
    assert len(hub.downloads(MIMI)) == 2
