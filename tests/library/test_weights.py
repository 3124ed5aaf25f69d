"""A model's files come from a (fake) hub, whole, or with a word on what is wrong and what helps."""

import errno
import gc
import gzip
import io
import os
import signal
import socket
import tarfile
import threading
import traceback
import warnings
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.constants
import pytest
from fakehub import TOKEN, FakeHub
from huggingface_hub.utils import are_progress_bars_disabled, reset_sessions

from personaplex_cli.errors import ModelError, NetworkError, PersonaplexError, UsageError
from personaplex_cli.events import Downloading, Event
from personaplex_cli.library import hub as hub_module
from personaplex_cli.library.weights import (
    CONFIG,
    DEFAULT_MODEL,
    MIMI,
    SIZES,
    TOKENIZER,
    VOICES,
    WEIGHTS,
    ModelFiles,
    cached,
    download,
    open_folder,
    voice_file,
    voice_names,
)

# huggingface_hub leaves the connections of answers that it does not like to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

CHUNK = 1 << 16
Usage = namedtuple("Usage", "total used free")


def archive(path: Path, *members: tarfile.TarInfo | str, content: bytes = b"a voice") -> Path:
    """A .tgz with these members; a name stands for a regular file."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return path


def ignore(event: Event) -> None:
    pass


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Caches of our own, no token, no waiting."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub_module, "POLL", 0.005)
    monkeypatch.setattr(hub_module, "PAUSE", 0.0)
    monkeypatch.setattr(hub_module, "CHUNK", CHUNK)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    yield
    reset_sessions()
    gc.collect()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "models--nvidia--personaplex-7b-v1"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """The folder of the model that the hub serves."""
    folder = tmp_path / "origin"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(os.urandom(16 * CHUNK + 5))
    (folder / MIMI).write_bytes(os.urandom(3 * CHUNK))
    (folder / TOKENIZER).write_bytes(b"pieces")
    (folder / CONFIG).write_text("{}")
    (folder / "dist.tgz").write_bytes(b"a web client")
    archive(folder / VOICES, "voices/NATF2.pt", "voices/VARM0.pt")
    return folder


@pytest.fixture
def hub(origin: Path) -> Iterator[FakeHub]:
    with FakeHub(origin) as hub:
        yield hub


def failure(hub: FakeHub, model: str = DEFAULT_MODEL, revision: str | None = None) -> PersonaplexError:
    """The error that a download ends with."""
    with pytest.raises(PersonaplexError) as caught:
        download(model, revision, ignore, endpoint=hub.url)
    return caught.value


# The way it should go


def test_all_files_that_are_wanted_come_and_no_others(hub: FakeHub, origin: Path) -> None:
    files = download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    assert (files.name, files.revision) == (DEFAULT_MODEL, hub.commit)
    assert sorted(path.name for path in files.folder.iterdir()) == sorted([WEIGHTS, MIMI, TOKENIZER, VOICES, CONFIG])
    for path in (files.weights, files.mimi, files.tokenizer):
        assert path.read_bytes() == (origin / path.name).read_bytes()


def test_sizes_come_with_the_model_when_it_has_them_and_config_need_not_be_there(hub: FakeHub, origin: Path) -> None:
    (origin / CONFIG).unlink()
    (origin / SIZES).write_text('{"dim": 64}')
    files = download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    assert (files.folder / SIZES).read_text() == '{"dim": 64}'


@pytest.mark.parametrize("revision", [None, "main", "commit"])
def test_the_second_time_nothing_is_asked(origin: Path, revision: str | None) -> None:
    with FakeHub(origin) as hub:
        revision = hub.commit if revision == "commit" else revision
        first = download(DEFAULT_MODEL, revision, ignore, endpoint=hub.url)
        asked = len(hub.asked)
        events: list[Event] = []
        assert download(DEFAULT_MODEL, revision, events.append, endpoint=hub.url) == first
        assert len(hub.asked) == asked and not events
    assert cached(DEFAULT_MODEL, revision) == first
    assert download(DEFAULT_MODEL, revision, ignore, endpoint=hub.url) == first  # the hub is gone


def test_what_another_program_fetched_counts(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    for name in (WEIGHTS, MIMI, TOKENIZER, VOICES):
        assert cached(DEFAULT_MODEL) is None
        huggingface_hub.hf_hub_download(DEFAULT_MODEL, name, endpoint=hub.url, etag_timeout=60)
    assert cached(DEFAULT_MODEL) is not None


def test_a_new_commit_takes_over_only_when_it_is_whole(hub: FakeHub, origin: Path) -> None:
    old = download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    hub.commit, hub.mode = "f00d" * 10, "unavailable"
    (origin / WEIGHTS).write_bytes(os.urandom(100))
    failure(hub, revision=hub.commit)
    assert cached(DEFAULT_MODEL) == old
    hub.mode = "open"
    new = download(DEFAULT_MODEL, hub.commit, ignore, endpoint=hub.url)
    assert new.revision == hub.commit and new.weights.stat().st_size == 100
    assert len(hub.downloads(MIMI)) == 1, "what both commits share is not fetched again"


def test_progress_rises_to_the_total(hub: FakeHub, origin: Path) -> None:
    events: list[Event] = []
    download(DEFAULT_MODEL, None, events.append, endpoint=hub.url)
    total = sum((origin / name).stat().st_size for name in (WEIGHTS, MIMI, TOKENIZER, VOICES, CONFIG))
    assert all(isinstance(event, Downloading) and event.total == total for event in events)
    done = [event.done for event in events if isinstance(event, Downloading)]
    assert done == sorted(done) and done[0] < done[-1] == total


def test_progress_shows_a_file_while_it_grows(hub: FakeHub) -> None:
    hub.hold_after = 4 * CHUNK
    seen: list[int] = []

    def listen(event: Event) -> None:
        assert isinstance(event, Downloading)
        seen.append(event.done)
        if event.done > 6 * CHUNK:  # Mimi's three, and some of the weights
            hub.go_on.set()

    download(DEFAULT_MODEL, None, listen, endpoint=hub.url)
    assert any(6 * CHUNK < done < 16 * CHUNK for done in seen)


def test_a_listener_that_fails_is_heard_of(hub: FakeHub) -> None:
    def listen(event: Event) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        download(DEFAULT_MODEL, None, listen, endpoint=hub.url)
    assert cached(DEFAULT_MODEL) is not None


def test_huggingface_hub_keeps_quiet_and_keeps_its_settings(
    hub: FakeHub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQDM_POSITION", "-1")  # else its bars are off here anyway, where there is no terminal
    constants = huggingface_hub.constants
    names = ("HF_HUB_DISABLE_XET", "HF_HUB_ENABLE_HF_TRANSFER", "DOWNLOAD_CHUNK_SIZE")
    before = [getattr(constants, name) for name in names]
    hub.cuts = [CHUNK]
    download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    assert capfd.readouterr() == ("", "")
    assert [getattr(constants, name) for name in names] == before and not are_progress_bars_disabled()


def test_xet_is_not_used_although_it_is_offered(hub: FakeHub) -> None:
    download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    assert not any("xet" in asked.path for asked in hub.asked)


# Interruptions


def test_a_cut_connection_is_taken_up_where_it_was(hub: FakeHub, origin: Path) -> None:
    hub.cuts = [5 * CHUNK] * 3
    files = download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    assert files.weights.read_bytes() == (origin / WEIGHTS).read_bytes()
    assert [asked.start for asked in hub.downloads(WEIGHTS)] == [0, 5 * CHUNK, 10 * CHUNK, 15 * CHUNK]
    assert hub.served == sum(path.resolve().stat().st_size for path in files.folder.iterdir())


def test_any_number_of_cuts_is_borne_while_bytes_come(hub: FakeHub, origin: Path) -> None:
    hub.cuts = [2 * CHUNK] * 7
    files = download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    assert files.weights.read_bytes() == (origin / WEIGHTS).read_bytes()


def test_cuts_that_bring_nothing_end_the_download(hub: FakeHub) -> None:
    hub.cuts = [4 * CHUNK, 0, 0, 0, 0]
    error = failure(hub)
    assert isinstance(error, NetworkError) and error.exit_code == 6
    assert "connection to 127.0.0.1" in str(error) and "goes on where it stopped" in error.hint
    assert len(hub.downloads(WEIGHTS)) == 4
    hub.cuts = []
    download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    assert hub.downloads(WEIGHTS)[-1].start == 4 * CHUNK


def test_ctrl_c_leaves_at_once_and_the_next_run_goes_on(hub: FakeHub, origin: Path, cache: Path) -> None:
    hub.hold_after = 8 * CHUNK
    growing = cache / "blobs" / f"{hub.blob(WEIGHTS)}.incomplete"
    main = threading.main_thread().ident
    assert main is not None
    pressed = threading.Event()

    def listen(event: Event) -> None:
        if growing.exists() and growing.stat().st_size == 8 * CHUNK and not pressed.is_set():
            pressed.set()
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for what runs behind
    try:
        with pytest.raises(KeyboardInterrupt):
            download(DEFAULT_MODEL, None, listen, endpoint=hub.url)  # the hub holds the rest back
    finally:
        signal.signal(signal.SIGINT, before)
    assert growing.stat().st_size == 8 * CHUNK and cached(DEFAULT_MODEL) is None
    hub.hold_after = None
    events: list[Event] = []
    files = download(DEFAULT_MODEL, None, events.append, endpoint=hub.url)
    assert files.weights.read_bytes() == (origin / WEIGHTS).read_bytes()
    assert hub.downloads(WEIGHTS)[-1].start == 8 * CHUNK and len(hub.downloads(MIMI)) == 1
    assert isinstance(events[0], Downloading) and events[0].done > 8 * CHUNK, "what is here is counted from the start"


# What may be wrong on the hub


def test_gated_without_a_token(hub: FakeHub) -> None:
    hub.mode = "gated"
    error = failure(hub)
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
    files = download(DEFAULT_MODEL, None, events.append, endpoint=hub.url)
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
    error = failure(hub)
    assert isinstance(error, ModelError) and words in str(error) and help in error.hint


def test_the_refusal_is_understood_from_inside_the_client_too(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused after the list: then hf_hub_download meets it, and wraps it in another error."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    get = huggingface_hub.hf_hub_download

    def refused(*args: object, **options: object) -> str:
        hub.mode = "fine-grained"
        return str(get(*args, **options))  # type: ignore[call-overload]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    assert "settings/tokens" in failure(hub).hint


@pytest.mark.parametrize("mode", ["open", "gated"])
def test_a_token_the_hub_does_not_know(hub: FakeHub, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
    hub.mode = mode
    error = failure(hub)
    assert isinstance(error, ModelError) and "does not know your token" in str(error)
    assert "settings/tokens" in error.hint and "hf auth login" in error.hint


@pytest.mark.parametrize("token", ["hf_secret_with_dots\u2026", "hf_secret_wrong"])
def test_the_token_is_in_no_message_and_no_traceback(
    hub: FakeHub, token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that no header can carry makes the client's own error quote the header."""
    monkeypatch.setenv("HF_TOKEN", token)
    error = failure(hub)
    text = "".join(traceback.format_exception(error)) + repr(error) + error.hint
    assert "does not know your token" in text and "hf_secret" not in text
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("token", [None, TOKEN])
def test_no_such_repo(hub: FakeHub, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    error = failure(hub, "nvidia/personaplex-8b")
    assert isinstance(error, ModelError) and "nvidia/personaplex-8b" in str(error) and "private" in str(error)


def test_no_such_revision(hub: FakeHub) -> None:
    error = failure(hub, revision="v9")
    assert isinstance(error, ModelError) and "'v9'" in str(error) and "commits" in error.hint


@pytest.mark.parametrize("name", [WEIGHTS, MIMI, TOKENIZER, VOICES])
def test_a_repo_that_is_no_personaplex_model(hub: FakeHub, origin: Path, name: str) -> None:
    (origin / name).unlink()
    error = failure(hub)
    assert isinstance(error, ModelError) and name in str(error) and "not a PersonaPlex model" in str(error)
    assert not hub.downloads(CONFIG)


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
    error = failure(hub)
    assert isinstance(error, NetworkError) and status in str(error) and "status.huggingface.co" in error.hint


def test_no_network_and_not_here() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(NetworkError, match=r"connection to 127\.0\.0\.1") as caught:
            download(DEFAULT_MODEL, None, ignore, endpoint=f"http://127.0.0.1:{port}")
    assert "network" in caught.value.hint


def test_offline_by_wish_and_not_here(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    reset_sessions()
    error = failure(hub)
    assert isinstance(error, NetworkError) and "HF_HUB_OFFLINE" in error.hint


def test_something_else_answers(tmp_path: Path) -> None:
    """A login page of a wireless network, say."""
    (tmp_path / "web").mkdir()
    with FakeHub(tmp_path / "web") as hub, pytest.raises(PersonaplexError) as caught:
        download(DEFAULT_MODEL, None, ignore, endpoint=f"{hub.url}/elsewhere")
    assert caught.value.exit_code in (3, 6)


# What may be wrong on the disk


def test_a_full_disk_is_noticed_before(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**12, 10**12 - 300_000_000, 300_000_000))
    error = failure(hub)
    assert isinstance(error, ModelError) and "0.5 GB" in str(error) and "0.3 GB" in str(error)
    assert str(tmp_path) in str(error) and "HF_HOME" in error.hint
    assert not hub.downloads(CONFIG)


def test_only_what_is_missing_must_fit(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.cuts = [12 * CHUNK, 0, 0, 0]
    failure(hub)
    monkeypatch.setattr(hub_module, "RESERVE", 0)
    free = 4 * CHUNK + 5
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**12, 10**12 - free, free))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the client would warn
        download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up(hub: FakeHub, cache: Path) -> None:
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / f"{hub.blob(WEIGHTS)}.incomplete").symlink_to("/dev/full")
    error = failure(hub)
    assert isinstance(error, ModelError) and "full" in str(error) and "HF_HOME" in error.hint


