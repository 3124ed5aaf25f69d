"""How tokens are drawn: by the probabilities that were asked for, from noise that depends on nothing but a number."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from personaplex_cli.character import Sampling
from personaplex_cli.engine.sampling import DRAWN, GumbelSampler, counted, noise, sample
from personaplex_cli.library.spec import PERSONAPLEX

CPU = torch.device("cpu")
CARD = 2048
COUNTS = counted(CARD, CPU)
# Of the largest seed, at position 3000: the keys of all rows, and the noise of two text tokens.
KEYS = [-54429573, -597483956, 457847823, -2001831552, 1777547318, 1841616850, 173955287, -1680851679, 139148857]
SECOND_AND_THIRD = [-0.32571107149124146, -0.09609504789113998]


def inputs() -> dict[str, Tensor]:
    kinds = {"keys": torch.int32, "temperature": torch.float32, "last_rank": torch.long}
    return {name: torch.zeros(DRAWN, dtype=kind) for name, kind in kinds.items()}


def drawing(how: Sampling, position: int = 0) -> dict[str, Tensor]:
    written = inputs()
    GumbelSampler(how, PERSONAPLEX).write(written, position)
    return written


def noise_of(positions: int, seed: int = 1, row: int = 1) -> Tensor:
    """Plain noise [positions, card] of one row."""
    sampler, written = GumbelSampler(Sampling(seed=seed), PERSONAPLEX), inputs()
    keys = []
    for position in range(positions):
        sampler.write(written, position)
        keys.append(int(written["keys"][row]))
    return noise(torch.tensor(keys, dtype=torch.int32), torch.ones(positions), COUNTS)


def drawn(logits: Tensor, how: Sampling, positions: int) -> Tensor:
    """What is drawn of the same logits [card] in so many positions."""
    written = drawing(how)
    loud = noise_of(positions) * written["temperature"][1]
    width = GumbelSampler(how, PERSONAPLEX).width
    return sample(logits.expand(positions, -1), loud, written["last_rank"][1].expand(positions), width)


def test_the_noise_is_gumbel_s_and_no_place_knows_another_s() -> None:
    drawn = noise_of(2000)
    assert drawn.isfinite().all()
    assert float(drawn.mean()) == pytest.approx(0.5772, abs=0.003)
    assert float(drawn.std()) == pytest.approx(math.pi / math.sqrt(6), abs=0.003)
    others = {
        "position": drawn.roll(1, 0),
        "token": drawn.roll(1, 1),
        "far token": drawn.roll(256, 1),
        "row": noise_of(2000, row=2),
        "seed": noise_of(2000, seed=2),
    }
    for name, other in others.items():
        together = torch.corrcoef(torch.stack([drawn.flatten(), other.flatten()]))[0, 1]
        assert abs(float(together)) < 0.003, name  # of four million numbers: six deviations


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    logits = torch.full((CARD,), -torch.inf)
    logits[[3, 700, 2000]] = torch.tensor([0.5, 0.3, 0.2]).log() * 0.8
    counts = torch.bincount(drawn(logits, Sampling(seed=1, audio_temperature=0.8), 20_000), minlength=CARD)
    shares = counts[[3, 700, 2000]] / 20_000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.015) and int(counts.sum()) == 20_000


@given(st.integers(1, 2048), st.integers(0, 2**32 - 1))
def test_only_the_k_likeliest_are_drawn(top_k: int, seed: int) -> None:
    logits = torch.randn(CARD, generator=torch.Generator().manual_seed(seed))
    tokens = drawn(logits, Sampling(seed=1, audio_top_k=top_k, audio_temperature=5), 20)
    assert (logits[tokens] >= logits.sort(descending=True).values[top_k - 1]).all()


@pytest.mark.parametrize("how", [Sampling(greedy=True), Sampling(audio_temperature=0), Sampling(audio_top_k=1)])
def test_greedy_takes_the_likeliest_whatever_the_noise(how: Sampling) -> None:
    logits = torch.randn(CARD, generator=torch.Generator().manual_seed(1))
    assert (drawn(logits, how, 50) == logits.argmax()).all()


@pytest.mark.parametrize(("disturbed", "share"), [(1e-4, 0.001), (1e-2, 0.02), (3e-2, 0.05)])
def test_rounding_seldom_changes_what_is_drawn(disturbed: float, share: float) -> None:
    """Noise that went by rank would change 0.5, 26 and 45 % of these tokens."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, CARD, generator=random)
    loud = noise_of(4000) * 0.8
    ranks = torch.full((4000,), 249)
    before = sample(logits, loud, ranks, 256)
    after = sample(logits + disturbed * torch.randn(4000, CARD, generator=random), loud, ranks, 256)
    assert float((before != after).float().mean()) <= share


def test_noise_is_the_same_in_every_shape() -> None:
    """So a slot draws alone what it draws in a batch, and a kernel may work out one token's noise by itself."""
    whole = noise_of(5)
    keys = torch.stack([drawing(Sampling(seed=1), position)["keys"] for position in range(5)])
    assert torch.equal(noise(keys, torch.ones(5, DRAWN), COUNTS)[:, 1], whole)
    assert torch.equal(noise(keys[3:4, 1], torch.ones(1), COUNTS[100:101])[0], whole[3, 100:101])


def test_noise_is_what_it_was() -> None:
    """A conversation can be held again from its seed by a later version, and on another device."""
    keys = drawing(Sampling(seed=2**63 - 1), 3000)["keys"].tolist()
    assert keys == KEYS
    assert noise(torch.tensor(KEYS[:1], dtype=torch.int32), torch.ones(1), COUNTS)[0, 1:3].tolist() == pytest.approx(
        SECOND_AND_THIRD
    )
