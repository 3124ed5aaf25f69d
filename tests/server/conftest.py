"""One server with the demo model for all tests that do not need one of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from runningserver import RunningServer

from personaplex_cli.options import ServeOptions


@pytest.fixture(scope="session")
def server(demo_folder: Path) -> Iterator[RunningServer]:
    with RunningServer(demo_folder) as running:
        yield running


@pytest.fixture(scope="session")
def server_with_queue(demo_folder: Path) -> Iterator[RunningServer]:
    with RunningServer(demo_folder, ServeOptions(queue=2)) as running:
        yield running
