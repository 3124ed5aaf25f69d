"""Real servers, and pages in a real browser with a microphone made of a recording, for the tests of the web page.

They need Chromium and Playwright: `apt install chromium && pip install playwright`, or `pip install playwright &&
playwright install chromium`; CHROMIUM names another program.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

QUESTION = Path(__file__).parents[2] / "examples/question.wav"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 120_000  # milliseconds; nothing takes so long unless something is wrong
REFUSED = re.compile("WebSocket connection|status of (401|503)|ERR_CONNECTION")  # which browsers report, too
DEVICES = [
    "--use-fake-device-for-media-stream",
    f"--use-file-for-fake-audio-capture={QUESTION}",
    "--autoplay-policy=no-user-gesture-required",
    "--no-sandbox",
]
ALLOWED = "--use-fake-ui-for-media-stream"


class Served:
    """`personaplex serve` in a process of its own."""

    def __init__(self, model: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "personaplex_cli", "serve", "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--model", str(model), *arguments], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr
        said = []
        for line in self.process.stderr:
            said.append(line)
            if ready := re.match(r"Ready (\S+)", line):
                self.url = ready[1]
                return
        raise AssertionError(f"it ended: {said}")

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        with self.process:
            self.process.communicate(timeout=60)


@pytest.fixture
def serve(demo_folder: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers and ends them."""
    with ExitStack() as running:

        def start(*arguments: str) -> Served:
            server = Served(demo_folder, *arguments)
            running.callback(server.end)
            return server

        yield start


@pytest.fixture(scope="module")
def url(demo_folder: Path) -> Iterator[str]:
    """A server that lives through all tests. A client that has just left may still hold its place: others wait."""
    server = Served(demo_folder, "--queue", "9")
    yield server.url
    server.end()


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    playwright.expect.set_options(timeout=TIMEOUT)
    with playwright.sync_playwright() as tool:
        program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
        if not program and not Path(tool.chromium.executable_path).exists():
            pytest.skip("needs Chromium")
        browser = tool.chromium.launch(executable_path=program, args=[*DEVICES, *flags])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(ALLOWED) as browser:
        yield browser


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages. None of them may have complained in the end, whether of an error or of a forbidden request."""
    complaints: list[str] = []
    with ExitStack() as visits:

        def visit(url: str, script: str = "", **settings: Any) -> Any:
            home = url.partition("?")[0]
            context = browser.new_context(**settings)
            visits.callback(context.close)
            context.set_default_timeout(TIMEOUT)
            context.add_init_script(script)
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
            page.on("request", lambda asked: asked.url.startswith((home, "blob:")) or complaints.append(asked.url))
            page.goto(url)
            return page

        yield visit
    assert not [each for each in complaints if not REFUSED.search(each)]
