"""OpenAI's own Python client talks with this server: the GPT-Live protocol, full duplex and without turns.

Needs openai[realtime] 3.57 or newer. The server's token, if it wants one, is the API key, in PERSONAPLEX_TOKEN.

personaplex serve --model demo
python examples/openai_live.py http://127.0.0.1:8998/v1 examples/question.wav answer.wav
"""

import asyncio
import os
import sys
import time
import wave
from base64 import b64decode, b64encode

from openai import AsyncOpenAI
from openai.resources.live.live import AsyncLiveConnection
from websockets.exceptions import InvalidStatus, WebSocketException

BLOCK_SECONDS = 0.08  # the model's own step: smaller blocks gain nothing, larger ones are heard later
SILENCE_SECONDS = 5  # after the question: the server hears silence where none is sent
RATE = 24_000
TALK = {
    "model": "personaplex",  # the server has one; the name does not matter
    "instructions": "You are a wise and friendly teacher. Answer questions in a clear and engaging way.",
    "audio": {"format": {"type": "audio/pcm", "rate": RATE}, "output": {"voice": "NATF2"}},
}


async def speak(connection: AsyncLiveConnection, sound: bytes) -> None:
    """Send sound as fast as it would come from a microphone, then wait for the answer and end the session."""
    size = 2 * round(RATE * BLOCK_SECONDS)
    began = time.monotonic()
    for number, start in enumerate(range(0, len(sound), size)):
        await asyncio.sleep(began + number * BLOCK_SECONDS - time.monotonic())
        await connection.session.input_audio.append(audio=b64encode(sound[start : start + size]).decode())
    await asyncio.sleep(SILENCE_SECONDS)
    await connection.session.close()


async def talk(url: str, question: str, answer: str) -> None:
    with wave.open(question) as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, RATE):
            sys.exit(f"{question} is not 16-bit mono at {RATE} Hz.")
        sound = file.readframes(file.getnframes())
    client = AsyncOpenAI(base_url=url, api_key=os.environ.get("PERSONAPLEX_TOKEN", "none"))
    heard, speaking, complaint = [], None, ""
    async with client.live.connect() as connection, asyncio.TaskGroup() as tasks:
        await connection.session.start(session=TALK)
        async for event in connection:
            match event.type:
                case "session.started":  # the model does not hear what is said before
                    speaking = tasks.create_task(speak(connection, sound))
                case "session.output_audio.delta":
                    heard.append(b64decode(event.delta))  # a program with a loudspeaker would play it
                case "session.output_transcript.delta":
                    print(event.delta, end="", flush=True)
                case "error":
                    complaint = event.error.message
                    if not speaking:  # nothing will begin
                        break
                case "session.closed":
                    if event.reason != "close_requested":
                        complaint = complaint or f"The server ended the session: {event.reason}."
                    break
        if speaking:
            speaking.cancel()  # the server may have ended it before the end of the question
    print()
    if heard:
        with wave.open(answer, "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(b"".join(heard))
    if complaint:
        sys.exit(complaint)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        asyncio.run(talk(*sys.argv[1:]))
    except InvalidStatus as error:  # as `token`: set PERSONAPLEX_TOKEN; `loading`; `busy`: others talk
        reason = error.response.headers.get("X-Personaplex-Error", "")
        sys.exit(f"The server does not let us in: {error.response.status_code} {reason}".rstrip())
    except (OSError, WebSocketException, wave.Error) as error:  # of the connection, or of a file
        sys.exit(str(error))
