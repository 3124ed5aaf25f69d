"""Tokens from tokens: the language model's two parts of a frame, on fixed tensors with a row for each slot.

    the user's codes of frame p ─┐
    the agent's tokens of p ─────┴─> column p ─> transformer ─> text of p+1 ─> depformer ─> the agent's codes of p+1

The answer to frame p leaves in the same call: the agent's code 1 of position p, known since the call before, and codes
2-8 of position p+1, just sampled (these rows are delayed by one). The reference answers a call later with the same
tokens. Knows nothing of sound or text, nor what a conversation is: `slot.py` does. moshi's modules hold the weights,
`transformer.py` runs them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from moshi.models import LMModel
from torch import Tensor
from torch.nn import functional as F

from personaplex_cli.engine.sampling import DRAWN, MAX_WIDTH, counted
from personaplex_cli.engine.slot import OPEN
from personaplex_cli.engine.staging import StagingBuffer
from personaplex_cli.engine.steps import Draw, norm, steps_for
from personaplex_cli.engine.transformer import Depformer, KVCache, Layer, Transformer, layer_of
from personaplex_cli.library.spec import CODEBOOKS, TEXT, USER

SAMPLED = 2 + 2 * CODEBOOKS  # tokens of a slot that come back from the device
EMBEDDED = 1 + (CODEBOOKS - 1) + 1  # embeddings: the agent's, added up; the user's but the first; the text's


class TokenGenerator:
    """One language model, and what it remembers of `slots` conversations.

    `inputs` is what the host knows of a frame, `user` [b, 8] takes the user's codes; `agent` [b, 8] holds the agent's
    of the same frame afterwards, and `sampled` [b, 18] all that the host must know of it. Codes are int64 tensors.
    The parts of a frame are for the first `rows` slots.
    """

    def __init__(self, lm: LMModel, layers: Iterable[Layer] | None = None, slots: int = 1) -> None:
        """`layers` are the transformer's if they do not simply lie in `lm`."""
        self.lm = lm
        self.is_streamed = layers is not None
        head: Tensor = lm.text_linear.weight
        self.device, self.dtype = head.device, head.dtype
        modules: Any = lm.transformer.layers
        self.cache = KVCache(lm, slots)
        self._steps = steps_for(self.device, self.dtype)
        self._transformer = Transformer(lm, layers or [layer_of(each) for each in modules])
        self._depformer = Depformer(lm, slots)
        self._out_norm = lm.out_norm.alpha.flatten()
        # By row. They wait on the host, except for the one that reads what the device has just heard.
        self.embeddings: list[Tensor] = [each.weight for each in (lm.text_emb, *lm.emb)]
        self._hearing = self.embeddings[USER.start].to(self.device)
        self.user = torch.zeros(slots, CODEBOOKS, dtype=torch.long, device=self.device)
        self.agent = torch.zeros_like(self.user)
        self.sampled = torch.zeros(slots, SAMPLED, dtype=torch.long, device=self.device)
        self.hidden = torch.zeros(slots, 1, lm.dim, dtype=self.dtype, device=self.device)
        self._text_counts, self._counts = (counted(card, self.device) for card in (len(head), lm.card))
        self.inputs = StagingBuffer(
            self.device,
            embedded=((slots, EMBEDDED, lm.dim), self.dtype),
            keys=((slots, DRAWN), torch.int32),
            temperature=((slots, DRAWN), torch.float32),
            last_rank=((slots, DRAWN), torch.long),
            forced=((slots, CODEBOOKS), torch.long),
            position=((slots,), torch.long),
        )

    def span_for(self, filled: int) -> int:
        """How much of the ring a frame is given when `filled` positions have been written."""
        return self.cache.context if self._steps.fits_all else self.cache.span_for(filled)

    @property
    def spans(self) -> list[int]:
        """All that `span_for` can say."""
        return [self.cache.context] if self._steps.fits_all else self.cache.spans

    def width_for(self, width: int) -> int:
        """How many of the largest logits a frame is told to look for when `width` would do."""
        return MAX_WIDTH if self._steps.fits_all else width

    def transform(self, rows: int, span: int) -> None:
        """The first part: read this position, and of the ring the first `span` places."""
        known = self.inputs.device["embedded"][:rows]
        total = known[:, 0] + F.embedding(self.user[:rows, 0], self._hearing)
        for row in range(1, EMBEDDED - 1):
            total = total + known[:, row]
        embedded = (known[:, -1] + total)[:, None]
        hidden = self.read(embedded, self.inputs.device["position"][:rows], self.cache.upto(span, rows))
        self.hidden[:rows].copy_(hidden)

    def depform(self, rows: int, width: int) -> None:
        """The second part: choose the next position's text and codes, and with them this frame's codes.

        `width` says how many of the largest logits to look for.
        """
        here = slice(rows)
        hidden, agent, forced = self.hidden[here], self.agent[here], self.inputs.device["forced"][here]
        codes = [self._choose_text(hidden, here, width)]
        draw = self._draw(here, slice(1, None), self._counts, width)
        for step in range(CODEBOOKS):
            codes.append(draw(step, self._depformer(step, codes[-1], hidden)))
        torch.where(forced == OPEN, torch.stack(codes[1:], dim=1), forced, out=agent)
        known = [codes[0][:, None], codes[1][:, None], agent, self.user[here]]
        torch.cat(known, dim=1, out=self.sampled[here])

    def first(self, slot: int, hidden: Tensor, width: int) -> tuple[int, int]:
        """A slot's text token and agent's first code after a prompt, whose last output is `hidden` [1, 1, dim].

        The delayed rows of that position are still the prompt's, so the depformer has one code to choose.
        """
        here = slice(slot, slot + 1)
        text = self._choose_text(hidden, here, width)
        code = self._draw(here, slice(1, 2), self._counts, width)(0, self._depformer(0, text, hidden))
        text_token, first_code = torch.cat([text, code]).tolist()
        return text_token, first_code

    def _choose_text(self, hidden: Tensor, slots: slice, width: int) -> Tensor:
        """The text token [b] of each of these slots, whose outputs are `hidden` [b, 1, dim]."""
        return self._draw(slots, slice(1), self._text_counts, width)(0, self.lm.text_linear(hidden)[:, 0])

    def _draw(self, slots: slice, rows: slice, counts: Tensor, width: int) -> Draw:
        """How tokens are drawn in these rows of these slots."""
        how = {name: self.inputs.device[name][slots, rows] for name in ("keys", "temperature", "last_rank")}
        return self._steps.draws(how, counts, width)

    def embed(self, columns: Tensor) -> Tensor:
        """Columns [17, t] -> their summed embeddings [1, t, dim] on the host, added in the order of the reference."""
        total = F.embedding(columns[1], self.embeddings[1])
        for row in range(2, len(columns)):
            total = total + F.embedding(columns[row], self.embeddings[row])
        return (F.embedding(columns[TEXT], self.embeddings[TEXT]) + total)[None]

    def read(self, embedded: Tensor, first: Tensor, kv: Tensor) -> Tensor:
        """Run positions [b, t, dim] from `first` [b] on through the transformer -> the last output [b, 1, dim]."""
        last = self._transformer(embedded, first, kv)[:, -1:]
        return norm(last, self._out_norm, self.lm.out_norm.eps)
