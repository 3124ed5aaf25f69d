"""Every test runs in its own user folders; `--golden-dir` chooses the golden tokens to check against.

`--without-torch` skips what needs the model's libraries: .ci/run tries the rest with every other Python.
Tests of servers talk with a parrot then, but for those that are marked `model`.
"""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

# Before numpy and torch read it: the models here are tiny, and threads that wait for each other spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

import personaplex_cli.engine  # noqa: F401  it tells moshi how to be imported, which tests may do first

HERE = Path(__file__).parent

# No law depends on the machine's speed, or on luck: examples are the same each time, unless PERSONAPLEX_EXPLORE is set,
# which looks for new ones.
FIXED = "PERSONAPLEX_EXPLORE" not in os.environ
settings.register_profile("no deadline", deadline=None, derandomize=FIXED)
settings.register_profile("few examples", deadline=None, derandomize=FIXED, max_examples=20)
settings.load_profile("no deadline")

# A shell starts what it runs in the background deaf to Ctrl-C, and so would be every program that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=HERE / "data" / "golden",
        help="folder of golden-*.json files (and golden-*.voice.pt) that the engine must reproduce",
    )
    parser.addoption("--without-torch", action="store_true", help="skip what needs torch, which need not be installed")


class WithoutTorch:
    """Sees every import before Python does: tests that import the model's libraries are skipped, whole files, too."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in ("torch", "moshi", "sentencepiece"):
            self._skip()

    def _skip(self) -> NoReturn:
        pytest.skip("needs torch", allow_module_level=True)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-torch"):
        sys.meta_path.insert(0, WithoutTorch())
        settings.load_profile("few examples")  # the whole suite has tried many


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.config.getoption("--without-torch") and item.get_closest_marker("model"):
        pytest.skip("needs the model")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_path" in metafunc.fixturenames:
        paths = sorted(metafunc.config.getoption("--golden-dir").glob("golden-*.json"))
        assert paths, "no golden-*.json in the golden folder"
        metafunc.parametrize("golden_path", paths, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def user_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings, caches and tokens of whoever runs the tests are out of reach."""
    for name in list(os.environ):
        if name.startswith(("PERSONAPLEX_", "HF_", "DEFAULT_", "MOSHI_")) or name == "CPU_OFFLOAD":
            monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "user" / name.lower()))
    return tmp_path / "user"


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of random weights. Tests that spoil files work on a copy."""
    from random_model import build_random

    folder = tmp_path_factory.mktemp("random")
    build_random(folder)
    return folder


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, which speaks."""
    from personaplex_cli.loader import demo

    name, files = demo.packed()
    folder = tmp_path_factory.mktemp("demo") / name
    demo.put(files, folder)
    return folder
