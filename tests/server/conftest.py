"""One server with a random model for all tests that do not need one of their own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import parrot
import pytest
from runningserver import RunningServer

from personaplex_cli.options import ServeOptions


@pytest.fixture(scope="session")
def random_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files of a random model, or none and a parrot where torch is not to be used."""
    folder = tmp_path_factory.mktemp("random")
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.getoption("--without-torch"):
            patch.setitem(sys.modules, "personaplex_cli.loader.load", parrot)
        else:
            from random_model import build_random

            build_random(folder)
        yield folder


@pytest.fixture(scope="session")
def server(random_folder: Path) -> Iterator[RunningServer]:
    with RunningServer(random_folder) as running:
        yield running


@pytest.fixture(scope="session")
def server_with_queue(random_folder: Path) -> Iterator[RunningServer]:
    with RunningServer(random_folder, ServeOptions(queue=2)) as running:
        yield running
