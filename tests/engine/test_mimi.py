"""The lean Mimi against moshi's own modules: same codes, same sound. Its slots know nothing of each other."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import CPU, finished
from hypothesis import given, settings
from hypothesis import strategies as st
from moshi.models import MimiModel
from tape import record
from torch import nn

from personaplex_cli.engine.mimi import MimiCodec
from personaplex_cli.engine.mimi_layers import Quantiser
from personaplex_cli.errors import ModelError
from personaplex_cli.library.spec import CODEBOOKS, PERSONAPLEX, spec_of_folder, spec_with
from personaplex_cli.loader.checkpoint import load_mimi, unfilled_mimi
from personaplex_cli.samples import FRAME, Samples

SLOTS = 3
SAME_SOUND = 1e-5  # of the loudest sample


def mimi_of(folder: Path, context: int) -> MimiModel:
    spec = spec_of_folder(folder)
    sizes = {**spec.mimi, "transformer": {**spec.mimi["transformer"], "context": context}}
    return load_mimi(folder / spec.mimi_file, replace(spec, mimi=sizes), CPU)


@pytest.fixture(scope="module")
def random_mimi(random_folder: Path) -> MimiModel:
    """It remembers five frames and a half, so that what it writes goes round the ring soon, and in a frame's middle."""
    return mimi_of(random_folder, 11)


def noise(frames: int, seed: int = 0) -> Samples:
    """Sound that grows and fades, [frames, 1920]."""
    random = np.random.default_rng(seed)
    loud = random.choice([0.0, 0.01, 0.1, 1.0], (frames, 1))
    return (random.normal(0.0, 0.3, (frames, FRAME)) * loud).astype(np.float32)


