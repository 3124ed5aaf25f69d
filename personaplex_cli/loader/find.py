"""The files of a model by its name, wherever it comes from."""

import os
from pathlib import Path

from personaplex_cli.errors import ModelError
from personaplex_cli.events import Listener, Note, Phase, State
from personaplex_cli.library import weights
from personaplex_cli.library.inventory import inventory_of_folder, inventory_of_repo
from personaplex_cli.library.weights import ModelFiles
from personaplex_cli.options import DEMO


def find_files(model: str, revision: str | None, listen: Listener, verify: bool = False) -> ModelFiles:
    """The files of `demo`, of a folder or of a Hugging Face repository, downloaded if they are not here yet.

    With `verify` their sizes are compared, and what is wrong is fetched anew.
    Raises UsageError, ModelError or NetworkError.
    """
    if model == DEMO:
        from personaplex_cli.loader.demo import demo_files

        return demo_files(listen)
    if weights.is_folder(model):
        folder = Path(os.path.expanduser(model))
        files = weights.open_folder(folder)
        if verify and (damaged := inventory_of_folder(folder).damaged):
            raise ModelError(f"{folder}: damaged or cut short: {', '.join(damaged)}.", "Copy it there again.")
        return files
    if verify and (damaged := inventory_of_repo(model, revision).damaged):
        listen(Note(f"Damaged or incomplete, downloading again: {', '.join(damaged)}."))
        listen(State(Phase.DOWNLOADING, model))
        return weights.download(model, revision, listen, damaged)
    if here := weights.cached(model, revision):
        return here
    listen(State(Phase.DOWNLOADING, model))
    return weights.download(model, revision, listen)
