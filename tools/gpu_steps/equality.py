"""Whether a GPU answers like a CPU, recordings like the plain way, a quantised model like the whole one."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gpu_steps.context import Context
from gpu_steps.engines import (
    ROOT,
    Talk,
    begin,
    device_of,
    engine_of,
    let_go,
    noise,
    noting,
    recorded,
    spec_of,
    talk,
)
from personaplex_cli.audio.recording import read_recording
from personaplex_cli.character import Sampling
from personaplex_cli.conversation import Reply
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.transformer import Depformer, layer_of
from personaplex_cli.files import main_memory
from personaplex_cli.library.spec import AGENT, CODEBOOKS, TEXT, ModelSpec
from personaplex_cli.loader.load import load
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions, ModelOptions
from personaplex_cli.samples import FRAME

FRAMES = 20
FEW_LAYERS = 4
DEPTHS = (1, 2, 4, 8, 16, 32)
POSITIONS = (250, 510, 1020, 2040, 2990)  # before each end of a length in which the ring is read
WHOLE_BYTES = 22e9  # of main memory, that the model in bf16 needs on the CPU


def graphs(context: Context) -> dict[str, Any]:
    """The same talk, plain and recorded, from the prompt on and at the ends of all lengths."""
    rows: list[dict[str, Any]] = []
    for precision, frames in (("bf16", context.either(300, 8)), ("int8", context.either(60, 3))):
        context.attempt(precision, partial(_recorded_and_plain, context, precision, frames, rows))
        let_go()
    return {"equal": all(row["equal tokens"] for row in rows)}


def _recorded_and_plain(context: Context, precision: str, frames: int, rows: list[dict[str, Any]]) -> None:
    notes: list[str] = []
    plain = LocalEngine(engine_of(context, precision).model)
    replaying = recorded(context, plain, noting(notes))
    context.tell(**{f"notes, {precision}": notes, f"recordings, {precision}": len(replaying.pipeline.recordings)})
    for position in (None, *POSITIONS):
        count = frames if position is None else context.either(20, 3)
        talks = []
        for engine in (plain, replaying):
            begin(engine, position=position)
            talks.append(talk(engine, count))
        rows.append({"precision": precision, "position": position or "prompt", **_alike(*talks)})
        context.tell(recorded=rows)


def _alike(one: Talk, two: Talk) -> dict[str, Any]:
    differing = [index for index, pair in enumerate(zip(one.tokens, two.tokens, strict=True)) if pair[0] != pair[1]]
    off = [np.abs(a.pcm - b.pcm).max() for a, b in zip(one.replies, two.replies, strict=True)]
    return {
        "frames": len(one.tokens),
        "equal tokens": not differing,
        "first that differs": differing[0] if differing else "",
        "largest difference of sound": f"{max(off):.1e}",
    }


@dataclass(frozen=True)
class _Thoughts:
    """What a model makes of given tokens: outputs [n, dim], logits of text [n, card] and codes [n * 8, card]."""

    outputs: Tensor
    text: Tensor
    codes: Tensor

    def compared_with(self, right: "_Thoughts") -> dict[str, Any]:
        cosine = F.cosine_similarity(self.outputs, right.outputs)
        return {
            "cosine, mean": f"{float(cosine.mean()):.6f}",
            "cosine, least": f"{float(cosine.min()):.6f}",
            "same likeliest text": _same(self.text, right.text),
            "same likeliest codes": _same(self.codes, right.codes),
        }


def _same(one: Tensor, two: Tensor) -> float:
    return float((one.argmax(1) == two.argmax(1)).float().mean())


def equality(context: Context) -> dict[str, Any]:
    """Random tokens, the same for all: what the model thinks of them on the CPU, and on the GPU in each precision."""
    few = spec_of(context, num_layers=context.either(FEW_LAYERS, 1))
    context.attempt("codec", lambda: context.tell(codec=_codec(context)))
    let_go()
    rows: list[dict[str, Any]] = []
    context.attempt("fp32", partial(_compared, context, few, "fp32", ("fp32",), rows))
    let_go()
    free, _ = main_memory()
    enough = context.dry or free is None or free > WHOLE_BYTES
    if not enough:
        context.tell(**{"the whole model": f"not compared: {(free or 0) / 1e9:.0f} GB of main memory are free"})
    context.attempt(
        "bf16", partial(_compared, context, spec_of(context) if enough else few, "bf16", ("bf16", "int8", "int4"), rows)
    )
    return {}


def _compared(
    context: Context, spec: ModelSpec, right_in: str, precisions: tuple[str, ...], rows: list[dict[str, Any]]
) -> None:
    frames = context.either(FRAMES, 3)
    columns = torch.randint(spec.lm["card"], (17, frames), generator=torch.Generator().manual_seed(5))
    columns[TEXT] %= spec.lm["text_card"]
    engine = engine_of(context, right_in, spec=spec, where="cpu")
    right, right_depths = _thoughts(engine, columns), list(_by_depth(engine, columns))
    del engine
    for precision in precisions:
        engine = engine_of(context, precision, spec=spec)
        about = {"layers": spec.lm["num_layers"], "on the CPU": right_in, "on the GPU": precision, "frames": frames}
        rows.append({**about, **_thoughts(engine, columns).compared_with(right)})
        context.tell(equality=rows)
        if precision == right_in:
            depths = zip(_by_depth(engine, columns), right_depths, strict=True)
            cosines = [(depth, float(F.cosine_similarity(a, b, dim=0))) for (depth, a), (_, b) in depths]
            named = [{"layers": depth, "cosine": f"{cosine:.6f}"} for depth, cosine in cosines]
            context.tell(**{f"by depth, {precision}, {spec.lm['num_layers']} layers": named})
        del engine
        let_go()


@torch.inference_mode()
def _thoughts(engine: LocalEngine, columns: Tensor) -> _Thoughts:
    """Of columns [17, n], read one after the other; on the host, in float32."""
    generator = engine.model.generator
    lm: Any = generator.lm
    depformer = Depformer(lm, 1)
    outputs, text, codes = [], [], []
    for position in range(columns.shape[1]):
        hidden = _read(generator, columns, position, len(lm.transformer.layers))
        outputs.append(hidden[0])
        text.append(lm.text_linear(hidden)[0])
        tokens = columns[:, position].to(generator.device)
        previous = [tokens[TEXT], *tokens[AGENT]]
        codes += [depformer(step, previous[step][None], hidden) for step in range(CODEBOOKS)]
    return _Thoughts(*(torch.cat(each).float().cpu() for each in (outputs, text, codes)))


@torch.inference_mode()
def _by_depth(engine: LocalEngine, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The output [dim] for the first column, after so many layers: where two models part."""
    lm: Any = engine.model.generator.lm
    layers = [layer_of(each) for each in lm.transformer.layers]
    for depth in DEPTHS:
        if depth <= len(layers):
            shallow = TokenGenerator(lm, layers[:depth])
            yield depth, _read(shallow, columns, 0, depth).flatten().float().cpu()


