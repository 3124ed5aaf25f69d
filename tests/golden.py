"""Checkpoints whose weights follow a formula, so that golden tokens need no stored weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import save_file

from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.library.spec import sizes_with
from personaplex_cli.loader.checkpoint import load_lm
from personaplex_cli.loader.precision import Precision

CPU = torch.device("cpu")
FP32 = Precision("fp32", torch.float32)


@dataclass(frozen=True)
class Golden:
    """One golden file: a small model, a prompt, what the user says and the tokens that must come out."""

    path: Path
    data: dict[str, Any]

    @property
    def sizes(self) -> dict[str, Any]:
        # The file's 16 depformer steps are cut to 8 on loading.
        return sizes_with({"lm": {**self.data["lm"], "dep_q": 8}}).lm

    @property
    def saved_voice(self) -> Path:
        return self.path.with_suffix(".voice.pt")

    def codes(self, name: str) -> torch.Tensor:
        return torch.tensor(self.data[name])

    def write_weights(self, path: Path) -> Path:
        save_file({name: self._tensor(name, shape) for name, shape in self.data["tensors"].items()}, path)
        return path

    def talk(self, folder: Path, **sizes: Any) -> TokenGenerator:
        """The model in fp32 on the CPU, through the real loader."""
        weights = self.write_weights(folder / "model.safetensors")
        return TokenGenerator(load_lm(weights, {**self.sizes, **sizes}, FP32, lambda name: CPU))

    def _tensor(self, name: str, shape: list[int]) -> torch.Tensor:
        if name.endswith("alpha"):
            return torch.ones(shape)
        random = np.random.RandomState((crc32(name.encode()) + self.data["weight_seed"]) % 2**32)
        return torch.from_numpy((random.standard_normal(shape) * 0.2).astype(np.float32))


def load_golden(path: Path) -> Golden:
    return Golden(path, json.loads(path.read_text()))
