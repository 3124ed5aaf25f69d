"""A client's whole visit, from its first message to the goodbye; the same for every protocol.

    converse  the opening, the wait for its turn, the conversation
    receive   messages of the client -> `decode` -> sound for the model, what else the client wants
    send      events -> `encode` -> messages

The three run side by side on the event loop; when one ends, the session does. The client learns why by an error
of its protocol, and by the code with which the WebSocket closes (`closings`).

A client that does not read what it is sent is disconnected. What a client may know of an error is the client's own
fault; all else, such as the names of files, is for the server's owner.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import assert_never

import numpy as np
from aiohttp import WSMsgType, web

from personaplex_cli.character import Character
from personaplex_cli.conversation import Conversation
from personaplex_cli.errors import ModelError, PersonaplexError
from personaplex_cli.events import Began, Ended, Event, Note, Recording, Step
from personaplex_cli.protocols.adapter import (
    Adapter,
    Begin,
    Closing,
    Credentials,
    Did,
    Lost,
    Out,
    Queued,
    Recorded,
    ServerEvent,
    StopSpeaking,
)
from personaplex_cli.protocols.budget import Budget
from personaplex_cli.protocols.wire import Request, WireError
from personaplex_cli.recorder import Recorder
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SAMPLE_RATE, Samples
from personaplex_cli.server.admission import Place
from personaplex_cli.server.client_audio import ClientAudio
from personaplex_cli.server.closings import LEFT, STUCK, TOO_BIG, closing_after
from personaplex_cli.server.connections import Connection
from personaplex_cli.server.host import Host
from personaplex_cli.server.outbox import Outbox
from personaplex_cli.server.paces import Paces
from personaplex_cli.transcriber import Transcriber

OPENING_TIMEOUT = 0.5  # in which the first message may say who shall talk, where the URL does not
SAYING_SECONDS = 5.0  # in which a client whose protocol always says who shall talk has to
TICK_SECONDS = 0.1  # between two looks at the clock when nothing happens
IDLE_TIMEOUT = 60.0  # without sound from the client
SEND_TIMEOUT = 10.0  # that one message may take to be sent
CLOSE_TIMEOUT = 2.0
MAX_MISTAKES = 10  # messages without sense, then the client is disconnected
MESSAGES, MESSAGES_PER_SECOND = 2_000, 500  # of all kinds, pings included; sound in pieces of 128 samples is 375
WAITING_SECONDS = 1800.0  # in the queue, which costs a client nothing
BEGINNINGS = 20  # conversations of one visit, and another one for each so many seconds of sound:
SOUND_PER_BEGINNING = 10.0
LOSS_SECONDS = 1.0  # between two reports of lost sound

IDLE = Closing("idle", 4408, PersonaplexError(f"No sound came for {IDLE_TIMEOUT:.0f} seconds.", "Connect again."))
WAITED = Closing("waited", 4408, PersonaplexError("You have waited for half an hour.", "Connect again."))
FLOOD = Closing("flood", 1008, PersonaplexError("Too many messages came.", f"Send {MESSAGES_PER_SECOND} a second."))
RESTLESS = Closing("restless", 1008, PersonaplexError("Too many conversations were started.", "Talk in between."))


class Session:
    """One client's visit; `run` it once."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        opening: Iterable[Out],
        adapter: Adapter,
        place: Place,
        host: Host,
        connection: Connection,
    ) -> None:
        self._socket = socket
        self._opening = opening  # what the client wants at first
        self._adapter = adapter
        self.place = place
        self._host = host
        self._connection = connection
        connection.too_big = partial(self.close, TOO_BIG)
        self._loop = loop = asyncio.get_running_loop()
        self._audio = ClientAudio(self._hand_over, adapter.fills_silence)
        self._character: Character | None = None
        self._choosing = asyncio.Lock()
        self._opened = asyncio.Event()  # the client has said something, or who shall talk if its protocol always does
        self._conversation: Conversation | None = None
        self._over: asyncio.Future[Exception | None] = loop.create_future()  # the model is done with it
        self._closed: asyncio.Future[Closing] = loop.create_future()
        folder = host.options.record
        self._recorder = Recorder(self._audio, folder, self._hear_recorder) if folder else None
        self._transcriber: Transcriber | None = None  # once the conversation is there
        self._outbox = Outbox()
        self._live = False  # sound that comes is heard
        self._began_at: float | None = None
        self._came_at = loop.time()
        self._heard_at = 0.0  # the last whole frame
        self._silent_at = 0.0  # since then the conversation begins again, which is not held against the client
        self._sound = 0  # samples that came
        self._begun = 0  # conversations
        self._budget = Budget(MESSAGES, MESSAGES_PER_SECOND)
        self._mistakes = 0
        self._paces = Paces()
        self._reported = Lost(0.0, 0.0)
        self._reported_at = 0.0

    async def run(self) -> Closing:
        """Go through with it; returns how it ended."""
        parts = [asyncio.create_task(self._ending(part)) for part in (self._converse, self._receive, self._send)]
        try:
            close = await self._closed
        finally:
            self.place.going = True
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await self._hang_up()
        if close is LEFT and self._socket.close_code == TOO_BIG.code:
            close = TOO_BIG
        self._host.metrics.ended(close.reason, self._began_at is not None, self._audio.dropped, self._outbox.lost)
        await self._say_goodbye(close)
        return close

    async def _ending(self, part: Callable[[], Awaitable[None]]) -> None:
        """A part of the session: when it ends, the session does."""
        try:
            await part()
            self.close(LEFT)
        except Exception as error:
            self.close(closing_after(error))

    def close(self, close: Closing) -> None:
        """End it; the first reason counts."""
        if not self._closed.done():
            self._closed.set_result(close)

    def summary(self) -> str:
        """Who talked, as the catalog calls them, and how it went, in figures: nothing that the client wrote."""
        who = f" with {self._character.persona}, {self._character.voice}" if self._character else ""
        lost = (self._audio.dropped + self._outbox.lost) / SAMPLE_RATE
        loss = f", {lost:.1f} s of sound lost" if lost else ""
        return f"{self._paces.frames * FRAME_SECONDS:.1f} s{who}{self._paces}{loss}"

    # Converse.

    async def _converse(self) -> None:
        for out in self._opening:
            await self._handle(out)
        if not self._adapter.says_who:
            await self._hear_who(OPENING_TIMEOUT)
            await self._choose()
        async for position in self.place.positions():
            self._enqueue(Queued(position))
        self._connection.share.talk(self.place.among)
        if self._adapter.says_who:  # only now: until it has said so, others would wait behind its place
            await self._hear_who(SAYING_SECONDS)
        character = await self._choose()  # meanwhile the client may have asked for another one
        audio = self._recorder or self._audio
        self._transcriber = self._host.transcriber(audio, self._hear)
        self._conversation = Conversation(character, self._transcriber or audio, self._hear)
        self._host.hold(self._conversation)
        if error := await asyncio.shield(self._over):
            # The file of a voice is missing, or does not fit.
            raise self._host.private(f"The voice {character.voice}", error) if isinstance(error, ModelError) else error

    async def _hear_who(self, seconds: float) -> None:
        """Give the client so long to say who shall talk."""
        if self._character is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._opened.wait()

    async def _choose(self, request: Request | None = None, any_voice: bool = False) -> Character:
        """Who talks now; without a request the one who did, or the default. Reading a voice may take a while."""
        async with self._choosing:
            if request or not self._character:
                self._character = await asyncio.to_thread(self._host.character, request or Request(), any_voice)
            return self._character

    async def _hang_up(self) -> None:
        """Let the model go, and with it the next one's turn come."""
        try:
            if self._conversation:
                self._conversation.end()
                await asyncio.shield(self._over)
        finally:
            self.place.leave()
            if self._transcriber:
                if not self._recorder:  # no one is left who would read the last words
                    self._transcriber.abandon()
                await asyncio.to_thread(self._transcriber.close)
            if self._recorder:
                await asyncio.to_thread(self._recorder.close)

    # In the model's thread.

    def _hear(self, event: Event) -> None:
        try:
            if self._recorder:
                self._recorder.hear(event)
        except PersonaplexError as error:  # a disk that fails does not end the talk
            self._host.listen(Note(f"{self._host.guest}: not recorded: {error}"))
        self._hand_over(event)
        if self._transcriber:
            self._transcriber.hear(event)

    def _hear_recorder(self, event: Event) -> None:
        """Also in the recorder's thread. The client may know that it is recorded, not where."""
        if isinstance(event, Recording):
            self._loop.call_soon_threadsafe(self._enqueue, Recorded(bool(event.folder)))
        self._host.listen(event)

    def _hand_over(self, event: Event | Samples) -> None:
        assert self._conversation, "only a conversation has events"
        self._loop.call_soon_threadsafe(self._take, event, self._conversation.character)

    # Receive.

    async def _receive(self) -> None:
        while True:
            await self._outbox.room()
            message = await self._connection.receive(self._socket)
            if not self._budget.spend():
                self.close(FLOOD)
                return
            await asyncio.sleep(0)  # more may be there already: others come first
            if message.type is WSMsgType.PING:
                async with asyncio.timeout(SEND_TIMEOUT):
                    await self._socket.pong(message.data)
            if message.type in (WSMsgType.PING, WSMsgType.PONG):
                continue
            if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                return
            try:
                async for out in self._connection.share.fairly(self._adapter.decode(message.data)):
                    await self._handle(out)
                    if not self._adapter.says_who:
                        self._opened.set()
            except WireError as mistake:
                self._mistakes += 1
                if self._mistakes > MAX_MISTAKES:
                    raise
                self._enqueue(mistake)

    async def _handle(self, out: Out) -> None:
        match out:
            case np.ndarray():
                whole = self._sound // FRAME
                self._sound += len(out)
                if self._sound // FRAME > whole:  # less is no sound, and would hold the place for nothing
                    self._heard_at = self._loop.time()
                if self._live:
                    self._audio.hear(out)
            case Begin(request, any_voice):
                await self._begin(request, any_voice)
                self._opened.set()
            case StopSpeaking():
                if self._conversation:
                    self._conversation.hush()
            case Did(text):
                self._host.listen(Note(f"{self._host.guest}: {text}"))
                if self._recorder:
                    self._recorder.mark(text)
            case Closing():
                self.close(out)
            case Credentials():
                pass  # the door has looked at them
            case str() | bytes():
                self._enqueue(out)
            case _:
                assert_never(out)

    async def _begin(self, request: Request | None, any_voice: bool) -> None:
        self._begun += 1
        if self._begun > BEGINNINGS + self._sound / SAMPLE_RATE / SOUND_PER_BEGINNING:
            return self.close(RESTLESS)
        if request:
            await self._choose(request, any_voice)
        if self._conversation and self._character:
            # A copy: what still comes of the old conversation, even with the same character, is known by its own.
            self._character = replace(self._character)
            if self._live:
                self._live, self._silent_at = False, self._loop.time()
            self._audio.clear()
            self._outbox.forget_talk()
            self._conversation.restart(self._character)

    # Send.

    async def _send(self) -> None:
        while True:
            self._check_time()
            for out in chain(await self._next_outs(), self._adapter.tick(self._loop.time())):
                await (self._send_message(out) if isinstance(out, str | bytes) else self._handle(out))

    async def _next_outs(self) -> Iterable[Out]:
        """What the next event comes to; nothing if none comes for a while."""
        event = await self._outbox.next(TICK_SECONDS)
        if event is None:
            return ()
        return (event,) if isinstance(event, str | bytes) else self._adapter.encode(event)

    async def _send_message(self, message: str | bytes) -> None:
        async with asyncio.timeout(SEND_TIMEOUT):
            if isinstance(message, str):
                await self._socket.send_str(message)
            else:
                await self._socket.send_bytes(message)

    def _check_time(self) -> None:
        now, minutes = self._loop.time(), self._host.options.max_minutes
        self._report_losses(now)
        if self._live and now - self._heard_at > IDLE_TIMEOUT:
            self.close(IDLE)
        if self._conversation is None and now - self._came_at > WAITING_SECONDS:
            self.close(WAITED)
        if self._began_at is not None and minutes is not None and now - self._began_at > 60 * minutes:
            error = PersonaplexError(f"A conversation may last {minutes:g} minutes here.", "Connect again.")
            self.close(Closing("time is up", 4408, error))

    def _report_losses(self, now: float) -> None:
        """Let the client know, who alone can do something about it."""
        lost = Lost(self._audio.dropped / SAMPLE_RATE, self._outbox.lost / SAMPLE_RATE)
        if lost != self._reported and now - self._reported_at >= LOSS_SECONDS:
            news = Lost(lost.heard - self._reported.heard, lost.said - self._reported.said)
            self._reported, self._reported_at = lost, now
            self._enqueue(news)

    def _enqueue(self, event: ServerEvent | str | bytes) -> None:
        if not self._outbox.put(event):
            self.close(STUCK)

    def _take(self, event: Event | Samples, character: Character) -> None:
        """What comes from the model, on the event loop."""
        if isinstance(event, Ended):
            self._over.set_result(event.error)
            return
        if character is not self._character:  # of the conversation before the restart
            return
        match event:
            case Began():
                self._live = True
                now = self._loop.time()
                if self._began_at is None:
                    self._began_at = self._heard_at = now
                else:  # to begin again does not make up for silence
                    self._heard_at = min(now, self._heard_at + now - self._silent_at)
            case Step(timings=timings) if timings:
                if pace := self._paces.add(timings.total):
                    self._enqueue(pace)
        self._enqueue(event)

    async def _say_goodbye(self, close: Closing) -> None:
        if close is STUCK:
            return  # the server cuts the line
        if close is FLOOD:
            self._connection.deafen()
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                for event in (close.error, close) if close.error else (close,):
                    for out in self._adapter.encode(event):
                        if isinstance(out, str | bytes) and not self._socket.closed:
                            await self._send_message(out)
                await self._socket.close(code=close.code, message=close.reason.encode())
