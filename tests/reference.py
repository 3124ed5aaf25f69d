"""moshi's own modules in the shape of `engine/transformer.py`: what the lean step is held against."""

from moshi.models import LMModel
from torch import Tensor


class ModuleTransformer:
    """moshi's transformer over time. It keeps its own count of positions, and looks at the whole ring."""

    def __init__(self, lm: LMModel) -> None:
        self._module = lm.transformer
        self._module.streaming_forever(1)

    def reset(self) -> None:
        self._module.reset_streaming()

    def __call__(self, x: Tensor, first: Tensor, kv: Tensor) -> Tensor:
        output: Tensor = self._module(x)
        return output


class ModuleDepformer:
    """moshi's transformer over codebooks."""

    def __init__(self, lm: LMModel) -> None:
        self._lm = lm
        lm.depformer.streaming_forever(1)

    def __call__(self, step: int, previous: Tensor, hidden: Tensor) -> Tensor:
        if step == 0:
            self._lm.depformer.reset_streaming()
        logits: Tensor = self._lm.forward_depformer(step, previous.view(1, 1, 1), hidden)
        return logits[:, 0, 0]
