"""How tokens are drawn: all of chance, temperature and top-k in one tensor of noise that the host makes.

A token drawn from softmax(logits / T) is argmax(logits + T * g) with Gumbel noise g; all but the k likeliest get minus
infinity, and no noise at all is greedy. So the device only adds and compares: it needs no random numbers of its own and
what it runs is the same for every setting.
"""

import torch
from torch import Tensor

from personaplex_cli.character import Sampling
from personaplex_cli.library.spec import CODEBOOKS

USUAL_WIDTH, MAX_WIDTH = 256, 2048  # likeliest tokens that are looked at: few shapes, each needs recordings of its own
TINY = 1e-30


class GumbelSampler:
    """The random numbers of one conversation, always the same for the same `Sampling`, whatever the device."""

    def __init__(self, how: Sampling) -> None:
        kinds = [(how.text_temperature, how.text_top_k)] + [(how.audio_temperature, how.audio_top_k)] * CODEBOOKS
        self.width = USUAL_WIDTH if max(top_k for _, top_k in kinds) <= USUAL_WIDTH else MAX_WIDTH
        greedy = [how.greedy or temperature == 0 for temperature, _ in kinds]
        allowed = torch.tensor([1 if only else top_k for only, (_, top_k) in zip(greedy, kinds, strict=True)])
        self._temperatures = torch.tensor([[temperature] for temperature, _ in kinds])
        self._barred = torch.zeros(len(kinds), self.width)
        self._barred.masked_fill_(torch.arange(self.width) >= allowed[:, None], -torch.inf)
        self._random = torch.Generator().manual_seed(how.seed or 0)

    def noise(self) -> Tensor:
        """One frame's noise [1 + 8, width] float32: for the text and each code, the likeliest token first."""
        # Gumbel noise is -log of exponential noise.
        exponential = torch.empty_like(self._barred).exponential_(generator=self._random).clamp_min_(TINY)
        return torch.addcmul(self._barred, exponential.log_(), self._temperatures, value=-1)


def sample(logits: Tensor, noise: Tensor) -> Tensor:
    """One token each [b] of logits [b, card], by the noise [b, width] of a `GumbelSampler`."""
    width = min(noise.shape[1], logits.shape[1])
    best, tokens = logits.float().topk(width)
    # Not tokens[...]: an index of one number is one that Python asks the device for.
    return tokens.gather(1, (best + noise[:, :width]).argmax(1, keepdim=True))[:, 0]
