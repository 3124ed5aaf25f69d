"""Prompts, read into slots: many positions in one pass, or out of the cache of prompts that were read before."""

import torch
from torch import Tensor

from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import Layout

AT_ONCE = 512  # positions: nearly every prompt; what a longer one needs in between does not grow


def read_prompt(generator: TokenGenerator, slot: int, layout: Layout, prompts: PromptCache) -> Tensor:
    """Let a slot remember this prompt and nothing else -> the output of its last position [1, 1, dim]."""
    remembered = generator.cache.of(slot, layout.positions)
    if found := prompts.find(layout):
        for here, kept in zip(remembered, found["remembered"], strict=True):
            here.copy_(kept)  # layer by layer: the device holds a copy for a moment, since the ring lies apart
        return found["hidden"].to(generator.device)
    prompt = generator.embed(layout.columns[:, :-1])
    if layout.embeddings is not None:
        prompt = torch.cat([layout.embeddings.to(prompt)[None], prompt], dim=1)
    for first in range(0, layout.positions, AT_ONCE):
        part = prompt[:, first : first + AT_ONCE].to(generator.device)
        start = torch.full((1,), first, dtype=torch.long, device=generator.device)
        span = generator.cache.span_for(first + part.shape[1])
        hidden = generator.read(part, start, generator.cache.of(slot, span))
    prompts.keep(layout, remembered, hidden)
    return hidden
