"""What of a model is on this disk, and whether there is a token to fetch the rest. Asks no network, changes nothing."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from personaplex_cli.library.weights import NEEDED, VOICES

LENGTH = 8  # bytes of a safetensors file that hold the length of its header
LONGEST_HEADER = 10**8  # bytes, says the format


@dataclass(frozen=True)
class Inventory:
    """The files of a model in a folder ("" if there is none), by name with their bytes; those that are missing, and
    those that are empty or of another size than they say.

    `begun` is the bytes of files that have begun to come.
    """

    folder: str
    here: dict[str, int]
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    begun: int = 0

    @property
    def is_whole(self) -> bool:
        return not self.missing and not self.damaged


def inventory_of_folder(folder: Path) -> Inventory:
    """What there is of a model in a folder of one's own, where a folder `voices/` may stand for `voices.tgz`."""
    unpacked = (folder / "voices").is_dir()
    return _stock({name: folder / name for name in NEEDED if not (name == VOICES and unpacked)})


def inventory_of_repo(repo: str, revision: str | None) -> Inventory:
    """What there is of the model ORG/NAME in the cache. Raises UsageError for a malformed name."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    from personaplex_cli.library.hub import find

    find(repo, revision, NEEDED)  # refuses malformed names, and a cache that may not be read
    found = {name: try_to_load_from_cache(repo, name, constants.HF_HUB_CACHE, revision) for name in NEEDED}
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    begun = sum(path.stat().st_size for path in blobs.glob("*.incomplete"))
    return _stock({name: Path(path) if isinstance(path, str) else None for name, path in found.items()}, begun)


def cache_folder() -> Path:
    """Where downloads are kept. It may not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def free_bytes(folder: Path) -> int:
    """What is free on the disk where the folder is, or would be."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def has_token() -> bool:
    """Whether there is a Hugging Face token, from HF_TOKEN or from `hf auth login`. We never look at it."""
    from huggingface_hub import get_token

    return get_token() is not None


def safetensors_length(path: Path) -> int:
    """The bytes that a safetensors file must have by its own header. Raises ValueError if that makes no sense."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        if length > LONGEST_HEADER:
            raise ValueError("this is no safetensors file")
        header = json.loads(file.read(length))
    try:
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return LENGTH + length + max(ends, default=0)
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError("this is no safetensors file") from error


def _stock(paths: dict[str, Path | None], begun: int = 0) -> Inventory:
    files = {name: path for name, path in paths.items() if path and path.is_file()}
    return Inventory(
        folder=next((str(path.parent) for path in files.values()), ""),
        here={name: os.path.getsize(path) for name, path in files.items()},
        missing=tuple(name for name in paths if name not in files),
        damaged=tuple(name for name, path in files.items() if not _is_whole(path)),
        begun=begun,
    )


def _is_whole(path: Path) -> bool:
    """Whether the size can be right: known exactly for safetensors, of the rest only that there is something."""
    size = path.stat().st_size
    try:
        return size > 0 and (path.suffix != ".safetensors" or size == safetensors_length(path))
    except ValueError:
        return False
