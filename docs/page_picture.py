"""Draws docs/serve-page.png: the web page in a real browser, talking with a real server and the demo model.

python docs/page_picture.py [TARGET] [--size 920x720] [--scheme light|dark] [--seconds 20] [--view talk|setup]

Needs Playwright and Chromium (`pip install playwright && playwright install chromium`); CHROMIUM names another program.
The microphone hears examples/question.wav, which ends with a pause, again and again. The agent answers by chance, so no
two pictures are the same.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
QUESTION = HERE.parent / "examples" / "question.wav"
SERVE = [sys.executable, "-m", "personaplex_cli", "serve", "--model", "demo", "--port", "0", "--queue", "1"]
FLAGS = [
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    f"--use-file-for-fake-audio-capture={QUESTION}",
    "--no-sandbox",
]


@contextmanager
def serving() -> Iterator[str]:
    """The URL of a server that is ready."""
    with subprocess.Popen(SERVE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            for line in process.stderr:
                if ready := re.match(r"Ready (\S+)", line):
                    yield ready[1]
                    return
            raise SystemExit("The server has ended.")
        finally:
            process.terminate()
            process.communicate()


def draw(target: Path, size: tuple[int, int], scheme: str, seconds: float, view: str) -> None:
    """Talk for so many seconds, then take the picture."""
    with serving() as url, sync_playwright() as tool:
        program = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = tool.chromium.launch(executable_path=program, args=FLAGS)
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, device_scale_factor=2
        )
        page = context.new_page()
        page.goto(url)
        page.locator("#start").wait_for()
        if view == "talk":
            page.locator("#start").click()
            page.locator("[data-state=live]").wait_for()
            page.wait_for_timeout(1000 * seconds)
        page.screenshot(path=target)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("target", nargs="?", type=Path, default=HERE / "serve-page.png")
    parser.add_argument("--size", default="920x720")
    parser.add_argument("--scheme", default="dark", choices=("light", "dark"))
    parser.add_argument("--seconds", default=20.0, type=float)
    parser.add_argument("--view", default="talk", choices=("talk", "setup"))
    asked = parser.parse_args()
    width, height = map(int, asked.size.split("x"))
    draw(asked.target, (width, height), asked.scheme, asked.seconds, asked.view)
    print(asked.target)
