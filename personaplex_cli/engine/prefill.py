"""Prompts, read into slots: many positions in one pass, or out of the cache of prompts that were read before."""

from collections.abc import Generator

import torch
from torch import Tensor

from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import Layout

AT_ONCE = 512  # positions: nearly every prompt; what a longer one needs in between does not grow


def read_prompt(
    generator: TokenGenerator, slot: int, layout: Layout, prompts: PromptCache, at_once: int = AT_ONCE
) -> Generator[None, None, Tensor]:
    """Let a slot remember this prompt and nothing else -> the output of its last position [1, 1, dim].

    Yields after each `at_once` positions: others may have frames computed then.
    """
    remembered = generator.cache.of(slot, layout.positions)
    if found := prompts.find(layout):
        for here, kept in zip(remembered, found["remembered"], strict=True):
            here.copy_(kept)  # layer by layer: the device holds a copy for a moment, since the ring lies apart
        return found["hidden"].to(generator.device)
    prompt = generator.embed(layout.columns[:, :-1])
    if layout.embeddings is not None:
        prompt = torch.cat([layout.embeddings.to(prompt)[None], prompt], dim=1)
    for first in range(0, layout.positions, at_once):
        part = prompt[:, first : first + at_once].to(generator.device)
        start = torch.full((1,), first, dtype=torch.long, device=generator.device)
        span = generator.cache.span_for(first + part.shape[1])
        hidden = generator.read(part, start, generator.cache.of(slot, span))
        if first + at_once < layout.positions:
            yield
    prompts.keep(layout, remembered, hidden)
    return hidden
