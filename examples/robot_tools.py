"""A robot that acts on what is said: it reads along, and calls a function for each phrase of a table.

The model calls no tools: it knows of no function, chooses none, and does not learn what one did. It talks, and this
program acts when a phrase falls, whoever says it and however it is meant: "I will not dance" makes it dance. So take
phrases that are said for one reason only, and functions that do no harm. The agent's words are always written down,
the user's where the server can. What was done is told to the server, which shows it and marks it in its recording.

personaplex serve --model demo --record talks
python examples/robot_tools.py "ws://127.0.0.1:8998/pcm?persona=chef" examples/question.wav answer.wav
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import ClientWebSocketResponse
from robot import main

REMEMBERED = 200  # characters of each speaker's, in which phrases are looked for

# What the robot can do; each says in a sentence what it did.


def look_left() -> str:
    return "Looked left."  # where a real one would turn its head first


def dance() -> str:
    return "Danced a little."


def pass_the_salt() -> str:
    return "Passed the salt."


TOOLS = {"look left": look_left, "dance": dance, "salt": pass_the_salt}  # phrases in lower case


class Actor:
    """Finds the phrases in what each speaker says, piece by piece, and does what they stand for."""

    def __init__(self, tools: Mapping[str, Callable[[], str]]) -> None:
        self._tools = {re.compile(rf"\b{re.escape(phrase)}\b"): tool for phrase, tool in tools.items()}
        self._said = defaultdict[str, str](str)

    async def act(self, socket: ClientWebSocketResponse, piece: dict[str, Any]) -> None:
        said = self._said[piece["role"]] + piece["text"].lower()
        tool = next((tool for phrase, tool in self._tools.items() if phrase.search(said)), None)
        self._said[piece["role"]] = "" if tool else said[-REMEMBERED:]
        if tool:
            done = await asyncio.to_thread(tool)  # the talk goes on meanwhile
            print(f" [{done}]", end="", flush=True)
            with suppress(ConnectionError):  # the talk is over
                await socket.send_json({"type": "did", "text": done})


if __name__ == "__main__":
    main(__doc__, Actor(TOOLS).act)
