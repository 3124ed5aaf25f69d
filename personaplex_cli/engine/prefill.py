"""Prompts, read into slots: all their positions in one pass, or out of the cache of prompts that were read before."""

import torch
from torch import Tensor

from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import Layout


def read_prompt(generator: TokenGenerator, slot: int, layout: Layout, prompts: PromptCache) -> Tensor:
    """Let a slot remember this prompt and nothing else -> the output of its last position [1, 1, dim]."""
    remembered = generator.cache.of(slot, layout.positions)
    if found := prompts.find(layout):
        remembered.copy_(found["remembered"])
        return found["hidden"].to(generator.device)
    prompt = generator.embed(layout.columns[:, :-1])
    if layout.embeddings is not None:
        prompt = torch.cat([layout.embeddings.to(prompt)[None], prompt], dim=1)
    start = torch.zeros(1, dtype=torch.long, device=generator.device)
    span = generator.cache.span_for(layout.positions)
    hidden = generator.read(prompt.to(generator.device), start, generator.cache.of(slot, span))
    prompts.keep(layout, remembered, hidden)
    return hidden