def test_a_cache_that_may_not_be_written(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*args: object, **options: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", "/cache/blobs")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", closed)
    error = failure(hub)
    assert isinstance(error, ModelError) and "permission" in str(error) and "/cache/blobs" in str(error)
    assert "HF_HOME" in error.hint


def test_a_cache_that_is_no_folder(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    error = failure(hub)
    assert isinstance(error, ModelError) and "hub" in str(error) and "HF_HOME" in error.hint


def test_a_file_that_arrives_short_is_completed_by_the_next_run(hub: FakeHub, origin: Path) -> None:
    hub.short = 3
    error = failure(hub)
    assert isinstance(error, ModelError) and "whole" in str(error) and error.hint
    hub.short = 0
    files = download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    assert files.weights.read_bytes() == (origin / WEIGHTS).read_bytes()


def test_a_file_damaged_here_is_fetched_anew(hub: FakeHub, origin: Path) -> None:
    files = download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    with files.mimi.open("ab") as file:
        file.truncate(CHUNK)
    files.weights.unlink()  # the file's name: what it points to stays
    again = download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    assert again.mimi.read_bytes() == (origin / MIMI).read_bytes()
    assert (len(hub.downloads(MIMI)), len(hub.downloads(WEIGHTS))) == (2, 1)


def test_a_beginning_that_is_too_long_is_thrown_away(hub: FakeHub, origin: Path, cache: Path) -> None:
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / f"{hub.blob(TOKENIZER)}.incomplete").write_bytes(b"more than there is")
    files = download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    assert files.tokenizer.read_bytes() == (origin / TOKENIZER).read_bytes()


