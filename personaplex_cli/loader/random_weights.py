"""Models without a checkpoint: of any size, with values of no meaning."""

import torch
from moshi.models import LMModel, MimiModel
from moshi.models.loaders import get_mimi
from torch import nn

from personaplex_cli.library.spec import CODEBOOKS, ModelSpec
from personaplex_cli.loader.checkpoint import Place, no_random_init

PACKED = (".scale", ".least")  # of quantised linears


def unfilled(spec: ModelSpec, dtype: torch.dtype) -> tuple[LMModel, MimiModel]:
    """The modules on `meta`."""
    with no_random_init(), torch.device("meta"):
        mimi = get_mimi(None, dict(spec.mimi), device="meta", num_codebooks=CODEBOOKS)
        return LMModel(device="meta", dtype=dtype, **spec.lm), mimi


def fill_randomly(module: nn.Module, place: Place, dtype: torch.dtype) -> None:
    """Give a module on `meta` values that keep numbers within bounds, in `dtype` like the loader would."""
    values = {}
    for name, tensor in module.state_dict().items():
        as_they_are = not tensor.is_floating_point() or name.endswith(PACKED)
        value = torch.empty(tensor.shape, dtype=tensor.dtype if as_they_are else dtype, device=place(name))
        if name.endswith(("alpha", "_initialized", "cluster_usage", "norm1.weight", "norm2.weight")):
            value.fill_(1.0)
        elif not value.is_floating_point():
            value.random_(0, 127)
        elif name.endswith(PACKED):
            value.fill_(0.02 / 127)
        else:
            value.normal_(0.0, 0.02)
        values[name] = value
    module.load_state_dict(values, assign=True)
    module.requires_grad_(False).eval()
