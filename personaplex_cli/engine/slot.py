"""One conversation in tokens, as the host knows it: what is known of the next frame before the user is heard.

Knows no device. The embedding tables wait on the host, of which a frame reads 17 rows.
"""

from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from personaplex_cli.character import Sampling
from personaplex_cli.engine.prompting import Layout
from personaplex_cli.engine.sampling import GumbelSampler
from personaplex_cli.library.spec import AGENT, CODEBOOKS, TEXT, USER, ModelSpec

OPEN = -1  # a code of the agent for the depformer to choose
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's mark of a word's beginning


class Slot:
    """One row of the batch: the column of tokens that is read next, where that is, and how tokens are drawn.

    `begin` it, then `prepare` and `commit` each frame.
    """

    def __init__(self, embeddings: Sequence[Tensor], tokenizer: SentencePieceProcessor, spec: ModelSpec) -> None:
        """`embeddings` [card + 1, dim] are the tables of the 17 rows, on the host."""
        self.position = 0  # the next one to be read, by its place in what is remembered
        self._drawn = 0  # the same, counted from the conversation's beginning: what is forgotten counts, too
        self._columns: deque[list[int]] = deque(maxlen=spec.lm["context"])  # those that were read after the prompt
        self._tokenizer = tokenizer
        self.spec = spec
        self.sampler = GumbelSampler(Sampling(), spec)
        self._tables = embeddings
        self._silence = torch.tensor(spec.silence)
        self._column = [0] * len(spec.delays)
        self._words = TextStream(tokenizer, spec.silent_tokens)
        self._text = 0  # the text token of the frame that was prepared

    def begin(self, layout: Layout, text: int, code: int) -> None:
        """The prompt was read; `text` and `code` are the first tokens after it."""
        self.position = self._drawn = layout.positions
        self._columns.clear()
        self._words = TextStream(self._tokenizer, self.spec.silent_tokens)
        self._column = layout.columns[:, -1].tolist()
        self._column[TEXT], self._column[AGENT.start] = text, code

    def wait_at(self, position: int, sampler: GumbelSampler, inputs: Mapping[str, Tensor]) -> None:
        """Nothing is to be read yet: what the batch computes for this row meanwhile is written at this position."""
        self.position, self.sampler = position, sampler
        inputs["position"].fill_(position)
        sampler.write(inputs, position)

    def history(self, since: int, until: int = 0) -> list[list[int]]:
        """The columns of 17 tokens that were read from so many frames ago until so many frames ago."""
        count = len(self._columns)
        return list(islice(self._columns, count - since, count - until))

    def prepare(self, inputs: Mapping[str, Tensor], silent: bool = False) -> None:
        """Write what is known of this frame into this slot's part of the inputs.

        `embedded` [9, dim]: the agent's embeddings added up, the user's but the first, the text's. `forced` [8],
        `position` [], and how the next position is drawn. With `silent` the agent is made to say nothing, as in the
        pauses of a prompt.
        """
        column, tables = self._column, self._tables
        if silent:
            column[TEXT], column[AGENT.start] = self.spec.padding, self.spec.silence[0]
        # In the order in which the reference adds them up; the device puts the user's first code in between.
        said = tables[AGENT.start][column[AGENT.start]]
        for row in range(AGENT.start + 1, AGENT.stop):
            said = said + tables[row][column[row]]
        later = [tables[row][column[row]] for row in range(USER.start + 1, USER.stop)]
        torch.stack([said, *later, tables[TEXT][column[TEXT]]], out=inputs["embedded"])
        inputs["position"].fill_(self.position)
        self.sampler.write(inputs, self._drawn + 1)
        if silent:
            inputs["forced"].copy_(self._silence)
        else:
            inputs["forced"].fill_(OPEN)
            inputs["forced"][0] = column[AGENT.start]
        self._text = column[TEXT]

    def commit(self, sampled: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Learn what the device chose (18 tokens): the next position is known as far as it can be.

        Returns the text that this frame adds, and its 17 tokens: the text's, 8 codes of the agent's, 8 of the user's.
        """
        agent, user = sampled[2 : 2 + CODEBOOKS], sampled[2 + CODEBOOKS :]
        self._columns.append([*self._column[: USER.start], user[0], *self._column[USER.start + 1 :]])
        self._column[TEXT], self._column[AGENT.start] = sampled[:2]
        self._column[AGENT.start + 1 : AGENT.stop] = agent[1:]
        self._column[USER.start + 1 : USER.stop] = user[1:]
        self.position += 1
        self._drawn += 1
        return self._words.piece(self._text), (self._text, *agent, *user)


class TextStream:
    """Turns text tokens into pieces of text, as they are spoken. A word's first piece begins with a space.

    Characters that the tokenizer spells in several bytes come out whole, with their last byte.
    """

    def __init__(self, tokenizer: SentencePieceProcessor, silent_tokens: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._silent = silent_tokens
        self._bytes = getincrementaldecoder("utf-8")(errors="replace")

    def piece(self, token: int) -> str:
        """The text that this token adds, often empty."""
        if token in self._silent or token >= self._tokenizer.get_piece_size():
            return ""
        piece: str = self._tokenizer.id_to_piece(token)
        if self._tokenizer.is_byte(token):
            return self._bytes.decode(bytes([int(piece[3:-1], 16)]))  # <0xE2>
        cut_short = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return cut_short + piece.replace(SPACE, " ")