def test_a_wrong_size_is_an_error_and_the_file_goes(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    get = huggingface_hub.hf_hub_download

    def damaged(repo: str, name: str, **options: object) -> str:
        path = str(get(repo, name, **options))  # type: ignore[call-overload]
        if name == MIMI:
            os.truncate(path, 7)
        return path

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", damaged)
    error = failure(hub)
    assert isinstance(error, ModelError) and MIMI in str(error) and "size" in str(error)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", get)
    download(DEFAULT_MODEL, None, ignore, endpoint=hub.url)
    assert len(hub.downloads(MIMI)) == 2


# A folder of one's own


def test_open_folder(origin: Path) -> None:
    files = open_folder(origin)
    assert files == ModelFiles("origin", origin, "local")
    assert files.weights.is_file() and files.mimi.is_file() and files.tokenizer.is_file()


def test_open_folder_with_unpacked_voices(origin: Path) -> None:
    (origin / VOICES).unlink()
    (origin / "voices").mkdir()
    (origin / "voices" / "ME.pt").write_bytes(b"mine")
    assert voice_names(open_folder(origin)) == ["ME"]


@pytest.mark.parametrize("name", [WEIGHTS, MIMI, TOKENIZER, VOICES])
@pytest.mark.parametrize("state", ["missing", "empty"])
def test_open_folder_names_the_file_that_is_wrong(origin: Path, name: str, state: str) -> None:
    (origin / name).unlink()
    if state == "empty":
        (origin / name).touch()
    with pytest.raises(ModelError, match=name.replace(".", r"\.")) as caught:
        open_folder(origin)
    assert caught.value.hint


def test_open_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        open_folder(tmp_path / "nowhere")


# Voices


@pytest.fixture
def files(origin: Path) -> ModelFiles:
    return open_folder(origin)


def unpacked(tmp_path: Path) -> list[str]:
    """All that lies in our voice cache, by its path in there."""
    root = tmp_path / "cache" / "personaplex" / "voices"
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) if root.exists() else []


