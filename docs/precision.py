"""How far int8 and int4 are from bf16: the same conversation, token by token, with random weights of a moderate size.

Prints, for the text and for all codes, the mean cosine between the logits and how often the likeliest token is the
same, while every model is made to say what the bf16 one said. Random weights are no substitute for the trained ones:
they show that nothing is wrong, not how it sounds.

    python docs/precision.py
"""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from personaplex_cli import Character, Recording, Sampling, converse
from personaplex_cli.engine import generator
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.sampling import sample
from personaplex_cli.loader.checkpoint import load_lm
from personaplex_cli.loader.load import load_cold
from personaplex_cli.loader.precision import Precision
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from random_model import build_random

SIZES = {
    "lm": {
        "dim": 1024,
        "num_heads": 16,
        "num_layers": 12,
        "text_card": 2000,
        "depformer_dim": 512,
        "depformer_num_heads": 8,
        "depformer_dim_feedforward": 2112,
    },
    "mimi": {"seanet": {"n_filters": 4}},
}
FRAMES = 100
CHARACTER = Character("kind", "You are kind.", "NATF2", "NATF2.pt", Sampling(greedy=True, seed=0))
SPEECH = np.random.default_rng(1).normal(0.0, 0.1, FRAMES * FRAME).astype(np.float32)


class Watched:
    """In place of `sample`: notes all logits and tokens; what was `said` is chosen again, whatever is likeliest."""

    def __init__(self, said: list[Tensor]) -> None:
        self.logits: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self._said = said

    def __call__(self, logits: Tensor, *how: Any) -> Tensor:
        self.tokens.append(self._said[len(self.tokens)] if self._said else sample(logits, *how))
        self.logits.append(logits.float().flatten())
        return self.tokens[-1]


def held(engine: LocalEngine, weights: Path, precision: str, said: list[Tensor]) -> Watched:
    """A conversation in this precision, nine tokens a frame."""
    lm = load_lm(weights, engine.model.spec.lm, Precision(precision, torch.bfloat16), lambda _: torch.device("cpu"))
    model = replace(engine.model, generator=generator.TokenGenerator(lm), prompts=PromptCache())
    generator.sample = watched = Watched(said)
    for _ in converse(LocalEngine(model), Recording(SPEECH), CHARACTER):
        pass
    return watched


def main() -> None:
    with TemporaryDirectory() as scratch:
        build_random(Path(scratch), SIZES)
        engine = load_cold(ModelOptions(scratch, device="cpu", precision="bf16"))
        weights = Path(scratch) / engine.model.spec.weights_file
        plain = held(engine, weights, "bf16", [])
        print("      text: cosine  same    codes: cosine  same")
        for name in ("bf16", "int8", "int4"):
            pairs = list(zip(plain.logits, held(engine, weights, name, plain.tokens).logits, strict=True))
            text = [pair for pair in pairs if len(pair[0]) == SIZES["lm"]["text_card"]]
            codes = [pair for pair in pairs if len(pair[0]) != SIZES["lm"]["text_card"]]
            print(f"{name} {_compared(text)}      {_compared(codes)}")


def _compared(pairs: list[tuple[Tensor, Tensor]]) -> str:
    cosine = torch.stack([F.cosine_similarity(*pair, dim=0) for pair in pairs]).mean()
    same = torch.tensor([bool(one.argmax() == other.argmax()) for one, other in pairs]).float().mean()
    return f"{cosine:14.5f} {same:5.0%}"


if __name__ == "__main__":
    main()
