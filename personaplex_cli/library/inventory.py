"""Which files of a model are on this disk, and whether the rest can be fetched. Asks no network, changes nothing."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
from huggingface_hub import constants, get_token
from safetensors import SafetensorError, safe_open

from personaplex_cli.errors import ModelError
from personaplex_cli.files import GIGABYTE, free_bytes
from personaplex_cli.findings import OK, WRONG, Finding, warn_if
from personaplex_cli.library import hub
from personaplex_cli.library.spec import spec_of_folder, spec_of_repo
from personaplex_cli.library.weights import files_needed, is_folder
from personaplex_cli.options import DEFAULT_MODEL, DEMO, ModelFilesOptions

MODEL_BYTES = 18 * GIGABYTE  # on the disk, with room to spare
INT8_BYTES = 8.5 * GIGABYTE


@dataclass(frozen=True)
class Inventory:
    """The files of a model in a folder ("" if there is none), by name with their bytes; those that are missing, and
    those that are empty or not as long as their header says.

    `begun` is the bytes of files whose download has begun.
    """

    folder: str
    here: dict[str, int]
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    begun: int = 0

    @property
    def is_whole(self) -> bool:
        return not self.missing and not self.damaged


def check(options: ModelFilesOptions) -> Iterator[Finding]:
    """The model's files and, for one from the hub, the token and the room on the disk that a download needs."""
    if options.model == DEMO:
        yield Finding(OK, "model", "demo: it comes with the program, nothing to download")
    elif is_folder(options.model):
        stock = inventory_of_folder(Path(os.path.expanduser(options.model)))
        yield _check_files(options.model_name, stock, "Copy it there again", "Copy what is missing into the folder.")
    else:
        stock = inventory_of_repo(options.model, options.revision)
        fetch = "Run `personaplex download`"
        yield _check_token(options.model, stock)  # without which the download fails
        yield _check_files(options.model_name, stock, f"{fetch}, which repairs it", f"{fetch}.")
        yield _check_disk(stock)


def inventory_of_folder(folder: Path) -> Inventory:
    """The files of a model in a local folder, where a folder `voices/` may replace the archive of voices."""
    needed = files_needed(folder, spec_of_folder(folder))
    return _inventory(needed, {name: folder / name for name in needed if (folder / name).is_file()})


def inventory_of_repo(repo: str, revision: str | None) -> Inventory:
    """The files of the model ORG/NAME in the cache. Raises UsageError for a malformed name."""
    needed = spec_of_repo(repo).needed_files
    found = hub.find(repo, revision, needed)
    begun = sum(path.stat().st_size for path in hub.cache_folder(repo).glob("blobs/*.incomplete"))
    return _inventory(needed, found, begun)


def _inventory(needed: Sequence[str], files: Mapping[str, Path], begun: int = 0) -> Inventory:
    return Inventory(
        folder=next((str(path.parent) for path in files.values()), ""),
        here={name: path.stat().st_size for name, path in files.items()},
        missing=tuple(name for name in needed if name not in files),
        damaged=tuple(name for name, path in files.items() if not _is_whole(path)),
        begun=begun,
    )


def _is_whole(path: Path) -> bool:
    """Whether the size can be right: known exactly for safetensors; the rest is small, and known by its fingerprint."""
    size = path.stat().st_size
    if size == 0 or path.suffix != ".safetensors":
        return size > 0 and _has_its_fingerprint(path, size)
    try:
        with safe_open(path, framework="np"):  # compares the size with the header
            return True
    except SafetensorError:
        return False


def _has_its_fingerprint(path: Path, size: int) -> bool:
    """In the hub's cache a name is a link to a file that is called by its content; elsewhere there is none."""
    name = path.resolve().name
    if not path.is_symlink() or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name):
        return True
    with path.open("rb") as file:
        if len(name) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest() == name
        return hashlib.sha1(b"blob %d\0" % size + file.read()).hexdigest() == name  # Git's, for files not in LFS


def _check_files(name: str, stock: Inventory, again: str, advice: str) -> Finding:
    """`again` is what to do about damaged files, `advice` about missing ones."""
    size, figures = sum(stock.here.values()), asdict(stock)
    if stock.is_whole:
        return Finding(OK, "model", f"{name} is here, {size / GIGABYTE:.1f} GB, all files complete", figures=figures)
    if stock.damaged:
        damaged = " and ".join(str(Path(stock.folder) / each) for each in stock.damaged)
        found = f"{name}: damaged, or cut short: {', '.join(stock.damaged)}"
        advice = f"{again} ({damaged})."
    else:
        begun = f"; {(size + stock.begun) / GIGABYTE:.1f} GB of it are" if size + stock.begun else ""
        found = f"{name} lacks {', '.join(stock.missing)}{begun}" if stock.here else f"{name} is not here{begun}"
    return Finding(WRONG, "model", found, advice, figures, ModelError.exit_code)


def _check_token(model: str, stock: Inventory) -> Finding:
    """Whether there is a Hugging Face token, from HF_TOKEN or from `hf auth login`. It is not read."""
    has_token = get_token() is not None
    found = f"there is {'a' if has_token else 'no'} Hugging Face token"
    if stock.is_whole and not has_token:
        found += ", and none is needed any more"
    advice = "Run `personaplex login`, or set HF_TOKEN."
    if model == DEFAULT_MODEL:
        advice = f"Accept the licence at https://huggingface.co/{model}, then run `personaplex login`."
    return warn_if(not has_token and not stock.is_whole, "token", found, advice, {"token": has_token})


def _check_disk(stock: Inventory) -> Finding:
    cache, own = Path(constants.HF_HUB_CACHE), platformdirs.user_cache_path("personaplex")
    free, free_own = free_bytes(cache), free_bytes(own)
    missing = 0 if stock.is_whole else MODEL_BYTES - sum(stock.here.values()) - stock.begun
    figures = {"model": {"free": free, "needed": missing}, "int8": {"free": free_own, "needed": INT8_BYTES}}
    found = f"{free / GIGABYTE:.1f} GB free at {cache}"
    if free_own != free:
        found += f", {free_own / GIGABYTE:.1f} GB at {own}"
    if free < missing:
        advice = f"The model needs {missing / GIGABYTE:.1f} GB there: make room, or set HF_HOME to another disk."
        return Finding(WRONG, "disk", found, advice, figures, ModelError.exit_code)
    advice = f"int8 keeps {INT8_BYTES / GIGABYTE:.1f} GB; without that room it is made again each time."
    return warn_if(free_own < INT8_BYTES, "disk", found, advice, figures)
