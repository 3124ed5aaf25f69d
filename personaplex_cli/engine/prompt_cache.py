"""What the transformer remembers of a prompt, kept, so that the same prompt need not be read again.

In memory for the running program, which begins the same conversation again in milliseconds; on disk for the next one.
A snapshot is exactly what reading the prompt gives, so it changes nothing but the time it takes.
"""

import contextlib
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from personaplex_cli.engine.prompting import Layout
from personaplex_cli.files import atomic_path, keep_newest

IN_MEMORY = 4
ON_DISK = 8  # 100 MB each, for a usual prompt of the 7B


@dataclass(frozen=True)
class CachedPrompt:
    """`remembered` [layers, 2, 1, heads, positions, width]: keys and values; `hidden` [1, 1, dim]: the last output."""

    remembered: Tensor
    hidden: Tensor


class PromptCache:
    """PromptCache of one model in one precision. `folder` keeps them for the next program; without one nothing is."""

    def __init__(self, folder: Path | None = None, model: str = "") -> None:
        """`model` names the model, its precision and whatever else makes a difference."""
        self._folder = folder
        self._model = model
        self._here: OrderedDict[str, CachedPrompt] = OrderedDict()  # the last used comes last

    def find(self, layout: Layout) -> CachedPrompt | None:
        """The snapshot of this prompt, on the CPU; None if there is none (or none that can be read)."""
        key = self._key(layout)
        if key not in self._here and self._folder:
            with contextlib.suppress(OSError, SafetensorError, KeyError):
                path = self._folder / key
                tensors = load_file(path)
                path.touch()
                self._hold(key, CachedPrompt(tensors["remembered"], tensors["hidden"]))
        if key in self._here:
            self._here.move_to_end(key)
        return self._here.get(key)

    def keep(self, layout: Layout, remembered: Tensor, hidden: Tensor) -> None:
        """Keep what reading this prompt gave. A disk that is full or read-only is no reason to stop."""
        key = self._key(layout)
        snapshot = CachedPrompt(remembered.to("cpu", copy=True).contiguous(), hidden.to("cpu", copy=True))
        self._hold(key, snapshot)
        if self._folder:
            with contextlib.suppress(OSError, SafetensorError):
                self._write(self._folder / key, snapshot)

    def clear(self) -> None:
        """Forget all snapshots from now on, and look for none on disk. Files stay."""
        self._here.clear()
        self._folder = None

    def _hold(self, key: str, snapshot: CachedPrompt) -> None:
        self._here[key] = snapshot
        while len(self._here) > IN_MEMORY:
            self._here.popitem(last=False)

    def _write(self, path: Path, snapshot: CachedPrompt) -> None:
        with atomic_path(path) as partial:
            save_file({"remembered": snapshot.remembered, "hidden": snapshot.hidden}, partial)
        keep_newest(path.parent.glob("*.safetensors"), ON_DISK)

    def _key(self, layout: Layout) -> str:
        digest = hashlib.sha256(self._model.encode())
        for tensor in (layout.columns, layout.embeddings):
            if tensor is not None:
                digest.update(str(tuple(tensor.shape)).encode())
                digest.update(tensor.float().numpy().tobytes())
        return f"{digest.hexdigest()[:32]}.safetensors"
