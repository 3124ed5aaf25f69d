"""Files of a Hugging Face repo, from the cache or over the network.

They live in huggingface_hub's own cache (HF_HOME): other programs share them, and any file already there counts.
This module does not know what the files are for, prints nothing, and never holds the token: huggingface_hub finds it
(HF_TOKEN, or what `hf auth login` stored) and sends it.

Importing this imports huggingface_hub, which reads HF_HOME only then: `.env` must have been read before.

Errors become ours (`hub_errors.py`). The page and the list of files of a gated model are public, its files are refused.
"""

import logging
import re
import threading
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import requests
from huggingface_hub import HfApi, constants, errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from personaplex_cli.errors import ModelError, UsageError
from personaplex_cli.events import Downloading, Listener
from personaplex_cli.files import GIGABYTE, free_bytes
from personaplex_cli.library.hub_errors import OTHER_FOLDER, translated_errors

TIMEOUT = 10.0  # seconds for the hub's first answer
ATTEMPTS = 3  # cut connections in a row without a new byte, before giving up
PAUSE = 1.0  # seconds before the next attempt
POLL = 0.2  # seconds between two reports of progress
CHUNK = 1 << 18  # bytes written at once: the step of the progress, and what an interruption may lose
MAX_BYTES = 2**50  # of a file; more is no size
RESERVE = 500_000_000  # bytes that must stay free on the disk

COMMIT, ETAG = re.compile(r"[0-9a-f]{40}"), re.compile(r"[\w-]+")
REVISION = re.compile(r"(?!.*\.\.)\w[\w./+@#=-]*")


def find(repo: str, revision: str | None, names: Sequence[str]) -> dict[str, Path]:
    """Those of the files that are in the cache, without asking the network; their folder is named by the commit.

    Raises UsageError for malformed names, ModelError if the cache may not be read.
    """
    if revision is not None and not REVISION.fullmatch(revision):
        raise UsageError(f"{revision!r} is not a revision.", "Give a branch, a tag or a commit, such as main.")
    try:
        if "/" not in repo:
            raise errors.HFValidationError
        with translated_errors(repo, revision):
            found = {name: try_to_load_from_cache(repo, name, revision=revision) for name in names}
    except errors.HFValidationError:
        what = f"{repo!r} is neither a folder nor the name of a Hugging Face repo."
        raise UsageError(what, "Give the path of a folder, or a repo as ORG/NAME.") from None
    return {name: Path(path) for name, path in found.items() if isinstance(path, str)}


