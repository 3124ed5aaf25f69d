"""From frame to frame: what runs the model, on torch and moshi's modules.

moshi compiles small pieces with `torch.compile` on first use, which stalls for seconds and fails without a compiler.
It looks at this variable while it is imported, so it is set before anything here imports it.
"""

import os
from importlib.metadata import PackageNotFoundError, distribution

from personaplex_cli.errors import ModelError

os.environ["NO_TORCH_COMPILE"] = "1"


def refuse_other_moshi() -> None:
    """NVIDIA's reference brings an older moshi under the same module name; whichever was installed last is found."""
    try:
        distribution("moshi-personaplex")
    except PackageNotFoundError:
        return
    raise ModelError(
        "NVIDIA's package moshi-personaplex is installed here and hides PyPI's moshi, which this program needs.",
        "`pip uninstall moshi-personaplex`, then `pip install --force-reinstall --no-deps moshi`; or use a virtual "
        "environment of its own.",
    )


refuse_other_moshi()
