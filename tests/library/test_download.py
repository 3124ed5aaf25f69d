"""A model comes from a (fake) hub, whole, also when it is interrupted."""

import os
import signal
import threading
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
from fakehub import FakeHub
from fakemodel import CHUNK, MIMI, TOKENIZER, VOICES, WEIGHTS, failure
from huggingface_hub.utils import are_progress_bars_disabled

from personaplex_cli.errors import NetworkError
from personaplex_cli.events import Downloading, Event, ignore
from personaplex_cli.library.spec import CONFIG_FILE, PERSONAPLEX, SPEC_FILE
from personaplex_cli.library.weights import cached, download
from personaplex_cli.options import DEFAULT_MODEL

# huggingface_hub leaves the connections of answers that it does not like to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("caches"),
]

# The way it should go


def test_all_files_that_are_wanted_come_and_no_others(hub: FakeHub, origin: Path) -> None:
    files = download(DEFAULT_MODEL, None, ignore)
    assert (files.name, files.revision) == (DEFAULT_MODEL, hub.commit)
    here = {path.name for path in files.folder.iterdir()}
    assert here == {WEIGHTS, MIMI, TOKENIZER, VOICES, CONFIG_FILE}
    for path in (files.weights, files.mimi, files.tokenizer):
        assert path.read_bytes() == (origin / path.name).read_bytes()


def test_sizes_come_with_the_model_when_it_has_them_and_config_need_not_be_there(hub: FakeHub, origin: Path) -> None:
    (origin / CONFIG_FILE).unlink()
    (origin / SPEC_FILE).write_text('{"lm": {"context": 40}}')
    files = download(DEFAULT_MODEL, None, ignore)
    assert files.spec.lm == {**PERSONAPLEX.lm, "context": 40}


@pytest.mark.parametrize("revision", [None, "main", "commit"])
def test_the_second_time_nothing_is_asked(origin: Path, revision: str | None) -> None:
    with FakeHub(origin) as hub:
        revision = hub.commit if revision == "commit" else revision
        first = download(DEFAULT_MODEL, revision, ignore)
        asked = len(hub.asked)
        events: list[Event] = []
        assert download(DEFAULT_MODEL, revision, events.append) == first
        assert len(hub.asked) == asked and not events
    assert cached(DEFAULT_MODEL, revision) == first
    assert download(DEFAULT_MODEL, revision, ignore) == first  # the hub is gone


def test_what_another_program_fetched_counts(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    for name in (WEIGHTS, MIMI, TOKENIZER, VOICES):
        assert cached(DEFAULT_MODEL) is None
        huggingface_hub.hf_hub_download(DEFAULT_MODEL, name, endpoint=hub.url, etag_timeout=60)
    assert cached(DEFAULT_MODEL) is not None


def test_a_new_commit_takes_over_only_when_it_is_whole(hub: FakeHub, origin: Path) -> None:
    old = download(DEFAULT_MODEL, None, ignore)
    hub.commit, hub.mode = "f00d" * 10, "unavailable"
    (origin / WEIGHTS).write_bytes(os.urandom(100))
    failure(revision=hub.commit)
    assert cached(DEFAULT_MODEL) == old
    hub.mode = "open"
    new = download(DEFAULT_MODEL, hub.commit, ignore)
    assert new.revision == hub.commit and new.weights.stat().st_size == 100
    assert len(hub.downloads(MIMI)) == 1, "what both commits share is not fetched again"


def test_progress_rises_to_the_total(hub: FakeHub, origin: Path) -> None:
    events: list[Event] = []
    download(DEFAULT_MODEL, None, events.append)
    total = sum((origin / name).stat().st_size for name in (WEIGHTS, MIMI, TOKENIZER, VOICES, CONFIG_FILE))
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

    download(DEFAULT_MODEL, None, listen)
    assert any(6 * CHUNK < done < 16 * CHUNK for done in seen)


def test_a_listener_that_fails_is_heard_of(hub: FakeHub) -> None:
    def listen(event: Event) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        download(DEFAULT_MODEL, None, listen)
    assert cached(DEFAULT_MODEL) is not None


def test_huggingface_hub_keeps_quiet_and_keeps_its_settings(
    hub: FakeHub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQDM_POSITION", "-1")  # else its bars are off here anyway, where there is no terminal
    constants = huggingface_hub.constants
    names = ("HF_HUB_DISABLE_XET", "HF_HUB_ENABLE_HF_TRANSFER", "DOWNLOAD_CHUNK_SIZE")
    before = [getattr(constants, name) for name in names]
    hub.cuts = [CHUNK]
    download(DEFAULT_MODEL, None, ignore)
    assert capfd.readouterr() == ("", "")
    assert [getattr(constants, name) for name in names] == before and not are_progress_bars_disabled()


def test_xet_is_not_used_although_it_is_offered(hub: FakeHub) -> None:
    download(DEFAULT_MODEL, None, ignore)
    assert not any("xet" in asked.path for asked in hub.asked)


# Interruptions


def test_a_cut_connection_is_taken_up_where_it_was(hub: FakeHub, origin: Path) -> None:
    hub.cuts = [5 * CHUNK] * 3
    files = download(DEFAULT_MODEL, None, ignore)
    assert files.weights.read_bytes() == (origin / WEIGHTS).read_bytes()
    assert [asked.start for asked in hub.downloads(WEIGHTS)] == [0, 5 * CHUNK, 10 * CHUNK, 15 * CHUNK]
    assert hub.served == sum(path.resolve().stat().st_size for path in files.folder.iterdir())


def test_any_number_of_cuts_is_borne_while_bytes_come(hub: FakeHub, origin: Path) -> None:
    hub.cuts = [2 * CHUNK] * 7
    files = download(DEFAULT_MODEL, None, ignore)
    assert files.weights.read_bytes() == (origin / WEIGHTS).read_bytes()


def test_cuts_that_bring_nothing_end_the_download(hub: FakeHub) -> None:
    hub.cuts = [4 * CHUNK, 0, 0, 0, 0]
    error = failure()
    assert isinstance(error, NetworkError) and error.exit_code == 6
    assert "Cannot reach 127.0.0.1" in str(error) and "continues where it stopped" in error.hint
    assert len(hub.downloads(WEIGHTS)) == 4
    hub.cuts = []
    download(DEFAULT_MODEL, None, ignore)
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
            download(DEFAULT_MODEL, None, listen)  # the hub holds the rest back
    finally:
        signal.signal(signal.SIGINT, before)
    assert growing.stat().st_size == 8 * CHUNK and cached(DEFAULT_MODEL) is None
    hub.hold_after = None
    events: list[Event] = []
    files = download(DEFAULT_MODEL, None, events.append)
    assert files.weights.read_bytes() == (origin / WEIGHTS).read_bytes()
    assert hub.downloads(WEIGHTS)[-1].start == 8 * CHUNK and len(hub.downloads(MIMI)) == 1
    assert isinstance(events[0], Downloading) and events[0].done > 8 * CHUNK, "what is here is counted from the start"
