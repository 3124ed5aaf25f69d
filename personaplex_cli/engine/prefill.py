"""Prompts, read into slots: all their positions in one pass, or out of the cache of prompts that were read before."""

import torch
from torch import Tensor

from personaplex_cli.character import Sampling
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.prompt_cache import PromptCache
from personaplex_cli.engine.prompting import Layout
from personaplex_cli.engine.sampling import GumbelSampler
from personaplex_cli.engine.slot import Slot


def read_prompt(
    generator: TokenGenerator,
    prompts: PromptCache,
    number: int,
    slot: Slot,
    layout: Layout,
    sampling: Sampling,
    seed: int,
) -> None:
    """Let `slot`, whose row in the batch is `number`, forget any earlier conversation and begin with this prompt."""
    # Seeded only now, so that nothing run before changes the talk.
    sampler = GumbelSampler(sampling, seed)
    remembered = generator.cache.of(number, layout.positions)
    if found := prompts.find(layout):
        remembered.copy_(found.remembered)
        hidden = found.hidden.to(generator.device)
    else:
        hidden = _read(generator, number, layout)
        prompts.keep(layout, remembered, hidden)
    slot.begin(layout, sampler, *generator.first(hidden, sampler.noise()))


def _read(generator: TokenGenerator, number: int, layout: Layout) -> Tensor:
    """Run the prompt's positions -> the last one's output [1, 1, dim]."""
    prompt = generator.embed(layout.columns[:, :-1])
    if layout.embeddings is not None:
        prompt = torch.cat([layout.embeddings.to(prompt)[None], prompt], dim=1)
    start = torch.zeros(1, dtype=torch.long, device=generator.device)
    span = generator.cache.span_for(layout.positions)
    return generator.read(prompt.to(generator.device), start, generator.cache.of(number, span))