def test_voices_are_unpacked_once(files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = voice_file(files, "NATF2.pt")
    assert path.read_bytes() == b"a voice" and voice_names(files) == ["NATF2", "VARM0"]
    assert path.parent.parent == tmp_path / "cache" / "personaplex" / "voices" and len(path.parent.name) == 16
    monkeypatch.setattr(tarfile, "open", None)
    assert voice_file(files, "NATF2.pt") == path


def test_two_archives_do_not_mix(files: ModelFiles, tmp_path: Path) -> None:
    first = voice_file(files, "NATF2.pt")
    archive(files.folder / VOICES, "voices/NATF2.pt", content=b"another voice")
    assert voice_file(files, "NATF2.pt").read_bytes() == b"another voice" and first.read_bytes() == b"a voice"


def test_a_voice_in_the_folder_comes_first_and_those_of_the_archive_remain(files: ModelFiles) -> None:
    (files.folder / "voices").mkdir()
    (files.folder / "voices" / "NATF2.pt").write_bytes(b"mine")
    assert voice_file(files, "NATF2.pt").read_bytes() == b"mine"
    assert voice_file(files, "VARM0.pt").read_bytes() == b"a voice"
    assert voice_names(files) == ["NATF2", "VARM0"]


def test_an_absent_voice(files: ModelFiles) -> None:
    with pytest.raises(UsageError, match="NATF3") as caught:
        voice_file(files, "NATF3.pt")
    assert "Did you mean NATF2?" in caught.value.hint and "VARM0" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["../NATF2.pt", "/etc/passwd", "sub/NATF2.pt", "..", ".pt", "NATF2", "a\\b.pt", "\0.pt"]
)
def test_names_that_no_voice_has(files: ModelFiles, name: str) -> None:
    (files.folder / "NATF2.pt").write_bytes(b"beside voices/")
    with pytest.raises(UsageError):
        voice_file(files, name)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_wicked_archive_gives_its_voices_and_nothing_else(files: ModelFiles, tmp_path: Path) -> None:
    evil = str(tmp_path / "evil.pt")
    archive(
        files.folder / VOICES,
        "../evil.pt",
        evil,
        "voices/../../evil.pt",
        "voices/sub/evil.pt",
        "voices/evil.sh",
        "voices/..\\evil.pt",
        link("voices/LINK.pt", "/etc/passwd"),
        link("voices/OUT.pt", "../../../evil.pt"),
        link("voices/HARD.pt", "/etc/passwd", tarfile.LNKTYPE),
        link("voices/PIPE.pt", "", tarfile.FIFOTYPE),
        "./voices/NATF2.pt",
    )
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    assert voice_names(files) == ["NATF2"]
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    folder = voice_file(files, "NATF2.pt").parent
    assert unpacked(tmp_path) == [folder.name, f"{folder.name}/NATF2.pt"]


