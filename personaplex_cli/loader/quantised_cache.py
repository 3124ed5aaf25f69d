"""Quantised weights on disk: packing 8 billion numbers takes a while, so it is done once."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

SHARD = 512 * 2**20  # bytes that are held in memory until they are written
KEPT = 2  # models


class QuantisedCache:
    """The quantised weights of one model in one precision, in a folder of some files."""

    def __init__(self, folder: Path, expected: int) -> None:
        """`expected` bytes must be free on the disk, or nothing is kept."""
        self._folder = folder
        self._expected = expected

    @property
    def exists(self) -> bool:
        return self._folder.is_dir()

    def read(self, device_of: Callable[[str], torch.device]) -> Iterator[tuple[str, torch.Tensor]]:
        """What was kept, each tensor where `device_of` its name wants it. Raises SafetensorError or OSError."""
        for path in sorted(self._folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, file.get_tensor(name).to(device_of(name), copy=True)

    def keep(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Hand on all tensors, and keep them. A disk that is full or read-only is no reason to stop."""
        beside = self._folder.with_suffix(".part")
        shard: dict[str, torch.Tensor] = {}
        number = 0
        keeping = self._has_room()
        with contextlib.ExitStack() as at_the_end:
            at_the_end.callback(shutil.rmtree, beside, ignore_errors=True)
            for name, tensor in tensors:
                yield name, tensor
                if keeping:
                    shard[name] = tensor.to("cpu").contiguous()
                    if sum(each.nbytes for each in shard.values()) >= SHARD:
                        keeping = _written(beside / f"{number:03}.safetensors", shard)
                        shard, number = {}, number + 1
            if keeping and (not shard or _written(beside / f"{number:03}.safetensors", shard)):
                with contextlib.suppress(OSError):
                    beside.replace(self._folder)
                    self._forget_others()

    def forget(self) -> None:
        """Remove what was kept, if that is allowed."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _has_room(self) -> bool:
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(self._folder.parent).free > self._expected
        except OSError:
            return False

    def _forget_others(self) -> None:
        folders = [each for each in self._folder.parent.iterdir() if each.is_dir()]
        for old in sorted(folders, key=lambda each: each.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _written(path: Path, shard: dict[str, torch.Tensor]) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(shard, path)
    except (OSError, SafetensorError):
        return False
    return True
