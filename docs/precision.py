"""How far int8 and int4 are from bf16: the same conversation, token by token, with random weights of a moderate size.

Prints, for the text and for all codes, the mean cosine between the logits and how often the likeliest token is the
same, while every model is made to say what the bf16 one said. Random weights are no substitute for the trained ones:
they show that nothing is wrong, not how it sounds.

    python docs/precision.py
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from personaplex_cli.character import Sampling
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.prompting import lay_out
from personaplex_cli.library.spec import sizes_of
from personaplex_cli.library.weights import WEIGHTS
from personaplex_cli.loader.checkpoint import load_lm
from personaplex_cli.loader.demo import build_demo
from personaplex_cli.loader.precision import Precision

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
CPU = torch.device("cpu")


class Watched(TokenGenerator):
    """A talk that notes the logits it chooses from, and that can be made to choose what was `said`."""

    logits: list[Tensor]
    tokens: list[int]
    said: Iterator[int] | None = None

    def _sampled(self, logits: Tensor, noise: Tensor) -> Tensor:
        self.logits.append(logits.float().flatten())
        token = torch.tensor(next(self.said)) if self.said else super()._sampled(logits, noise)
        self.tokens.append(int(token))
        return token


def held(folder: Path, name: str, said: list[int] | None = None) -> Watched:
    """A conversation, nine tokens a frame. With `said` that is said in it, whatever is likeliest."""
    talk = Watched(load_lm(folder / WEIGHTS, sizes_of(folder).lm, Precision(name, torch.bfloat16), lambda _: CPU))
    talk.logits, talk.tokens, talk.said = [], [], iter(said) if said else None
    random = torch.Generator().manual_seed(1)
    prompt = lay_out(torch.randint(2048, (8, 12), generator=random), [5, 6, 7], talk.rows)
    talk.begin(prompt, Sampling(greedy=True))
    for _ in range(FRAMES):
        talk.step(torch.randint(2048, (8,), generator=random))
    return talk


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        build_demo(Path(scratch), SIZES)
        plain = held(Path(scratch), "bf16")
        print("      text: cosine  same    codes: cosine  same")
        for name in ("bf16", "int8", "int4"):
            pairs = list(zip(plain.logits, held(Path(scratch), name, plain.tokens).logits, strict=True))
            text = [pair for pair in pairs if len(pair[0]) == SIZES["lm"]["text_card"]]
            codes = [pair for pair in pairs if len(pair[0]) != SIZES["lm"]["text_card"]]
            print(f"{name} {_compared(text)}      {_compared(codes)}")


def _compared(pairs: list[tuple[Tensor, Tensor]]) -> str:
    cosine = torch.stack([F.cosine_similarity(*pair, dim=0) for pair in pairs]).mean()
    same = torch.tensor([bool(one.argmax() == other.argmax()) for one, other in pairs]).float().mean()
    return f"{cosine:14.5f} {same:5.0%}"


if __name__ == "__main__":
    main()
