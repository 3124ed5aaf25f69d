"""The conversation in tokens: one position of the language model per 80 ms.

    the user's codes of frame p ─┐
    the agent's tokens of p ─────┴─> column p ─> transformer ─> text of p+1 ─> depformer ─> the agent's codes of p+1

The answer to frame p leaves in the same call: the agent's code 1 of position p, known since the call before, and codes
2-8 of position p+1, just sampled (these rows are delayed by one). The reference answers a call later with the same
tokens. Knows nothing of sound or text. moshi's modules hold the weights, `step.py` runs them.

The host keeps the tokens and the embedding tables, of which a frame reads 17 rows. What it knows before the user's
frame arrives it writes into `inputs` (`ready`); the device does the rest in two parts that read and write fixed tensors
(`transform`, `depform`); what they chose comes back with the sound (`took`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from moshi.models import LMModel
from torch import Tensor
from torch.nn import functional as F

from personaplex_cli.character import Sampling
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import AGENT, PAD, SILENCE, TEXT, USER, Layout, Rows
from personaplex_cli.engine.sampling import MOST, GumbelSampler
from personaplex_cli.engine.staging import StagingBuffer
from personaplex_cli.engine.transformer import SPANS, Depformer, Layer, Transformer, layer_of, norm, span_for
from personaplex_cli.library.spec import CODEBOOKS

OPEN = -1  # a code of the agent that the depformer shall choose
CHOSEN = 2 + 2 * CODEBOOKS  # tokens that come back from the device


class TokenGenerator:
    """One language model and the state of one conversation with it.

    `user` [8] takes the user's codes of a frame, `agent` [8] holds the agent's of the same frame afterwards, and
    `chosen` [18] all that the host must know of it: for `took`. All are int64 tensors on the device.
    """

    def __init__(
        self, lm: LMModel, layers: Iterable[Layer] | None = None, snapshots: PromptCache | None = None
    ) -> None:
        """`layers` are the transformer's if they do not simply lie in `lm`."""
        self.lm = lm
        self.is_streamed = layers is not None
        head: Tensor = lm.text_linear.weight
        self.device, self.dtype = head.device, head.dtype
        modules: Any = lm.transformer.layers
        self._transformer = Transformer(lm, layers or [layer_of(each) for each in modules])
        self._depformer = Depformer(lm)
        self._out_norm = lm.out_norm.alpha.flatten()
        self.snapshots = snapshots or PromptCache()
        # By row. They wait on the host, except for the one that reads what the device has just heard.
        self._embeddings: list[Tensor] = [each.weight for each in (lm.text_emb, *lm.emb)]
        self._capture = self._embeddings[USER.start].to(self.device)
        self.rows = Rows(lm.delays, [lm.text_initial_token_id] + [lm.initial_token_id] * lm.n_q)
        self.context: int = lm.context  # positions that the transformer remembers, a ring
        self.position = 0  # the next position to be read
        self._column = [0] * lm.num_codebooks
        self._silence = torch.tensor(SILENCE)
        self._sampling = GumbelSampler(Sampling())
        self.user = torch.zeros(CODEBOOKS, dtype=torch.long, device=self.device)
        self.agent = torch.zeros_like(self.user)
        self.chosen = torch.zeros(CHOSEN, dtype=torch.long, device=self.device)
        self.hidden = torch.zeros(1, 1, lm.dim, dtype=self.dtype, device=self.device)
        self._text = torch.zeros((), dtype=torch.long, device=self.device)
        rows = 1 + (CODEBOOKS - 1) + 1  # the agent's, added up; the user's but the first; the text's
        self.inputs = StagingBuffer(
            self.device,
            rows=((rows, lm.dim), self.dtype),
            noise=((1 + CODEBOOKS, MOST), torch.float32),
            forced=((CODEBOOKS,), torch.long),
            position=((), torch.long),
        )

    @property
    def span(self) -> int:
        """How much of the transformer's memory the next frame must read: for `transform`."""
        return span_for(self.position + 1, self.context)

    @property
    def spans(self) -> list[int]:
        """All that `span` can be."""
        return sorted({span_for(filled, self.context) for filled in (*SPANS, self.context)})

    @property
    def remembered_bytes(self) -> int:
        """Bytes of the keys and values that the transformer remembers."""
        return self._transformer.kv.nbytes

    @property
    def width(self) -> int:
        """How many of the likeliest tokens are looked at: it makes the parts' shapes."""
        return self._sampling.width

    @torch.inference_mode()
    def begin(self, layout: Layout, sampling: Sampling) -> None:
        """Forget any earlier conversation, read the whole prompt in one pass, sample the first tokens of the talk."""
        # Seeded only now, so that nothing run before changes the talk.
        self._sampling = GumbelSampler(sampling)
        hidden = self._read_prompt(layout)
        self.position = layout.positions
        noise = self._sampling.noise().to(self.device)
        text = self._sampled(self.lm.text_linear(hidden), noise[0])
        # The first column: its delayed rows are still the prompt's, so the depformer has one code to choose.
        code = self._sampled(self._depformer(0, text, hidden), noise[1])
        self._column = layout.columns[:, -1].tolist()
        self._column[TEXT], self._column[AGENT.start] = int(text), int(code)

    @torch.inference_mode()
    def step(self, user: Tensor, silent: bool = False) -> tuple[int, list[int]]:
        """The user's codes [8] of one frame -> the agent's text token and codes (8) of the same frame.

        With `silent` the agent is made to say nothing in this frame, as in the pauses of the prompt; the clock runs on.
        """
        text = self.ready(silent)
        self.inputs.send()
        self.user.copy_(user)
        self.transform(self.span)
        self.depform()
        self.took(self.chosen.tolist())
        return text, self.agent.tolist()

    def ready(self, silent: bool = False) -> int:
        """Write what is known of this frame before the user is heard; returns the agent's text token of it."""
        column, tables, known = self._column, self._embeddings, self.inputs.host
        if silent:
            column[TEXT], column[AGENT.start] = PAD, SILENCE[0]
        # In the order in which the reference adds them up; the device puts the user's first code in between.
        said = tables[AGENT.start][column[AGENT.start]]
        for row in range(AGENT.start + 1, AGENT.stop):
            said = said + tables[row][column[row]]
        later = [tables[row][column[row]] for row in range(USER.start + 1, USER.stop)]
        torch.stack([said, *later, tables[TEXT][column[TEXT]]], out=known["rows"])
        known["noise"][:, : self.width].copy_(self._sampling.noise())
        known["position"].fill_(self.position)
        known["forced"].fill_(OPEN)
        known["forced"][0] = column[AGENT.start]
        if silent:
            known["forced"].copy_(self._silence)
        return column[TEXT]

    def transform(self, span: int) -> None:
        """The first part on the device: read this position, choose the next one's text."""
        rows, noise = self.inputs.device["rows"], self.inputs.device["noise"][:, : self.width]
        total = rows[0] + F.embedding(self.user[:1], self._capture)[0]
        for row in rows[1:-1]:
            total = total + row
        embedded = (rows[-1] + total).view(1, 1, -1)
        self.hidden.copy_(self._read(embedded, self.inputs.device["position"], span))
        self._text.copy_(self._sampled(self.lm.text_linear(self.hidden), noise[0]))

    def depform(self) -> None:
        """The second part: choose the next position's codes, and with them this frame's."""
        forced, noise = self.inputs.device["forced"], self.inputs.device["noise"][:, : self.width]
        codes = [self._text]
        for step in range(CODEBOOKS):
            codes.append(self._sampled(self._depformer(step, codes[-1], self.hidden), noise[1 + step]))
        torch.where(forced == OPEN, torch.stack(codes[1:]), forced, out=self.agent)
        torch.cat([self._text.view(1), codes[1].view(1), self.agent, self.user], out=self.chosen)

    def took(self, chosen: Sequence[int]) -> None:
        """Learn what was chosen: the next position is known as far as it can be."""
        agent, user = chosen[2 : 2 + CODEBOOKS], chosen[2 + CODEBOOKS :]
        self._column[TEXT], self._column[AGENT.start] = chosen[:2]
        self._column[AGENT.start + 1 : AGENT.stop] = agent[1:]
        self._column[USER.start + 1 : USER.stop] = user[1:]
        self.position += 1

    def _read_prompt(self, layout: Layout) -> Tensor:
        """Run the prompt's positions -> the last one's output [1, 1, dim]; from a snapshot if it was run before."""
        remembered = self._transformer.kv[..., : layout.positions, :]
        if found := self.snapshots.find(layout):
            remembered.copy_(found.remembered)
            return found.hidden.to(self.device)
        prompt = self._embed(layout.columns[:, :-1])
        if layout.embeddings is not None:
            prompt = torch.cat([layout.embeddings.to(prompt)[None], prompt], dim=1)
        start = torch.zeros((), dtype=torch.long, device=self.device)
        hidden = self._read(prompt.to(self.device), start, span_for(layout.positions, self.context))
        self.snapshots.keep(layout, remembered, hidden)
        return hidden

    def _embed(self, columns: Tensor) -> Tensor:
        """Columns [17, t] -> their summed embeddings [1, t, dim] on the host, added in the order of the reference."""
        total = F.embedding(columns[1], self._embeddings[1])
        for row in range(2, len(columns)):
            total = total + F.embedding(columns[row], self._embeddings[row])
        return (F.embedding(columns[TEXT], self._embeddings[TEXT]) + total)[None]

    def _read(self, embedded: Tensor, first: Tensor, span: int) -> Tensor:
        """Run positions [1, t, dim] from `first` on through the transformer -> the last one's output [1, 1, dim]."""
        last = self._transformer(embedded, first, span)[:, -1:]
        return norm(last, self._out_norm, self.lm.out_norm.eps)

    def _sampled(self, logits: Tensor, noise: Tensor) -> Tensor:
        """One token [] of logits [..., card], by the noise [k] of `GumbelSampler`."""
        logits = logits.float().flatten()
        best, tokens = logits.topk(min(len(noise), len(logits)))
        # Not tokens[...]: an index of one number is one that Python asks the device for.
        return tokens.gather(0, (best + noise[: len(best)]).argmax().view(1)).view(())
