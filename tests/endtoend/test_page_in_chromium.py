"""The web page in a real browser, with a microphone made of a recording, on a real server with the demo model.

Runs where Chromium and Playwright are: `apt install chromium && pip install playwright`, or `pip install playwright &&
playwright install chromium`; CHROMIUM names another program. Nothing here depends on how fast the machine is.
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

playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
expect = playwright.expect

QUESTION = Path(__file__).parents[2] / "examples/question.wav"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 120_000  # milliseconds; nothing takes so long unless something is wrong
A_TIME = re.compile(r"^<?\d+(\.\d)? ms$")
REFUSED = re.compile("WebSocket connection|status of 401|ERR_CONNECTION")  # which browsers report, too
LOUD = re.compile("[1-9]")
DEVICES = [
    "--use-fake-device-for-media-stream",
    f"--use-file-for-fake-audio-capture={QUESTION}",
    "--autoplay-policy=no-user-gesture-required",
    "--no-sandbox",
]
ALLOWED = "--use-fake-ui-for-media-stream"


class Served:
    """`personaplex serve` in a process of its own."""

    def __init__(self, demo: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "personaplex_cli", "serve", "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen([*command, "--model", str(demo), *arguments], stderr=subprocess.PIPE, text=True)
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

        expect.set_options(timeout=TIMEOUT)
        yield visit
    assert not [each for each in complaints if not REFUSED.search(each)]


def shows(page: Any, state: str) -> None:
    expect(page.locator("#state")).to_have_text(state)


def test_a_conversation(url: str, visit: Callable[..., Any]) -> None:
    page = visit(url)
    page.get_by_text("Astronaut").click()
    page.get_by_label("Voice").select_option("NATM1")
    page.get_by_text("More").click()
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Start talking").click()
    shows(page, "Live")
    expect(page.locator("#who")).to_have_text("Astronaut")
    expect(page.locator("#how")).to_have_text("voice NATM1 · seed 7")
    # All that is to be seen of it: words with their times, both levels, delays, what is left of the memory.
    expect(page.locator("#words p").first).to_have_text(re.compile(r"^0:\d\d\S"))
    for meter in ("#you-meter", "#agent-meter"):
        expect(page.locator(meter)).to_have_attribute("aria-valuenow", LOUD)
    for figure in ("#step", "#network", "#cushion"):
        expect(page.locator(figure)).to_have_text(A_TIME)
    expect(page.locator("#memory-left")).to_have_text(re.compile(r"persona fades in 3:\d\d"))

    page.get_by_role("button", name="Mute").click()
    expect(page.get_by_role("button", name="Mute", pressed=True)).to_be_visible()
    expect(page.locator("#you-meter")).to_have_attribute("aria-valuenow", "0")
    page.get_by_role("button", name="Stop talking").click()
    expect(page.locator("#hushed")).to_be_visible()
    page.get_by_role("button", name="Mute").click()
    expect(page.locator("#you-meter")).to_have_attribute("aria-valuenow", LOUD)
    expect(page.locator("#hushed")).to_be_hidden()  # the microphone speaks

    page.get_by_role("button", name="Restart").click()
    expect(page.get_by_role("heading", name="a new conversation")).to_be_visible()
    expect(page.locator("#words h3 ~ p").first).to_have_text(re.compile(r"^0:\d\d\S"))

    page.get_by_role("button", name="Hang up").click()
    shows(page, "Ended")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save text").click()
    saved = Path(download.value.path()).read_text(encoding="utf-8")
    assert saved.count("Astronaut, voice NATM1, seed 7") == 2
    assert re.search(r"^0:\d\d  \S", saved, re.M)
    page.get_by_role("button", name="Talk again").click()
    shows(page, "Live")


def test_with_the_keyboard_alone(url: str, visit: Callable[..., Any]) -> None:
    page = visit(url)
    expect(page.locator("#setup")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # from the teacher to a custom persona
    expect(page.get_by_label("Who is it?")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.type("You enjoy having a good conversation. My mind is set on rqsm.")
    for _ in range(4):  # voice, headphones, more, start
        page.keyboard.press("Tab")
    expect(page.locator("#start")).to_be_focused()
    page.keyboard.press("Enter")
    shows(page, "Live")
    expect(page.locator("#who")).to_have_text("Custom")
    expect(page.locator("#words p").first).to_be_visible()
    page.keyboard.press("m")
    expect(page.locator("#muted")).to_be_visible()
    page.keyboard.press("s")
    expect(page.locator("#hushed")).to_be_visible()
    page.keyboard.press("r")
    expect(page.get_by_role("heading", name="a new conversation")).to_be_visible()
    page.keyboard.press("q")
    shows(page, "Ended")
    expect(page.locator("#reconnect")).to_be_focused()
    page.keyboard.press("Enter")
    shows(page, "Live")


def test_words_follow_unless_the_reader_scrolled_up(url: str, visit: Callable[..., Any]) -> None:
    page = visit(url, viewport={"width": 390, "height": 900})  # all of the page fits
    page.get_by_role("button", name="Start talking").click()
    expect(page.locator("#words p").first).to_be_visible()
    lines, newest = page.locator("#words h3"), page.get_by_role("button", name="Newest")

    def restart(times: int) -> None:
        for _ in range(times):
            count = lines.count()
            page.get_by_role("button", name="Restart").click()
            expect(lines).to_have_count(count + 1)

    restart(14)
    expect(lines.last).to_be_in_viewport()
    page.locator("#words").hover()
    page.mouse.wheel(0, -10_000)
    expect(newest).to_be_visible()
    restart(2)
    expect(page.locator("#words p").first).to_be_in_viewport()
    newest.click()
    expect(newest).to_be_hidden()
    restart(2)
    expect(lines.last).to_be_in_viewport()


def test_a_browser_that_does_not_convert_rates(url: str, visit: Callable[..., Any]) -> None:
    """Firefox refuses a microphone in a context of another rate; then the server converts, both ways."""
    refuse = """
        const connect = AudioContext.prototype.createMediaStreamSource;
        AudioContext.prototype.createMediaStreamSource = function (stream) {
          if (this.sampleRate === 24000) throw new DOMException("rates differ", "NotSupportedError");
          window.usedRate = this.sampleRate;
          return connect.call(this, stream);
        };
    """
    page = visit(url, refuse)
    page.get_by_role("button", name="Start talking").click()
    for meter in ("#you-meter", "#agent-meter"):
        expect(page.locator(meter)).to_have_attribute("aria-valuenow", LOUD)
    expect(page.locator("#clock")).to_have_text(re.compile("0:0[2-9]"))
    assert page.evaluate("window.usedRate") in (44100, 48000)


def test_a_stall_is_counted_and_the_talk_goes_on(serve: Callable[..., Served], visit: Callable[..., Any]) -> None:
    server = serve()
    page = visit(server.url)
    page.get_by_role("button", name="Start talking").click()
    expect(page.locator("#step")).to_have_text(A_TIME)
    before = int(page.locator("#underruns").inner_text())
    server.process.send_signal(signal.SIGSTOP)
    expect(page.locator("#underruns")).not_to_have_text(str(before))
    server.process.send_signal(signal.SIGCONT)
    words = page.locator("#words").inner_text()
    expect(page.locator("#words")).not_to_have_text(words, use_inner_text=True)
    shows(page, "Live")


def test_a_server_that_goes_away(serve: Callable[..., Served], visit: Callable[..., Any]) -> None:
    server = serve()
    page = visit(server.url)
    page.get_by_role("button", name="Start talking").click()
    expect(page.locator("#words p").first).to_be_visible()
    server.end()
    shows(page, "Disconnected")
    expect(page.get_by_role("alert")).to_contain_text("The server shuts down.")
    expect(page.locator("#words p").first).to_be_visible()
    page.get_by_role("button", name="Reconnect").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not respond.")


def test_a_server_that_is_busy(serve: Callable[..., Served], visit: Callable[..., Any]) -> None:
    url = serve("--queue", "1").url
    first, second, third = (visit(url) for _ in range(3))
    first.get_by_role("button", name="Start talking").click()
    shows(first, "Live")
    second.get_by_role("button", name="Start talking").click()
    shows(second, "Next in line")
    third.get_by_role("button", name="Start talking").click()
    shows(third, "Not connected")
    expect(third.get_by_role("alert")).to_contain_text("The server is busy.")
    first.get_by_role("button", name="Hang up").click()
    shows(second, "Live")


def test_a_token(serve: Callable[..., Served], visit: Callable[..., Any]) -> None:
    url = serve("--token", "open sesame").url
    page = visit(url)
    page.get_by_label("This server asks for a token").fill("sesame")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("That token is wrong.")
    page.get_by_label("This server asks for a token").fill("open sesame")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Start talking").click()
    shows(page, "Live")
    other = visit(f"{url}/?token=open%20sesame")
    other.get_by_role("button", name="Start talking").wait_for()
    assert "token" not in other.url


def test_no_microphone(url: str, visit: Callable[..., Any]) -> None:
    troubles = {
        "NotAllowedError": "access is blocked",
        "NotFoundError": "No microphone",
        "NotReadableError": "cannot be opened",
    }
    for name, words in troubles.items():
        refuse = f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('no', '{name}') }}"
        page = visit(url, refuse)
        page.get_by_role("button", name="Start talking").click()
        shows(page, "Not connected")
        expect(page.get_by_role("alert")).to_contain_text(words)
    page = visit(url, "Object.defineProperty(window, 'isSecureContext', { value: false })")
    expect(page.get_by_role("alert")).to_contain_text("only on pages from localhost or https")
    expect(page.get_by_role("button", name="Start talking")).to_be_disabled()


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits(url: str, visit: Callable[..., Any], width: int, scheme: str) -> None:
    """Nothing is wider than the screen, from a small phone on."""
    page = visit(url, viewport={"width": width, "height": 700}, color_scheme=scheme)
    page.get_by_text("Custom", exact=True).click()
    page.get_by_label("Who is it?").fill("You enjoy having a good conversation.")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Start talking").click()
    expect(page.locator("#words p").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Hang up").click()
    shows(page, "Ended")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
