"""The web page in a real browser when its server stalls, ends, comes back, has no place or asks for a token."""

import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
expect = playwright.expect


def shows(page: Any, state: str) -> None:
    expect(page.locator("#state")).to_have_text(state)


def test_a_stall_is_counted_and_the_talk_goes_on(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve()
    page = visit(server.url)
    page.get_by_role("button", name="Start talking").click()
    expect(page.locator("#stage-server")).to_have_text(re.compile(r"^<?\d+ ms$"))
    before = page.locator("#figure-underruns").text_content()
    server.process.send_signal(signal.SIGSTOP)
    expect(page.locator("#figure-underruns")).not_to_have_text(before)
    server.process.send_signal(signal.SIGCONT)
    words = page.locator("#words").inner_text()
    expect(page.locator("#words")).not_to_have_text(words, use_inner_text=True)
    shows(page, "Live")


def test_a_server_that_goes_away_and_comes_back(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve()
    page = visit(server.url)
    page.get_by_role("button", name="Start talking").click()
    expect(page.locator("#words p").first).to_be_visible()
    server.process.kill()
    server.end()
    shows(page, "Trying again in")
    expect(page.get_by_role("alert")).to_contain_text("This page tries again by itself.")
    expect(page.locator("#clock")).to_have_text(re.compile(r"^[1-8] s$"))
    expect(page.get_by_role("button", name="Try now")).to_be_focused()
    server = serve("--port", server.url.rpartition(":")[2])
    shows(page, "Live")
    expect(page.get_by_role("heading", name="reconnected")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    server.end()  # politely
    shows(page, "Trying again in")
    page.get_by_role("button", name="Stop trying").click()
    shows(page, "Disconnected")
    expect(page.locator("#words p").first).to_be_visible()
    page.get_by_role("button", name="Reconnect").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not respond.")
    expect(page.get_by_role("button", name="Save text")).to_be_visible()


def test_a_start_that_fails_leads_back_to_the_form(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve()
    page = visit(server.url)
    page.get_by_text("Chef").click()
    server.end()
    page.get_by_role("button", name="Start talking").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not respond.")
    expect(page.get_by_role("button", name="Start talking")).to_be_focused()
    expect(page.get_by_role("radio", name="Chef")).to_be_checked()
    expect(page.locator("#talk")).to_be_hidden()


def test_a_server_that_is_busy(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    url = serve("--queue", "1", "--max-minutes", "10").url
    first, second, third, fourth = (visit(url) for _ in range(4))
    first.get_by_role("button", name="Start talking").click()
    shows(first, "Live")
    second.get_by_role("button", name="Start talking").click()
    shows(second, "Next in line")
    expect(second.get_by_role("alert")).to_contain_text("A conversation lasts 10 minutes at most here.")
    for page in (third, fourth):
        page.get_by_role("button", name="Start talking").click()
        shows(page, "Trying again in")
        busy = "The server is busy. One person talks, 1 waits. A conversation lasts 10 minutes at most here."
        expect(page.get_by_role("alert")).to_contain_text(busy)
    expect(visit(url).locator("#crowd")).to_have_text("One person talks, 1 waits.")
    fourth.get_by_role("button", name="Stop trying").click()
    expect(fourth.get_by_role("button", name="Start talking")).to_be_focused()
    first.get_by_role("button", name="Hang up").click()
    shows(second, "Live")
    shows(third, "Next in line")
    third.get_by_role("button", name="Hang up").click()
    expect(third.get_by_role("button", name="Start talking")).to_be_visible()


def test_a_token(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
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
