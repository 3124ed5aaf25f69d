"""Quantised weights on disk: packing 8 billion numbers takes a while, so it is done once."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from personaplex_cli.files import atomic_folder, free_bytes, keep_newest
from personaplex_cli.loader.tensor_file import TensorFile

SHARD = 512 * 2**20  # bytes that are held in memory until they are written
KEPT = 2  # models

Place = Callable[[str], torch.device]  # the device of a tensor, by its name in the file
Tensors = Iterator[tuple[str, torch.Tensor]]


class QuantisedCache:
    """The quantised weights of one model in one precision, in a folder of some files."""

    def __init__(self, folder: Path, expected: int) -> None:
        """`expected` bytes must be free on the disk, or nothing is kept."""
        self._folder = folder
        self._expected = expected

    @property
    def exists(self) -> bool:
        try:
            return self._folder.is_dir()
        except OSError:  # a folder above may be closed to us
            return False

    def read(self, place: Place) -> Tensors:
        """What was kept, each tensor where `place` says. Raises SafetensorError or OSError."""
        for path in sorted(self._folder.glob("*.safetensors")):
            with TensorFile(path) as file:
                for name in file.shapes:
                    yield name, file.read(name).to(place(name))
                file.check_unchanged()

    def keep(self, tensors: Tensors) -> Tensors:
        """Hand on all tensors, and keep them. A disk that is full or read-only is no reason to stop."""
        with suppress(OSError, SafetensorError):
            yield from self._keep(tensors)
        yield from tensors  # those that are left

    def forget(self) -> None:
        """Remove what was kept, as far as the system allows it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep(self, tensors: Tensors) -> Tensors:
        if free_bytes(self._folder) <= self._expected:
            return
        with atomic_folder(self._folder) as partial:
            shard: dict[str, torch.Tensor] = {}
            for number, (name, tensor) in enumerate(tensors):
                yield name, tensor
                shard[name] = tensor.to("cpu").contiguous()
                if sum(each.nbytes for each in shard.values()) >= SHARD:
                    save_file(shard, partial / f"{number:06}.safetensors")
                    shard = {}
            if shard:
                save_file(shard, partial / "last.safetensors")
        keep_newest(self._folder.parent.glob("[!.]*/"), KEPT)
