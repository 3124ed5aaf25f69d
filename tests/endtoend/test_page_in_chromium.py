"""The web page in a real browser, with a microphone made of a recording, on a real server with the demo model.

Nothing here depends on how fast the machine is. When its server stalls, ends or has no place: test_page_and_server.py.
"""

import re
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
expect = playwright.expect
A_TIME = re.compile(r"^<?\d+ ms$")
LOUD = re.compile("[1-9]")


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
    expect(page.locator("#how")).to_have_text("voice NATM1")
    # All that is to be seen of it: what both say, both levels, the microphone, the delay, what is left of the memory.
    expect(page.locator("#words .agent").first).to_have_text(re.compile(r"^0:\d\dAstronaut\S"))
    expect(page.locator("#words .you").first).to_have_text(re.compile(r"^0:\d\dYou\d+\.\d s$"))
    for meter in ("#you-meter", "#agent-meter"):
        expect(page.locator(meter)).to_have_attribute("aria-valuenow", LOUD)
    expect(page.locator("#talk")).to_have_class(re.compile("you-speak"))
    expect(page.locator("#microphone")).to_have_text(re.compile("Fake.* Audio Input"))
    expect(page.locator("#delay")).to_have_text(re.compile(r"^\s*answers in \d+ ms (good|slow|bad)\s*$"))
    expect(page.locator("#memory-left")).to_have_text("remembers all of it")
    expect(page.locator("#stages")).to_be_hidden()
    page.keyboard.press("d")
    for stage in ("frame", "network", "server", "buffer"):
        expect(page.locator(f"#stage-{stage}")).to_have_text(A_TIME)
    expect(page.locator("#figure-seed")).to_have_text("7")

    page.get_by_role("button", name="Mute").click()
    expect(page.get_by_role("button", name="Mute", pressed=True)).to_be_visible()
    expect(page.locator("#you-meter")).to_have_attribute("aria-valuenow", "0")
    page.get_by_role("button", name="Stop talking").click()
    expect(page.locator("#hushed")).to_be_visible()
    page.get_by_role("button", name="Mute").click()
    expect(page.locator("#you-meter")).to_have_attribute("aria-valuenow", LOUD)
    expect(page.locator("#hushed")).to_be_hidden()  # the microphone speaks

    page.get_by_role("button", name="Restart").click()
    expect(page.get_by_role("heading", name="restarted")).to_be_visible()
    expect(page.locator("#words h3 ~ .agent").first).to_have_text(re.compile(r"^0:\d\d\S"))

    page.get_by_role("button", name="Hang up").click()
    shows(page, "Ended")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save text").click()
    saved = Path(download.value.path()).read_text(encoding="utf-8")
    assert saved.count("Astronaut, voice NATM1, seed 7, 20") == 2
    assert re.search(r"restarted, from 0:\d\d of the sound$", saved, re.M)
    assert re.search(r"^0:\d\d  Astronaut  \S", saved, re.M)
    assert re.search(r"^0:\d\d  You        \(\d+\.\d s\)$", saved, re.M)
    assert saved.startswith("Your own words are not transcribed")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save sound").click()
    assert re.fullmatch(r"personaplex-\d{4}-\d\d-\d\d-\d\d-\d\d\.wav", download.value.suggested_filename)
    with wave.open(str(download.value.path())) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 24000)
        both = memoryview(file.readframes(file.getnframes())).cast("h")
    assert max(both[0::2]) > 0 and max(both[1::2]) > 0  # you, the agent
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
    expect(page.get_by_role("heading", name="restarted")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Help")).to_be_visible()
    page.keyboard.press("q")  # means nothing there
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Help")).to_be_hidden()
    shows(page, "Live")
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
        expect(page.get_by_role("alert")).to_contain_text(words)
        expect(page.get_by_role("button", name="Start talking")).to_be_focused()
    page = visit(url, "Object.defineProperty(window, 'isSecureContext', { value: false })")
    expect(page.get_by_role("alert")).to_contain_text("only on pages from localhost or https")
    expect(page.get_by_role("button", name="Start talking")).to_be_disabled()


def test_what_the_microphone_does(url: str, visit: Callable[..., Any]) -> None:
    """It is too loud, then it delivers nothing; as Web Audio plays it."""
    instead = """
        navigator.mediaDevices.getUserMedia = async () => {
          const context = new AudioContext();
          const tone = new OscillatorNode(context);
          window.volume = new GainNode(context, { gain: 1 });
          const microphone = context.createMediaStreamDestination();
          tone.connect(volume).connect(microphone);
          tone.start();
          return microphone.stream;
        };
    """
    page = visit(url, instead)
    page.get_by_role("button", name="Start talking").click()
    expect(page.locator("#clipping")).to_be_visible()
    page.evaluate("volume.gain.value = 0")
    expect(page.locator("#clipping")).to_be_hidden()
    expect(page.locator("#microphone")).to_contain_text("is it switched off?")
    page.evaluate("volume.gain.value = 0.1")
    expect(page.locator("#microphone")).not_to_contain_text("is it switched off?")


def test_the_start_is_in_view_and_the_demo_says_what_it_is(
    serve: Callable[..., Any], visit: Callable[..., Any]
) -> None:
    url = serve("--model", "demo").url
    for width, height in ((1280, 800), (390, 844)):
        page = visit(url, viewport={"width": width, "height": height})
        expect(page.locator("#note")).to_contain_text("demo")
        box = page.get_by_role("button", name="Start talking").bounding_box()
        assert box["y"] > 0 and box["y"] + box["height"] <= height
        page.get_by_text("Custom", exact=True).click()  # more to fill in
        expect(page.get_by_role("button", name="Start talking")).to_be_in_viewport(ratio=1)
        page.get_by_text("Teacher").click()
        page.get_by_role("button", name="Start talking").click()
        expect(page.locator("#delay")).to_be_in_viewport(ratio=1)
        expect(page.get_by_role("button", name="Hang up")).to_be_in_viewport(ratio=1)
        page.get_by_role("button", name="Hang up").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(url: str, visit: Callable[..., Any], scheme: str) -> None:
    """As far as axe-core sees: names, roles, contrast."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page = visit(url, color_scheme=scheme, reduced_motion="reduce")

    def check() -> None:
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()

    expect(page.locator("#setup")).to_be_visible()
    check()
    page.get_by_role("button", name="Start talking").click()
    expect(page.locator("#delay")).to_be_visible()
    page.get_by_role("button", name="Mute").click()
    page.keyboard.press("d")
    check()
    page.keyboard.press("?")
    check()
    page.keyboard.press("?")
    page.keyboard.press("q")
    shows(page, "Ended")
    check()


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