def test_a_link_in_place_of_the_folder_is_not_followed(files: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    archive(files.folder / VOICES, link("voices", str(tmp_path / "outside")), "voices/NATF2.pt")
    assert voice_names(files) == ["NATF2"]
    assert not any((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("guard", ["own only", "Python's too"])
def test_unpacking_needs_no_guard_of_python(files: ModelFiles, guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 12's Python 3.11.2 has none."""
    if guard == "own only":
        monkeypatch.delattr(tarfile, "data_filter")
        monkeypatch.setattr(tarfile.TarFile, "extraction_filter", staticmethod(lambda member, path: member))
    assert voice_names(files) == ["NATF2", "VARM0"]


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "not gzip":
        path.write_bytes(b"<html>Please log in</html>")
    elif how == "not tar":
        path.write_bytes(gzip.compress(b"x" * 2000))
    elif how == "flipped":
        path.write_bytes(content[:60] + bytes(byte ^ 255 for byte in content[60:90]) + content[90:])
    elif how == "no voices":
        archive(path, "README.md")


@pytest.mark.parametrize("how", ["truncated", "not gzip", "not tar", "flipped", "no voices"])
def test_a_damaged_archive_leaves_nothing(files: ModelFiles, how: str, tmp_path: Path) -> None:
    archive(files.folder / VOICES, "voices/NATF2.pt", "voices/VARM0.pt", content=os.urandom(5000))
    spoil(files.folder / VOICES, how)
    with pytest.raises(ModelError, match=r"voices\.tgz is damaged") as caught:
        voice_file(files, "NATF2.pt")
    assert str(files.folder / VOICES) in caught.value.hint
    assert unpacked(tmp_path) == []


def test_many_may_unpack_at_once(files: ModelFiles, tmp_path: Path) -> None:
    archive(files.folder / VOICES, *(f"voices/V{index}.pt" for index in range(50)), content=os.urandom(2000))
    at_once = threading.Barrier(8)

    def use(index: int) -> bytes:
        at_once.wait(timeout=30)
        return voice_file(files, f"V{index}.pt").read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(use, range(8)))) == 1
    assert len([path for path in unpacked(tmp_path) if "/" not in path]) == 1


def test_a_cache_for_voices_that_cannot_be(files: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelError, match="cannot be used") as caught:
        voice_names(files)
    assert "XDG_CACHE_HOME" in caught.value.hint
