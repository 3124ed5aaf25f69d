"""What the transformer remembers of a prompt, kept, so that the same prompt need not be read again.

In memory for the running program, which begins the same conversation again in milliseconds; on disk for the next one.
What is kept is exactly what reading the prompt gives, so it changes nothing but the time it takes.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from threading import Thread

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from personaplex_cli.engine.prompting import Layout
from personaplex_cli.files import atomic_path, keep_newest

# Prompts, and their bytes together. A usual one of the 7B has 100 MB, one that fills its context 1.5 GB.
IN_MEMORY, BYTES_IN_MEMORY = 16, 10**9
ON_DISK, BYTES_ON_DISK = 8, 2 * 10**9
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # as safetensors calls them
ALIGNMENT = 8  # bytes: at a multiple of this the file's tensors begin

# `remembered` [layers, 2, 1, heads, positions, width]: keys and values; `hidden` [1, 1, dim]: the last output.
CachedPrompt = dict[str, Tensor]


class PromptCache:
    """The prompts of one model in one precision. `folder` keeps them for the next program; without one nothing does."""

    def __init__(self, folder: Path | None = None, model: str = "") -> None:
        """`model` names the model, its precision and whatever else makes a difference."""
        self._folder = folder
        self._model = model
        self._here: dict[str, CachedPrompt] = {}  # the last used comes last
        self._writer = Thread()  # that writes the last one to disk: conversations do not wait for it

    def find(self, layout: Layout) -> CachedPrompt | None:
        """What is kept of this prompt, on the CPU; None if nothing is (or nothing that can be read)."""
        key = self._key(layout)
        prompt = self._here.pop(key, None)
        if not prompt and self._folder:
            with suppress(OSError, SafetensorError):
                prompt = load_file(self._folder / key)
                with suppress(OSError):  # a folder that can only be read
                    (self._folder / key).touch()
        if prompt:
            self._hold(key, prompt)
        return prompt

    def keep(self, layout: Layout, remembered: Tensor, hidden: Tensor) -> None:
        """Keep what reading this prompt gave, unless it is larger than all that may be kept.

        It is written to disk meanwhile, one prompt at a time: those that come too soon are kept in memory only.
        """
        if remembered.nbytes > BYTES_IN_MEMORY:
            return
        key = self._key(layout)
        kept = torch.empty(remembered.shape, dtype=remembered.dtype)
        for here, there in zip(kept, remembered, strict=True):
            here.copy_(there)  # layer by layer: the device holds a copy for a moment
        prompt = {"remembered": kept, "hidden": hidden.to("cpu", copy=True)}
        self._hold(key, prompt)
        if self._folder and not self._writer.is_alive():
            self._writer = Thread(target=_write, args=(prompt, self._folder / key), name="prompt cache")
            self._writer.start()

    def clear(self) -> None:
        """Forget all prompts from now on, and look for none on disk. Files stay."""
        self.settle()
        self._here.clear()
        self._folder = None

    def settle(self) -> None:
        """Wait until what is kept has been written."""
        if self._writer.is_alive():
            self._writer.join()

    def _hold(self, key: str, prompt: CachedPrompt) -> None:
        self._here[key] = prompt
        while len(self._here) > IN_MEMORY or sum(map(_bytes, self._here.values())) > BYTES_IN_MEMORY:
            del self._here[next(iter(self._here))]

    def _key(self, layout: Layout) -> str:
        digest = hashlib.sha256(self._model.encode())
        for tensor in (layout.columns, layout.embeddings):
            if tensor is not None:
                digest.update(str(tuple(tensor.shape)).encode())
                digest.update(tensor.float().numpy().tobytes())
        return f"{digest.hexdigest()[:32]}.safetensors"


def _write(prompt: CachedPrompt, path: Path) -> None:
    """A disk that is full or read-only is no reason to stop."""
    with suppress(OSError):
        with atomic_path(path) as partial:
            _save(prompt, partial)
        keep_newest(path.parent.glob("*.safetensors"), ON_DISK, BYTES_ON_DISK)


def _save(prompt: CachedPrompt, path: Path) -> None:
    """As a safetensors file. The library's own `save_file` lets no other thread run until all is on the disk."""
    header, end = {}, 0
    for name, tensor in prompt.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": tuple(tensor.shape), "data_offsets": (start, end)}
    about = json.dumps(header).encode()
    about = about.ljust(-(-len(about) // ALIGNMENT) * ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(about).to_bytes(8, "little") + about)
        for tensor in prompt.values():
            file.write(tensor.flatten().view(torch.uint8).numpy().data)


def _bytes(prompt: CachedPrompt) -> int:
    return sum(tensor.nbytes for tensor in prompt.values())
