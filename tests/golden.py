"""Checkpoints whose weights follow a formula, so that golden tokens need no stored weights; and talks in tokens."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from moshi.models import LMModel
from safetensors.torch import save_file

from personaplex_cli.character import Sampling
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.pipeline import FramePipeline
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import Layout
from personaplex_cli.engine.slot import Slot
from personaplex_cli.engine.staging import StagingBuffer
from personaplex_cli.engine.transformer import Layer
from personaplex_cli.library.spec import CODEBOOKS, PERSONAPLEX, ModelSpec, spec_with
from personaplex_cli.loader.checkpoint import load_lm
from personaplex_cli.loader.precision import Precision
from personaplex_cli.samples import FRAME, Samples

CPU = torch.device("cpu")
FP32 = Precision("fp32", torch.float32)


class CodesCodec:
    """In place of Mimi: a frame of sound is codes, written into its first samples; what is decoded is silence."""

    def __init__(self, device: torch.device, slots: int = 1) -> None:
        self.sound = StagingBuffer(device, heard=((slots, 1, FRAME), torch.float32), live=((slots,), torch.bool))
        self._silence = torch.zeros(slots, FRAME, device=device)

    def encode(self) -> torch.Tensor:
        return self.sound.device["heard"][:, 0, :CODEBOOKS].long()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self._silence


def heard_of(codes: torch.Tensor) -> Samples:
    """Codes [8] as a frame for `CodesCodec`."""
    return np.pad(codes.numpy().astype(np.float32), (0, FRAME - CODEBOOKS))


class NoWords:
    """In place of a tokenizer: all tokens are silent."""

    def get_piece_size(self) -> int:
        return 0


class TokenTalk:
    """A conversation in tokens: the real pipeline, without sound and words."""

    def __init__(
        self,
        lm: LMModel,
        spec: ModelSpec = PERSONAPLEX,
        layers: Iterable[Layer] | None = None,
        prompts: PromptCache | None = None,
    ) -> None:
        self.lm = lm
        self.spec = spec
        self.generator = TokenGenerator(lm, layers)
        self.slot = Slot(self.generator.embeddings, NoWords(), spec)
        codec = CodesCodec(self.generator.device)
        self.pipeline = FramePipeline(self.generator, codec, [self.slot], prompts or PromptCache())

    def begin(self, layout: Layout, sampling: Sampling) -> None:
        self.pipeline.begin(0, layout, sampling)

    def step(self, user: torch.Tensor, silent: bool = False) -> tuple[int, list[int]]:
        """The user's codes [8] of one frame -> the agent's text token and codes (8) of the same frame."""
        text, *codes = self.pipeline.run({0: heard_of(user)}, [0] if silent else [])[0].tokens
        return text, codes

    @torch.inference_mode()
    def read(self, columns: torch.Tensor, first: int) -> torch.Tensor:
        """The output of the last of some positions [17, t], which begin at `first`."""
        span = self.generator.cache.upto(self.generator.cache.context)
        return self.generator.read(self.generator.embed(columns), torch.tensor([first]), span)


@dataclass(frozen=True)
class Golden:
    """One golden file: a small model, a prompt, what the user says and the tokens that must come out."""

    path: Path
    data: dict[str, Any]

    @property
    def spec(self) -> ModelSpec:
        # The file's 16 depformer steps are cut to 8 on loading.
        return spec_with({"lm": {**self.data["lm"], "dep_q": 8}})

    @property
    def sizes(self) -> dict[str, Any]:
        return dict(self.spec.lm)

    @property
    def saved_voice(self) -> Path:
        return self.path.with_suffix(".voice.pt")

    def codes(self, name: str) -> torch.Tensor:
        return torch.tensor(self.data[name])

    def write_weights(self, path: Path) -> Path:
        save_file({name: self._tensor(name, shape) for name, shape in self.data["tensors"].items()}, path)
        return path

    def talk(self, folder: Path, prompts: PromptCache | None = None, **sizes: Any) -> TokenTalk:
        """The model in fp32 on the CPU, through the real loader."""
        weights = self.write_weights(folder / self.spec.weights_file)
        lm = load_lm(weights, {**self.sizes, **sizes}, FP32, lambda name: CPU)
        return TokenTalk(lm, self.spec, prompts=prompts)

    def _tensor(self, name: str, shape: list[int]) -> torch.Tensor:
        if name.endswith("alpha"):
            return torch.ones(shape)
        random = np.random.RandomState((crc32(name.encode()) + self.data["weight_seed"]) % 2**32)
        return torch.from_numpy((random.standard_normal(shape) * 0.2).astype(np.float32))


def load_golden(path: Path) -> Golden:
    return Golden(path, json.loads(path.read_text()))