def close(sound: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((sound - expected).abs().max() <= SAME_SOUND * expected.abs().max().clamp(min=1e-3))


def tell(codec: MimiCodec, frames: dict[int, Samples]) -> None:
    """These slots hear these frames; what lies in the others is no number."""
    codec.sound.host["live"].zero_()
    codec.sound.host["heard"].fill_(torch.nan)
    for slot, frame in frames.items():
        codec.sound.host["live"][slot] = True
        codec.sound.host["heard"][slot, 0] = torch.from_numpy(frame)
    codec.sound.send()


def hear(codec: MimiCodec, frames: dict[int, Samples]) -> torch.Tensor:
    """The codes [b, 8] of these frames."""
    tell(codec, frames)
    return codec.encode(len(codec.sound.host["live"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "context", "slots", "frames"),
    [("random_folder", 250, 2, 260), ("random_folder", 33, 1, 40), ("demo_folder", 250, 1, 140)],
)
@torch.inference_mode()
def test_it_equals_the_modules_also_round_the_ring(
    name: str, context: int, slots: int, frames: int, request: pytest.FixtureRequest
) -> None:
    """A context of 250 holds 125 frames. The second round begins anew."""
    modules = mimi_of(request.getfixturevalue(name), context)
    lean = MimiCodec(modules, CPU, slots)
    random = torch.Generator().manual_seed(1)
    modules.streaming_forever(slots)
    for count in (frames, 5):
        modules.reset_streaming()
        lean.reset()
        for heard in zip(*(noise(count, slot) for slot in range(slots)), strict=True):
            codes = modules.encode(torch.from_numpy(np.stack(heard))[:, None])[:, :, 0]
            assert torch.equal(hear(lean, dict(enumerate(heard))), codes)
            said = torch.randint(2048, (slots, CODEBOOKS), generator=random)
            assert close(lean.decode(said), modules.decode(said[:, :, None])[:, 0])


@torch.inference_mode()
def test_of_equally_near_vectors_it_takes_the_one_that_moshi_takes(random_mimi: MimiModel) -> None:
    quantiser: Any = deepcopy(random_mimi.quantizer)
    random = torch.Generator().manual_seed(2)
    for kind in (quantiser.rvq_first, quantiser.rvq_rest):
        for each in kind.vq.layers:
            vectors = each._codebook.embedding_sum
            vectors[1000:].copy_(vectors[:1048] + 1e-7 * torch.randn(1048, vectors.shape[1], generator=random))
            each._codebook._embedding = None
    lean = Quantiser(quantiser)
    for scale in (0.0, 1e-3, 0.1, 1.0, 10.0):
        for _ in range(20):
            x = scale * torch.randn(SLOTS, 32, 1, generator=random)
            codes = quantiser.encode(x)
            assert torch.equal(lean.encode(x), codes[:, :, 0])
            torch.testing.assert_close(lean.decode(codes[:, :, 0]), quantiser.decode(codes))


class Recorded:
    """A codec of several slots whose parts were recorded, when none was live, and are replayed."""

    def __init__(self, mimi: MimiModel) -> None:
        self.codec = MimiCodec(mimi, CPU, SLOTS)
        self._said = torch.zeros(SLOTS, CODEBOOKS, dtype=torch.long)
        self._heard, self._sound = torch.zeros_like(self._said), torch.zeros(SLOTS, FRAME)
        with torch.inference_mode():
            self._parts = {rows: record(partial(self._run, rows)) for rows in range(1, SLOTS + 1)}

    def _run(self, rows: int) -> None:
        self._heard[:rows].copy_(self.codec.encode(rows))
        self._sound[:rows].copy_(self.codec.decode(self._said[:rows]))

    def __call__(self, rows: int, frames: dict[int, Samples], said: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hear these frames and say these codes -> the codes that were heard, the sound that was said."""
        tell(self.codec, frames)
        self._said.copy_(said)
        self._parts[rows].replay()
        return self._heard, self._sound


@pytest.fixture(scope="module")
def recorded(random_mimi: MimiModel) -> Recorded:
    return Recorded(random_mimi)


doings = st.lists(st.sampled_from(["talk", "talk", "talk", "stall", "join"]), min_size=SLOTS, max_size=SLOTS)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(doings, min_size=3, max_size=15))
@torch.inference_mode()
def test_a_slot_hears_and_speaks_as_if_it_were_alone(
    recorded: Recorded, random_mimi: MimiModel, schedule: list[list[str]]
) -> None:
    """Slots talk, stall, and join anew; what a slot that stalls is given is nonsense."""
    recorded.codec.reset()
    alone = [MimiCodec(random_mimi, CPU, SLOTS) for _ in range(SLOTS)]
    sounds = [noise(len(schedule), slot) for slot in range(SLOTS)]
    random = torch.Generator().manual_seed(3)
    for index, doing in enumerate(schedule):
        heard = {slot: sounds[slot][index] for slot, what in enumerate(doing) if what != "stall"}
        for slot in heard:
            if doing[slot] == "join":
                recorded.codec.reset(slot)
                alone[slot].reset()
        if heard:
            rows = max(heard) + 1
            said = torch.randint(2048, (SLOTS, CODEBOOKS), generator=random)
            codes, sound = recorded(rows, heard, said)
        for slot, frame in heard.items():
            # In as many rows, of which only this one lives: another shape might round otherwise.
            tell(alone[slot], {slot: frame})
            assert torch.equal(alone[slot].encode(rows)[slot], codes[slot])
            assert close(sound[slot], alone[slot].decode(said[:rows])[slot])


@torch.inference_mode()
def test_a_whole_sample_is_heard_beside_the_slots(random_mimi: MimiModel) -> None:
    codec, undisturbed = MimiCodec(random_mimi, CPU), MimiCodec(random_mimi, CPU)
    sample, talk = noise(10, seed=7), noise(6, seed=8)
    listening = codec.codes_of(sample.flatten()[: 9 * FRAME + 100])
    for index, frame in enumerate(talk):
        if index == 2:
            next(listening)  # it leaves off in between
        if index == 4:
            codes = finished(listening)
        assert torch.equal(hear(codec, {0: frame}), hear(undisturbed, {0: frame}))
    sample[9, 100:] = 0.0  # the last frame was not full
    codec.reset()
    assert torch.equal(codes, torch.stack([hear(codec, {0: frame})[0] for frame in sample], dim=1))


@pytest.mark.parametrize("context", [250, 33])
def test_rows_of_the_mask_lie_where_attention_reads_them_as_they_are(context: int) -> None:
    spec = spec_with({"mimi": {"transformer": {"context": context}}})
    transformer = MimiCodec(unfilled_mimi(spec), torch.device("meta"))._encoder._transformer
    seen = transformer._seen(torch.zeros(1, 2, dtype=torch.long, device="meta"))
    assert seen.shape == (1, 1, 2, context)
    assert seen.stride(-1) == 1 and all(stride % 16 == 0 for stride in seen.stride()[:-1])


@pytest.mark.parametrize(
    ("part", "differing"),
    [
        ("seanet", {"activation": "ReLU", "activation_params": {}}),
        ("seanet", {"true_skip": False}),
        ("transformer", {"positional_embedding": "sin_rope"}),
        ("transformer", {"gating": "silu"}),
        ("transformer", {"norm": "rms_norm"}),
        ("transformer", {"kv_repeat": 2}),
        ("transformer", {"causal": False}),
        ("transformer", {"layer_scale": None}),
        ("transformer", {"context": 1}),
        ("transformer", {"context": None}),
    ],
)
def test_what_it_cannot_compute_is_refused(part: str, differing: dict[str, Any]) -> None:
    sizes = {**PERSONAPLEX.mimi, part: {**PERSONAPLEX.mimi[part], **differing}}
    mimi = unfilled_mimi(replace(PERSONAPLEX, mimi=sizes))
    with pytest.raises(ModelError, match="codec has"):
        MimiCodec(mimi, torch.device("meta"))


@pytest.mark.parametrize("last", [nn.Tanh(), nn.ELU()])
def test_an_activation_at_the_end_is_not_forgotten(last: nn.Module) -> None:
    mimi: Any = unfilled_mimi(PERSONAPLEX)
    mimi.decoder.model.append(last)
    with pytest.raises(ModelError, match="codec has"):
        MimiCodec(mimi, torch.device("meta"))
