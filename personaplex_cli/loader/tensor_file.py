"""Safetensors files, read and not mapped.

The library maps them: a file that shrinks while it is mapped ends the program without a word (SIGBUS), and one that is
overwritten changes the weights under a talk. What was read stays as it was, and what cannot be read is an error.
"""

import json
import os
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor

READERS = 4  # threads that may read at once
# safetensors' names of what weights are stored as, packed ones among them.
DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "U8": torch.uint8,
}


class TensorFile:
    """An open file: the `shapes` of its tensors and the `kinds` that they are stored as, by name; `read` them.

    Raises SafetensorError if it is no such file, or shorter than it says; OSError if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._open = ExitStack()
        self._files: SimpleQueue[BufferedReader] = SimpleQueue()  # each has a place of its own in the file
        with self._open:
            for _ in range(READERS):
                file = self._open.enter_context(path.open("rb"))
                self._files.put(file)
            with safe_open(path, framework="pt") as checked:  # compares the whole header with the size
                slices = {name: checked.get_slice(name) for name in checked.keys()}  # noqa: SIM118
            self.shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
            self.kinds = {name: each.get_dtype() for name, each in slices.items()}
            self._descriptor = file.fileno()
            self._about_first = self._about()
            self._data = 8 + int.from_bytes(file.read(8), "little")
            self._places = self._read_places(file)
            self._open = self._open.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def check_unchanged(self) -> None:
        """Raise OSError if it was written into since it was opened."""
        if self._about() != self._about_first:
            raise OSError("it was changed while it was read")

    def read(self, name: str, rows: int | None = None) -> Tensor:
        """A tensor of one of DTYPES, on the CPU, or only its first rows; several threads may read at once.

        Raises OSError if the file has become shorter.
        """
        shape = self.shapes[name] if rows is None else (rows, *self.shapes[name][1:])
        start, end = self._places[name]
        size = torch.Size(shape).numel() * DTYPES[self.kinds[name]].itemsize
        content = torch.empty(size, dtype=torch.uint8)
        memory: Any = content.numpy()
        file = self._files.get()
        try:
            file.seek(self._data + start)
            if file.readinto(memory) < size or size > end - start:
                raise OSError(f"{name} is not there any more")
        finally:
            self._files.put(file)
        return content.view(DTYPES[self.kinds[name]]).reshape(shape)

    def _read_places(self, file: BufferedReader) -> dict[str, tuple[int, int]]:
        """Where each tensor begins and ends, which the library does not say."""
        try:
            header: dict[str, Any] = json.loads(file.read(self._data - 8))
            return {name: header[name]["data_offsets"] for name in self.shapes}
        except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
            raise OSError("it changes while it is read") from error

    def _about(self) -> tuple[int, int]:
        about = os.fstat(self._descriptor)
        return about.st_size, about.st_mtime_ns