def cache_folder(repo: str) -> Path:
    """Where huggingface_hub keeps the repo: its files under `blobs`, their names under `snapshots`."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def fetch(
    repo: str,
    revision: str | None,
    needed: Sequence[str],
    optional: Sequence[str],
    listen: Listener,
    damaged: Collection[str] = (),
    kind: str = "PersonaPlex",
) -> Path:
    """Bring the files of the revision into the cache and return their folder, whose name is the commit.

    Those known as `damaged`, and those with a wrong size, are fetched anew, once the hub has answered.
    The needed files come last, so that once they are here all are. `listen` gets `Downloading` several times a second,
    from a thread of its own but never from two at once; if it raises, the reports end, and the error is raised here
    after the download. Ctrl-C ends it at once, and the next call continues where this one stopped.

    Raises ModelError if the repo is gated, absent, lacks a needed file, or does not fit the disk, and NetworkError.
    """
    folder = cache_folder(repo)
    with translated_errors(repo, revision), _plain_http():
        commit, files = _remote_files(repo, revision, needed, optional, kind)
        for file in files:
            file.discard_if_damaged(file.name in damaged)
        total = sum(file.size for file in files)
        _check_space(total - sum(file.here() for file in files), folder.parent)
    with _progress(files, total, listen), translated_errors(repo, revision), _plain_http():
        for file in files:
            _persist(repo, commit, file)
            if file.discard_if_damaged():
                raise ModelError(f"{file.name} came with a wrong size.", "Run this again to download it again.")
        if revision != commit:
            # Where huggingface_hub looks which commit the branch is at; last, when all its files are here.
            ref = folder / "refs" / (revision or "main")
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit)
    listen(Downloading(total, total))
    return folder / "snapshots" / commit


@dataclass(frozen=True)
class _RemoteFile:
    """A file of the hub, and its places in the cache in the order of its way: growing, whole, under its name."""

    name: str
    size: int
    places: tuple[Path, Path, Path]

    def here(self) -> int:
        """How many of its bytes are here."""
        return next((size for size in map(_size, self.places) if size is not None), 0)

    def discard_if_damaged(self, known: bool = False) -> bool:
        """Remove it if it is `known` to be damaged, or its size cannot be right: huggingface_hub would keep it forever.

        Returns whether it was.
        """
        growing, *whole = map(_size, self.places)
        damaged = known or (growing or 0) > self.size or any(size not in (None, self.size) for size in whole)
        if damaged:
            for place in self.places:
                place.unlink(missing_ok=True)
        return damaged


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _remote_files(
    repo: str, revision: str | None, needed: Sequence[str], optional: Sequence[str], kind: str
) -> tuple[str, list[_RemoteFile]]:
    """The commit of the revision and the files of it that we want. Raises what a gated repo answers."""
    info = HfApi().model_info(repo, revision=revision, timeout=TIMEOUT)
    commit, there = str(info.sha), {sibling.rfilename for sibling in info.siblings or ()}
    if not COMMIT.fullmatch(commit):  # it names a folder here
        raise ValueError(commit)
    if absent := [name for name in needed if name not in there]:
        what = f"{repo} is not a {kind} model: it has no {' and no '.join(absent)}."
        raise ModelError(what, "Give the name of another model, or none for the default.")
    folder = cache_folder(repo)
    files = []
    for name in (name for name in (*optional, *needed) if name in there):
        # One request each: the list above may mask the hashes of a gated repo, which name the blobs.
        about = get_hf_file_metadata(hf_hub_url(repo, name, revision=commit))
        etag = about.etag or ""
        if about.size is None or not 0 <= about.size < MAX_BYTES or not ETAG.fullmatch(etag):
            raise errors.FileMetadataError(name)
        blob = folder / "blobs" / etag
        growing = blob.with_name(f"{blob.name}.incomplete")
        files.append(_RemoteFile(name, about.size, (growing, blob, folder / "snapshots" / commit / name)))
    return commit, files


@contextmanager
def _plain_http() -> Iterator[None]:
    """huggingface_hub silent and on plain HTTP, for as long as this lasts.

    Its faster ways (hf_xet, hf_transfer) begin again from zero after an interruption and write late or out of order:
    neither resuming nor progress would hold. It read these settings from the environment when it was imported, so they
    are set in its variables.
    """
    bar, log = "huggingface_hub.http_get", logging.getLogger("huggingface_hub")
    settings = {"HF_HUB_DISABLE_XET": True, "HF_HUB_ENABLE_HF_TRANSFER": False, "DOWNLOAD_CHUNK_SIZE": CHUNK}
    with warnings.catch_warnings(), ExitStack() as undo:
        # It warns when the disk has no room for a whole file, even if only the rest is missing: we have checked that.
        warnings.simplefilter("ignore", UserWarning)
        for name, value in settings.items():
            undo.callback(setattr, constants, name, getattr(constants, name))
            setattr(constants, name, value)
        undo.callback(log.setLevel, log.level)
        log.setLevel(logging.ERROR)
        if not are_progress_bars_disabled(bar):
            undo.callback(enable_progress_bars, bar)
            disable_progress_bars(bar)
        yield


@contextmanager
def _progress(files: list[_RemoteFile], total: int, listen: Listener) -> Iterator[None]:
    """Report how the files grow, from a thread: the download needs the caller's, where Ctrl-C ends it."""
    over = threading.Event()

    def watch() -> None:
        done = 0
        while True:
            done = max(done, min(sum(file.here() for file in files), total))
            listen(Downloading(done, total))
            if over.wait(POLL):
                return

    with ThreadPoolExecutor(1, "download progress") as pool:
        try:
            watching = pool.submit(watch)
            yield
        finally:
            over.set()
    watching.result()


def _persist(repo: str, commit: str, file: _RemoteFile) -> None:
    """Get the file through any number of cut connections, until ATTEMPTS in a row bring nothing."""
    failures = 0
    while True:
        before = file.here()
        try:
            huggingface_hub.hf_hub_download(repo, file.name, revision=commit)
            return
        except requests.RequestException as error:
            failures = 0 if file.here() > before else failures + 1
            answered = isinstance(error, requests.HTTPError)  # and will answer the same again
            if failures == ATTEMPTS or (failures and answered):
                raise
            time.sleep(PAUSE)


def _check_space(missing: int, folder: Path) -> None:
    needed, free = missing + RESERVE, free_bytes(folder)
    if missing and free < needed:
        what = f"The model needs {needed / GIGABYTE:.1f} GB, and {folder} has {free / GIGABYTE:.1f} GB free."
        raise ModelError(what, f"Make room there, or {OTHER_FOLDER}.")
