"""A server for clients of PyPI that were written for OpenAI's, which a test skips where they are not installed.

pip install -e '.[dev,clients]'
pytest tests/openai_clients
"""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import answerer
import pytest
from runningserver import RunningServer, speech

from personaplex_cli.options import AccessOptions
from personaplex_cli.samples import SILENT_FRAME, Samples


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "openai_clients" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # the clients' own
            item.add_marker(pytest.mark.slow)


@contextmanager
def answering_with(access: AccessOptions) -> Iterator[RunningServer]:
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "personaplex_cli.loader.load", answerer)
            running = stack.enter_context(RunningServer("demo", access=access, slots=4))
        yield running  # the tests after these have the real model


@pytest.fixture(scope="session")
def answering() -> Iterator[RunningServer]:
    with answering_with(AccessOptions(port=0)) as running:
        yield running


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The same with TLS and the token "sk-key"."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl, to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {cert} -keyout {key}"
    subprocess.run([*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    with answering_with(AccessOptions(port=0, token="sk-key", ssl_cert=cert, ssl_key=key)) as running:
        yield running


class Microphone:
    """Frames of 80 ms in real time: silence, and speech while `speaks` is set."""

    def __init__(self) -> None:
        self.speaks = False

    async def frames(self) -> AsyncIterator[Samples]:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += 0.08
            await asyncio.sleep(max(0.0, due - loop.time()))
            yield speech(1) if self.speaks else SILENT_FRAME

    async def speak(self, seconds: float) -> None:
        self.speaks = True
        await asyncio.sleep(seconds)
        self.speaks = False


@pytest.fixture
def microphone() -> Microphone:
    return Microphone()
