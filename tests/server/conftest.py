"""One server with the demo model for all tests that do not need one of their own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import parrot
import pytest
from runningserver import RunningServer

from personaplex_cli.options import ServeOptions


@pytest.fixture(scope="session")
def demo_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The demo model's files, or none and a parrot where torch is not to be used."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.getoption("--without-torch"):
            patch.setitem(sys.modules, "personaplex_cli.loader.load", parrot)
        else:
            from personaplex_cli.loader.demo import build_demo

            build_demo(folder)
        yield folder


@pytest.fixture(scope="session")
def server(demo_folder: Path) -> Iterator[RunningServer]:
    with RunningServer(demo_folder) as running:
        yield running


@pytest.fixture(scope="session")
def server_with_queue(demo_folder: Path) -> Iterator[RunningServer]:
    with RunningServer(demo_folder, ServeOptions(queue=2)) as running:
        yield running
