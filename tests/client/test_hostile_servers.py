"""What a server can make its client do: nothing that costs memory or screen without end, or goes elsewhere."""

import asyncio
import json
import time
from typing import Any

import pytest
from aiohttp import web
from fakeserver import FAILURE, HANDSHAKE, METADATA, WORDS, Guest, echo, echo_on
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from remote import Call, Serve

from personaplex_cli.client import engine
from personaplex_cli.client.connection import CHARACTERS, DESCRIPTION, MAX_NOTE, NOTES, known
from personaplex_cli.errors import NetworkError
from personaplex_cli.events import Note, State

MANY = 3_000


def test_no_redirect_is_followed(serve: Serve, talk: Call) -> None:
    other = serve()
    moved = serve(refuse=lambda request: web.Response(status=302, headers={"Location": other.url}))
    with pytest.raises(NetworkError, match=f"{moved.port} redirects to another address"):
        talk(moved.url).begin()
    assert not other.guests


def test_words_without_end_are_cut(serve: Serve, talk: Call) -> None:
    async def chatter(guest: Guest) -> None:
        await guest.say(HANDSHAKE)
        for _ in range(MANY):
            await guest.say(WORDS + b"0123456789" * 10)
        await echo_on(guest)

    here = talk(serve(chatter).url)
    here.begin()
    said: list[str] = []

    def sound_comes() -> bool:
        reply = here.step()
        said.append(reply.text)
        return len(reply.pcm) > 0  # so all words have come

    here.until(sound_comes)
    assert CHARACTERS <= len("".join(said)) < MANY * 100 / 2


def test_notes_without_end_are_few_and_short(serve: Serve, talk: Call) -> None:
    async def complain(guest: Guest) -> None:
        for place in range(MANY):
            await guest.say(METADATA + json.dumps({"queue": place}).encode())
        await guest.say(HANDSHAKE)
        for _ in range(MANY):
            await guest.say(FAILURE + b"no " * MANY)
            await guest.say(METADATA + json.dumps({"lost": "all"}).encode())
        await echo_on(guest)

    here = talk(serve(complain).url)
    here.begin()
    here.until(lambda: len(here.step().pcm) > 0)
    shown = [*here.of(Note), *[state for state in here.of(State) if "before you" in state.detail]]
    assert NOTES <= len(shown) < MANY
    assert all(len(note.text) <= MAX_NOTE + 30 for note in here.of(Note))


def test_a_queue_without_end_ends_a_run_and_lets_a_talk_wait(
    serve: Serve, talk: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PATIENCE", 0.3)

    async def queue(guest: Guest) -> None:
        for place in range(10):
            await guest.say(METADATA + json.dumps({"queue": 10 - place}).encode())
            await asyncio.sleep(0.1)
        await echo(guest)

    url = serve(queue).url
    began = time.monotonic()
    run = talk(url, paced=True)
    for place in (r": still \d+ before you", ""):  # the next recording has no hour of its own
        with pytest.raises(NetworkError, match=f"The wait for .* takes too long{place}"):
            run.begin()
    assert time.monotonic() - began < 0.9
    assert talk(url).begin().device


def test_sound_renews_the_patience_of_a_run(serve: Serve, talk: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PATIENCE", 0.5)

    async def slow(guest: Guest) -> None:
        await asyncio.sleep(0.3)
        await echo(guest)

    here = talk(serve(slow).url, paced=True)
    for _ in range(3):
        here.begin()
        here.until(lambda: len(here.step().pcm) > 0)


numbers = st.integers() | st.floats() | st.just(10**400) | st.booleans() | st.none() | st.text()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(values=st.fixed_dictionaries({name: numbers for name in (*DESCRIPTION - {"personaplex"}, "step_ms", "queue")}))
def test_figures_are_not_believed(values: dict[str, Any], serve: Serve, talk: Call) -> None:
    async def boast(guest: Guest) -> None:
        description = METADATA + json.dumps({**values, "anything": "else"}).encode()
        await guest.say(description)
        await guest.say(HANDSHAKE)
        await guest.say(description)
        await echo_on(guest)

    here = talk(serve(boast).url)
    began = here.begin()
    assert began.seed is None or began.seed == values["seed"]
    assert all(0 <= each < 1 << 63 for each in (began.prompt_frames, began.context, began.seed or 0))
    json.dumps(began.settings, allow_nan=False)
    here.step()
    here.engine.close()


@given(numbers)
def test_what_is_known(value: Any) -> None:
    for kind in (int, float, str):
        it = known({"it": value}, "it", kind)
        assert it is None or (it == value and type(it) is kind)