def _read(generator: TokenGenerator, columns: Tensor, position: int, layers: int) -> Tensor:
    """The output [1, 1, dim] for one of these columns, which begin at position 0."""
    embedded = generator.embed(columns[:, position : position + 1]).to(generator.device)
    first = torch.tensor([position], device=generator.device)
    return generator.read(embedded, first, generator.cache.upto(256)[:layers])


def _codec(context: Context) -> dict[str, Any]:
    """The same talk on the CPU and on the GPU, in fp32: how many codes of what is heard are equal, for how long the
    tokens of what is said are, and how far its sound is off until then."""
    few = spec_of(context, num_layers=1)
    (heard, talk_here), (heard_there, talk_there) = (
        _overheard(engine_of(context, "fp32", spec=few, where=where), context.either(50, 5)) for where in ("cpu", None)
    )
    pairs = zip(talk_here.replies, talk_there.replies, strict=True)
    alike = list(takewhile(lambda pair: pair[0].tokens == pair[1].tokens, pairs))
    loudest = max((np.abs(one.pcm).max() for one, _ in alike), default=0.0)
    off = max((np.abs(one.pcm - two.pcm).max() for one, two in alike), default=0.0)
    return {
        "frames": len(heard),
        "equal codes heard": float((heard == heard_there).float().mean()),
        "frames with equal tokens": len(alike),
        "sound, off by": f"{off / max(loudest, 1e-9):.1e}",
    }


def _overheard(engine: LocalEngine, frames: int) -> tuple[Tensor, Talk]:
    """A talk, and the codes [frames, 8] of what it heard."""
    begin(engine)
    heard: list[Tensor] = []
    replies: list[Reply] = []
    for frame in noise(frames):
        reply = engine.step({0: frame})[0]
        if isinstance(reply, Exception):
            raise reply
        replies.append(reply)
        heard.append(engine.pipeline.outcome(0)[0][-CODEBOOKS:])
    return torch.stack(heard), Talk(replies, [])


def demo(context: Context) -> dict[str, Any]:
    """The demo, which speaks: does it say the same to a recording on the GPU as on the CPU?"""
    sound = read_recording(ROOT / "examples" / "question.wav")
    frames = min(len(sound) // FRAME, context.either(250, 12))
    who = find_character(CharacterOptions(), Sampling(seed=1, greedy=True))
    said = []
    for where in ("cpu", str(device_of(context))):
        engine = load(ModelOptions("demo", device=where, precision="fp32"), rehearsal=who)
        begin(engine, who)
        replies = [engine.step({0: sound[index * FRAME : (index + 1) * FRAME]})[0] for index in range(frames)]
        tokens = [getattr(each, "tokens", each) for each in replies]
        said.append(tokens)
        context.tell(**{f"text, {where}": "".join(getattr(each, "text", "") for each in replies)})
    first = next((index for index, pair in enumerate(zip(*said, strict=True)) if pair[0] != pair[1]), "")
    return {"frames": frames, "equal tokens": said[0] == said[1], "first that differs": first}
