"""How tokens are drawn: the largest of logits + T * g among the k largest logits, where g is Gumbel noise.

That is a draw from softmax(logits / T), and with T = 0 the likeliest token. The noise of a token depends on the seed,
the position, the row and the token, on nothing else: the device works it out by counting, without a generator's state.
So the same seed makes the same conversation whoever shares the batch, and rounding, which may swap the ranks of two
tokens, changes what is drawn only where two were nearly equal to the end.

Mixing: the host makes a key for each position and row (splitmix64), the device one number for each token of a row
(32 bits, "lowbias32" by Chris Wellons).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from personaplex_cli.character import Sampling
from personaplex_cli.library.spec import CODEBOOKS, ModelSpec

DRAWN = 1 + CODEBOOKS  # rows of a position that are drawn: the text's, then the agent's codes'
USUAL_WIDTH, MAX_WIDTH = 256, 2048  # of the k largest logits that are looked for: each needs recordings of its own
ODD = 0x9E3779B9  # parts the tokens of a row
WORD, DOUBLE_WORD = 2**32, 2**64


class GumbelSampler:
    """How one conversation's tokens are drawn. `width` is enough for its k in every row."""

    def __init__(self, how: Sampling, spec: ModelSpec) -> None:
        greedy = [how.greedy or temperature == 0 for temperature in (how.text_temperature, how.audio_temperature)]
        text_k, audio_k = min(how.text_top_k, spec.lm["text_card"]), min(how.audio_top_k, spec.lm["card"])
        top_k = torch.tensor([1 if greedy[0] else text_k] + [1 if greedy[1] else audio_k] * CODEBOOKS)
        self._last_rank = top_k - 1
        self._temperature = torch.tensor([how.text_temperature] + [how.audio_temperature] * CODEBOOKS)
        self._temperature[top_k == 1] = 0
        self.width = USUAL_WIDTH if int(top_k.max()) <= USUAL_WIDTH else MAX_WIDTH
        self._seed = _mixed(how.seed or 0)

    def write(self, inputs: Mapping[str, Tensor], position: int) -> None:
        """Write what drawing this position's tokens takes: `keys`, `temperature`, `last_rank` (k - 1), each [9]."""
        keys = [_mixed(self._seed + position * DRAWN + row) // WORD - WORD // 2 for row in range(DRAWN)]
        inputs["keys"].copy_(torch.tensor(keys, dtype=torch.int32))
        inputs["temperature"].copy_(self._temperature)
        inputs["last_rank"].copy_(self._last_rank)


def counted(tokens: int, device: torch.device) -> Tensor:
    """What sets each token's noise apart from the others': [tokens] int32, for `noise`."""
    return torch.arange(tokens, device=device).mul_(ODD).to(torch.int32)


def noise(keys: Tensor, temperature: Tensor, counts: Tensor) -> Tensor:
    """Gumbel noise times temperature: rows [..., n] of keys and temperatures -> [..., n, tokens] float32."""
    x = keys[..., None] + counts
    # Shifting repeats the sign: what comes from the left is masked out.
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - WORD)
    x = x ^ ((x >> 16) & 0xFFFF)
    between_0_and_1 = ((x >> 9) & 0x7FFFFF).float().add_(0.5).mul_(2**-23)  # exact, and never 0 or 1
    return between_0_and_1.log_().neg_().log_().mul_(-temperature[..., None])


def sample(logits: Tensor, noise: Tensor, last_rank: Tensor, width: int) -> Tensor:
    """One token each [b] of logits [b, tokens] with their noise [b, tokens].

    What is as large as the one of `last_rank` [b], or larger, may be drawn: that is one of the `width` largest.
    """
    logits = logits.float()
    best = logits.topk(min(width, logits.shape[1])).values
    least = best.gather(1, last_rank[:, None])
    return (logits + noise).masked_fill_(logits < least, -torch.inf).argmax(1)


def _mixed(number: int) -> int:
    """The finaliser of splitmix64."""
    number = (number + 0x9E3779B97F4A7C15) % DOUBLE_WORD
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % DOUBLE_WORD
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % DOUBLE_WORD
    return number ^ (number >> 31)
