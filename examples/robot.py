"""How a robot or a script talks: sound as raw 16-bit samples, both ways; all else as JSON. Needs aiohttp alone.

personaplex serve --model demo
python examples/robot.py "ws://127.0.0.1:8998/pcm?persona=chef&voice=NATM1" examples/question.wav answer.wav
"""

import asyncio
import json
import sys
import time
import wave
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import ClientError, ClientSession, ClientWebSocketResponse, WSCloseCode, WSMsgType, WSServerHandshakeError

BLOCK_SECONDS = 0.08  # the model's own step: smaller blocks gain nothing, larger ones are heard later
SILENCE_SECONDS = 5  # after the question: the model speaks only while it hears something, if only silence
Act = Callable[[ClientWebSocketResponse, dict[str, Any]], Awaitable[None]]


async def nothing(socket: ClientWebSocketResponse, message: dict[str, Any]) -> None: ...


async def speak(socket: ClientWebSocketResponse, sound: bytes, rate: int) -> None:
    """Send sound as fast as it would come from a microphone, then hang up."""
    size = 2 * round(rate * BLOCK_SECONDS)
    began = time.monotonic()
    with suppress(ConnectionError):  # the server has hung up, and has said why
        for number, start in enumerate(range(0, len(sound), size)):
            await asyncio.sleep(began + number * BLOCK_SECONDS - time.monotonic())
            await socket.send_bytes(sound[start : start + size])
        await socket.close()


async def talk(url: str, question: str, answer: str, act: Act = nothing) -> None:
    """Ask what is in one wav, and keep the answer in another; `act` runs beside it for each piece of what is said."""
    with wave.open(question) as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            sys.exit(f"{question} is not 16-bit mono.")
        rate = file.getframerate()  # any will do: the server converts, both ways
        sound = file.readframes(file.getnframes()) + bytes(2 * rate * SILENCE_SECONDS)
    heard, complaint = [], ""
    async with (
        ClientSession() as session,
        session.ws_connect(url, params={"sample_rate": rate}) as socket,
        asyncio.TaskGroup() as tasks,
    ):
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                heard.append(message.data)  # a robot would play it
                continue
            said = json.loads(message.data)
            match said["type"]:
                case "ready":  # the model does not hear what is said before
                    tasks.create_task(speak(socket, sound, rate))
                case "transcript":
                    print(said["text"], end="", flush=True)
                    tasks.create_task(act(socket, said))
                case "error":  # the talk may go on; if not, the server hangs up
                    complaint = f"{said['message']} {said['hint']}"
    print()
    if heard:
        with wave.open(answer, "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(b"".join(heard))
    if not complaint and socket.close_code != WSCloseCode.OK:
        complaint = "The connection broke off."
    if complaint:
        sys.exit(complaint)


def main(usage: str, act: Act = nothing) -> None:
    """The command line: a URL, a question, where the answer goes."""
    if len(sys.argv) != 4:
        sys.exit(usage)
    try:
        asyncio.run(talk(*sys.argv[1:], act))
    except WSServerHandshakeError as error:  # `token`: the URL needs token=TOKEN; `loading`; `busy`: others talk
        reason = error.headers.get("X-Personaplex-Error", "") if error.headers else ""
        sys.exit(f"The server does not let us in: {error.status} {reason}".rstrip())
    except ClientError as error:
        sys.exit(f"The server cannot be reached: {error}")
    except (OSError, wave.Error) as error:
        sys.exit(f"A recording cannot be read or written: {error}")


if __name__ == "__main__":
    main(__doc__)
