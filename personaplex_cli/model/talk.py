"""The conversation in tokens: one position of the language model per 80 ms.

    the user's codes of frame p ─┐
    the agent's tokens of p ─────┴─> column p ─> transformer ─> text of p+1 ─> depformer ─> the agent's codes of p+1

The answer to frame p leaves in the same call: the agent's code 1 of position p, known since the call before, and codes
2-8 of position p+1, just sampled (these rows are delayed by one). The reference answers a call later with the same
tokens. Knows nothing of sound or text. moshi's modules hold the weights, `step.py` runs them.
"""

from typing import Any

import torch
from moshi.models import LMModel
from torch import Tensor
from torch.nn import functional as F

from personaplex_cli.model.prompting import AGENT, PAD, SILENCE, TEXT, USER, Layout, Rows
from personaplex_cli.model.sizes import CODEBOOKS
from personaplex_cli.model.step import Depformer, ModuleDepformer, ModuleTransformer, Transformer
from personaplex_cli.prompt import Sampling


class Talk:
    """One language model and the state of one conversation with it."""

    def __init__(self, lm: LMModel, by_modules: bool = False) -> None:
        """`by_modules` runs moshi's modules as they are: slower, and needed where something hooks into them."""
        self.lm = lm
        self._transformer = ModuleTransformer(lm) if by_modules else Transformer(lm)
        self._depformer = ModuleDepformer(lm) if by_modules else Depformer(lm)
        self.device = lm.device
        self.rows = Rows(lm.delays, [lm.text_initial_token_id] + [lm.initial_token_id] * lm.n_q)
        self.context: int = lm.context  # positions that the transformer remembers, a ring
        self.position = 0  # the next position to be read
        self._column = torch.zeros(lm.num_codebooks, dtype=torch.long, device=self.device)
        self._silence = torch.tensor(SILENCE, device=self.device)
        self._sampling = Sampling()
        self._random = torch.Generator()  # on the CPU: a seed means the same on every device

    @property
    def context_bytes(self) -> int:
        """Bytes of the keys and values that the transformer remembers."""
        lm: Any = self.lm
        per_position = 2 * lm.dim * len(lm.transformer.layers) * lm.text_emb.weight.element_size()
        return self.context * int(per_position)

    @torch.inference_mode()
    def begin(self, layout: Layout, sampling: Sampling) -> None:
        """Forget any earlier conversation, read the whole prompt in one pass, sample the first tokens of the talk."""
        self._transformer.reset()
        self._sampling = sampling
        columns = layout.columns.to(self.device)
        prompt = self._embed(columns[:, :-1])
        if layout.embeddings is not None:
            prompt = torch.cat([layout.embeddings.to(prompt)[None], prompt], dim=1)
        hidden = self._read(prompt)
        self.position = layout.positions
        # Seeded only now, so that nothing run before changes the talk.
        self._random.manual_seed(sampling.seed)
        # The first column: its delayed rows are still the prompt's, so the depformer has one code to choose.
        text, codes = self._choose(hidden, codes=1)
        self._column.copy_(columns[:, -1])
        self._column[TEXT] = text
        self._column[AGENT.start] = codes[0]

    @torch.inference_mode()
    def step(self, user: Tensor, silent: bool = False) -> tuple[Tensor, Tensor]:
        """The user's codes [8] of one frame -> the agent's text token [] and codes [8] of the same frame.

        All are int64 tensors on the model's device; nothing waits for it. With `silent` the agent is made to say
        nothing in this frame, as in the pauses of the prompt; the clock runs on.
        """
        column = self._column
        column[USER.start] = user[0]
        if silent:
            column[TEXT] = PAD
            column[AGENT.start] = self._silence[0]
        hidden = self._read(self._embed(column[:, None]))
        next_text, next_codes = self._choose(hidden, codes=1 if silent else CODEBOOKS)
        if silent:
            next_codes = torch.cat([next_codes, self._silence[1:]])
        text = column[TEXT].clone()
        agent = torch.cat([column[AGENT.start : AGENT.start + 1], next_codes[1:]])
        column[TEXT] = next_text
        column[AGENT] = next_codes
        column[USER.start + 1 : USER.stop] = user[1:]
        self.position += 1
        return text, agent

    def _embed(self, columns: Tensor) -> Tensor:
        """Columns [17, t] -> their summed embeddings [1, t, dim], added in the order of the reference."""
        total = F.embedding(columns[1], self.lm.emb[0].weight)
        for row in range(2, len(columns)):
            total = total + F.embedding(columns[row], self.lm.emb[row - 1].weight)
        return (F.embedding(columns[TEXT], self.lm.text_emb.weight) + total)[None]

    def _read(self, embedded: Tensor) -> Tensor:
        """Run the next positions [1, t, dim] through the transformer -> the last one's output [1, 1, dim]."""
        hidden: Tensor = self.lm.out_norm(self._transformer(embedded)[:, -1:])
        return hidden

    def _choose(self, hidden: Tensor, codes: int) -> tuple[Tensor, Tensor]:
        """Sample the next position's text token [] and its agent's first `codes` codes [codes]."""
        how = self._sampling
        # One draw per frame for all its tokens: cheap, and outside of whatever runs on the device.
        noise = torch.empty(1 + CODEBOOKS, max(how.text_top_k, how.audio_top_k)).exponential_(generator=self._random)
        noise = noise.to(self.device)
        text = self._sample(self.lm.text_linear(hidden), how.text_temperature, how.text_top_k, noise[0])
        chosen = [text]
        for step in range(codes):
            logits = self._depformer(step, chosen[-1], hidden)
            chosen.append(self._sample(logits, how.audio_temperature, how.audio_top_k, noise[1 + step]))
        return text, torch.stack(chosen[1:])

    def _sample(self, logits: Tensor, temperature: float, top_k: int, noise: Tensor) -> Tensor:
        """One token [] of logits [..., card]; `noise` [>= top_k] is exponential with mean 1."""
        logits = logits.float().flatten()
        if self._sampling.greedy or temperature == 0:
            return logits.argmax()
        best, tokens = logits.topk(min(top_k, len(logits)))
        # argmax(p / exponential noise) is a draw from p, without asking the device for an answer as multinomial does.
        # Subtracting the largest keeps very small temperatures finite.
        chances = torch.softmax((best - best[0]) / temperature, dim=0)
        return tokens[(chances / noise[: len(chances)]).argmax()]
