"""The files of a model by its name, wherever it comes from."""

import os
from pathlib import Path

from personaplex_cli.events import Listener, Phase, State
from personaplex_cli.library import weights
from personaplex_cli.library.weights import ModelFiles
from personaplex_cli.options import DEMO


def find_files(model: str, revision: str | None, listen: Listener) -> ModelFiles:
    """The files of `demo`, of a folder or of a Hugging Face repository, downloaded if they are not here yet.

    Raises UsageError, ModelError or NetworkError.
    """
    if model == DEMO:
        from personaplex_cli.loader.demo import demo_files

        return demo_files(listen)
    if weights.is_folder(model):
        return weights.open_folder(Path(os.path.expanduser(model)))
    if here := weights.cached(model, revision):
        return here
    listen(State(Phase.DOWNLOADING, model))
    return weights.download(model, revision, listen)
