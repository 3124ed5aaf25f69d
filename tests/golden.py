"""Checkpoints whose weights follow a formula, so that golden tokens need no stored weights; and talks in tokens."""

import json
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
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

T = TypeVar("T")
CPU = torch.device("cpu")
torch.set_num_threads(1)  # as the loader does for small models: threads that wait for each other spin
FP32 = Precision("fp32", torch.float32)


class CodesCodec:
    """In place of Mimi: a frame of sound is codes, written into its first samples; what is decoded is silence."""

    def __init__(self, device: torch.device, slots: int = 1) -> None:
        self.sound = StagingBuffer(device, heard=((slots, 1, FRAME), torch.float32), live=((slots,), torch.bool))

    def reset(self, slot: int) -> None: ...

    def encode(self, rows: int) -> torch.Tensor:
        return self.sound.device["heard"][:rows, 0, :CODEBOOKS].long()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(codes), FRAME, device=codes.device)


def heard_of(codes: torch.Tensor) -> Samples:
    """Codes [8] as a frame for `CodesCodec`."""
    return np.pad(codes.numpy().astype(np.float32), (0, FRAME - CODEBOOKS))


def finished(work: Generator[None, None, T]) -> T:
    """What a generator returns, when it has done all of its work."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


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
        slots: int = 1,
    ) -> None:
        self.lm = lm
        self.spec = spec
        self.generator = TokenGenerator(lm, layers, slots)
        self.slots = [Slot(self.generator.embeddings, NoWords(), spec) for _ in range(slots)]
        self.slot = self.slots[0]
        codec = CodesCodec(self.generator.device, slots)
        self.prompts = prompts or PromptCache()
        self.pipeline = FramePipeline(self.generator, codec, self.slots, self.prompts)

    def begin(self, layout: Layout, sampling: Sampling, slot: int = 0) -> None:
        finished(self.pipeline.begin(slot, layout, sampling))
        self.prompts.settle()

    def step(self, user: torch.Tensor, silent: bool = False) -> tuple[int, list[int]]:
        """The user's codes [8] of one frame -> the agent's text token and codes (8) of the same frame."""
        text, *codes = self.pipeline.run({0: heard_of(user)}, [0] if silent else [])[0].tokens[: 1 + CODEBOOKS]
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
