"""Talking with a server: what is said, what comes back, and what the server says about itself."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakeserver import CONTROL, HANDSHAKE, METADATA, SOUND, WORDS, Guest, echo_on
from remote import CHARACTER, Call, Serve, noise, through_opus

from personaplex_cli.audio.opus import OpusWriter
from personaplex_cli.events import Network, Notice, Phase, Renewed, State
from personaplex_cli.options import DEMO_NOTE
from personaplex_cli.samples import SILENT_FRAME


class TestTalking:
    @pytest.mark.parametrize("paced", [False, True])
    def test_all_that_is_said_arrives_in_order(self, paced: bool, serve: Serve, talk: Call) -> None:
        frames = noise(8)
        here = talk(serve().url, paced=paced)
        assert here.engine.prefill() is None
        here.begin()
        assert here.engine.prefill() is None
        heard = [here.step(frame).pcm for frame in frames]
        expected = through_opus(frames)
        while sum(map(len, heard)) < len(expected):
            heard.append(here.step(SILENT_FRAME).pcm)
        assert np.array_equal(np.concatenate(heard)[: len(expected)], expected)
        assert here.states == [Phase.CONNECTING, Phase.WARMING_UP]

    def test_nothing_is_said_before_the_server_is_ready(self, serve: Serve, talk: Call) -> None:
        ready = False
        early: list[bytes] = []

        async def primes(guest: Guest) -> None:
            async def be_ready() -> None:
                nonlocal ready
                await asyncio.sleep(0.3)
                ready = True
                await guest.say(HANDSHAKE)

            priming = asyncio.create_task(be_ready())
            while (message := await guest.hear()) is not None:
                early.extend([] if ready else [message])
                await guest.say(message)
            await priming

        here = talk(serve(primes).url)
        here.begin()
        assert here.states == [Phase.CONNECTING, Phase.WARMING_UP]
        here.until(lambda: len(here.step(SILENT_FRAME).pcm) > 0)
        assert ready and not early

    def test_words_come_with_the_sound(self, serve: Serve, talk: Call) -> None:
        async def speaks(guest: Guest) -> None:
            await guest.say(HANDSHAKE + b"\x01\x02\x03\x04\x05\x06\x07\x08")  # some servers add their version
            for word in (" good", " m\u00f6rning", "!"):
                await guest.say(WORDS + word.encode())
            await echo_on(guest)

        here = talk(serve(speaks).url)
        here.begin()
        said = "".join(here.step(SILENT_FRAME).text for _ in range(5))
        assert said == " good mörning!"

    def test_what_a_server_tells_about_itself_is_known(self, serve: Serve, talk: Call) -> None:
        told = {"seed": 5, "model": "a-model", "precision": "bf16", "prompt_frames": 40, "context": 3000, "voice": None}

        async def tells(guest: Guest) -> None:
            await guest.say(METADATA + b'{"queue": 2}')
            await guest.say(HANDSHAKE)
            await guest.say(METADATA + json.dumps(told).encode())
            await guest.say(METADATA + b'{"step_ms": 31.5, "frame": 1}')
            await echo_on(guest)

        here = talk(serve(tells).url)
        began = here.begin()
        assert (began.seed, began.model, began.precision) == (5, "a-model", "bf16")
        assert (began.prompt_frames, began.context, began.voice) == (40, 3000, "NATF2")
        assert here.of(State)[-1] == State(Phase.WAITING, f"at {began.device}, 2 before you")
        assert began.settings["sampling"]["seed"] == 5
        here.until(lambda: bool(here.of(Network)))
        assert here.of(Network)[-1].server_step == 31.5 and here.of(Network)[-1].round_trip > 0

    @pytest.mark.parametrize(
        ("told", "known"),
        [({"remembered": 20, "filled": 50}, (20, 50)), ({"remembered": -1, "filled": "x"}, (0, 0)), ([], None)],
    )
    def test_a_memory_that_is_renewed_there_is_known(
        self, told: Any, known: tuple[int, int] | None, serve: Serve, talk: Call
    ) -> None:
        async def renews(guest: Guest) -> None:
            await guest.say(HANDSHAKE)
            await guest.say(METADATA + b'{"memory": 1125}')
            await guest.say(METADATA + json.dumps({"renewed": told}).encode())
            await echo_on(guest)

        here = talk(serve(renews).url)
        assert here.begin().memory == 1125
        for _ in range(5):
            here.step(SILENT_FRAME)
        news = [here.engine.prefill() for _ in range(2)]
        assert news == [[(0, Renewed(5, *known))] if known else None, None]

    def test_that_it_has_the_demo_is_said_once(self, serve: Serve, talk: Call) -> None:
        async def tells(guest: Guest) -> None:
            await guest.say(HANDSHAKE)
            await guest.say(METADATA + b'{"model": "demo"}')
            await echo_on(guest)

        here = talk(serve(tells).url)
        for _ in range(2):
            here.begin()
        assert here.of(Notice) == [Notice(DEMO_NOTE)]

    def test_that_it_records_is_said_as_long_as_it_does(self, serve: Serve, talk: Call) -> None:
        async def tells(guest: Guest) -> None:
            await guest.say(METADATA + b'{"recorded": true}')
            await guest.say(HANDSHAKE)
            await guest.say(METADATA + b'{"recorded": false}')
            await echo_on(guest)

        here = talk(serve(tells).url)
        here.begin()
        for _ in range(5):
            here.step(SILENT_FRAME)
        assert [(each.text.partition(" ")[2], each.on) for each in here.of(Notice)] == [
            ("records what is said.", True),
            ("records what is said.", False),
        ]

    @pytest.mark.parametrize("values", [b"{}", b'{"seed": "x", "context": [], "model": 3, "step_ms": true}'])
    def test_what_it_does_not_tell_is_not_made_up(self, values: bytes, serve: Serve, talk: Call) -> None:
        async def tells(guest: Guest) -> None:
            await guest.say(HANDSHAKE)
            await guest.say(METADATA + values)
            await echo_on(guest)

        here = talk(serve(tells).url, seed=4)
        began = here.begin()
        assert (began.seed, began.model, began.prompt_frames, began.context) == (None, "", 0, 0)
        here.until(lambda: bool(here.of(Network)))
        assert here.of(Network)[-1].server_step is None

    def test_told_to_stop_talking_it_is_silent_as_long_as_it_shall_be(self, serve: Serve, talk: Call) -> None:
        async def talks(guest: Guest) -> None:
            """On and on, whatever it is told: not every server knows how to stop."""
            await guest.say(HANDSHAKE)
            writer = OpusWriter()
            while (message := await guest.hear()) is not None:
                if message[:1] == SOUND:
                    await guest.say(SOUND + writer.write(noise(1)[0]))
                    await guest.say(WORDS + b" on")

        server = serve(talks)
        here = talk(server.url)
        here.begin()
        here.until(lambda: here.step(SILENT_FRAME).text != "")
        quiet = [here.step(SILENT_FRAME, silent=True) for _ in range(20)]
        assert any(len(each.pcm) for each in quiet) and not any(each.text or each.pcm.any() for each in quiet)
        assert server.guests[0].said.count(CONTROL + b"\x02") == 1
        loud = [here.step(noise(1)[0]) for _ in range(10)]
        assert any(each.text and each.pcm.any() for each in loud[3:])

    def test_the_next_conversation_is_a_new_call(self, serve: Serve, talk: Call) -> None:
        server = serve()
        here = talk(server.url)
        for _ in range(3):
            here.begin()
            here.step(noise(1)[0])
        assert len(server.guests) == 3 and Phase.DISCONNECTED not in here.states

    def test_our_server_is_asked_on_the_same_call(self, serve: Serve, talk: Call) -> None:
        """Nothing of the conversation before is heard in the next one."""

        introduced = []

        async def ours(guest: Guest) -> None:
            await guest.say(HANDSHAKE)
            await guest.say(METADATA + b'{"personaplex": "1"}')
            while (message := await guest.hear()) is not None:
                introduced.append(message[:1] == METADATA)
                if message == CONTROL + b"\x03":
                    await guest.say(WORDS + b" old")
                    await guest.say(HANDSHAKE)
                    await guest.say(METADATA + b'{"personaplex": "1", "seed": 9}')
                    await guest.say(WORDS + b" new")

        server = serve(ours)
        here = talk(server.url)
        assert here.begin().seed is None
        assert here.begin().seed == 9
        assert here.step(SILENT_FRAME).text == " new"
        assert len(server.guests) == 1 and any(introduced)
        here.begin(replace(CHARACTER, voice="NATM1", sound="NATM1.pt"))  # who cannot be asked for there
        assert len(server.guests) == 2 and server.guests[1].request.query["voice_prompt"] == "NATM1.pt"
