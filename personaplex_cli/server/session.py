"""A client's whole visit, from its first message to the goodbye; the same for every dialect.

    receive   messages of the client -> wishes -> the line to the model
    send      news of the model, a sign of life when there is none -> messages
    attend    the opening, the turn, the conversation itself

The three run side by side on the event loop; when one ends, the visit does. The client is told why, as its dialect
tells errors, and by the code with which the WebSocket closes:

    1000  the client has left                 1001  the server shuts down
    1007  messages that make no sense         1009  a message beyond 1 MiB
    4400  no such voice, persona or number    4408  silent for too long, or talked as long as allowed
    1011  the server's own fault

A client that does not read what it is sent is cut off.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from aiohttp import WSMsgType, web

from personaplex_cli.errors import AudioError, PersonaplexError, UsageError
from personaplex_cli.events import Began, Step
from personaplex_cli.lookup import Character
from personaplex_cli.protocols.adapter import Adapter, Begin, Echo, Ended, Hush, News, Pace, Queued, Quiet, Wish
from personaplex_cli.protocols.wire import Request, WireError
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SAMPLE_RATE
from personaplex_cli.server import client_audio as lines
from personaplex_cli.server.admission import Place
from personaplex_cli.server.client_audio import ClientAudio, Over
from personaplex_cli.server.house import House

OPENING_TIMEOUT = 0.5  # in which the first message may say who shall talk, where the URL does not
QUIET_SECONDS = 1.0  # without news, then a sign of life is sent; NVIDIA's web client leaves after ten
IDLE_TIMEOUT = 60.0  # without sound from the client
SEND_TIMEOUT = 10.0  # that one message may take to be sent
CLOSE_TIMEOUT = 2.0
MAX_UNSENT_SOUNDS = 62  # frames that wait to be sent: 5 s; the oldest are lost
MAX_UNSENT_EVENTS = 1_000  # of all kinds; only a client that asks and asks and never reads gets there
MAX_MISTAKES = 10  # messages without sense, then the client is sent away
PACE_FRAMES = round(1 / FRAME_SECONDS)


@dataclass(frozen=True)
class Close:
    """Why a visit ends: in a word or two, as a close code, and the error that is told if there is one."""

    end: str
    code: int
    error: PersonaplexError | None = None


class Leave(Exception):
    """Ends a visit."""

    def __init__(self, farewell: Close) -> None:
        super().__init__(farewell.end)
        self.farewell = farewell


LEFT = Close("left", 1000)
TOO_BIG = Close("too big", 1009)
STUCK = Close("stuck", 1008)
SHUTDOWN = Close("shutdown", 1001, PersonaplexError("The server shuts down.", "Come back later."))
IDLE = Close("idle", 4408, PersonaplexError(f"No sound came for {IDLE_TIMEOUT:.0f} seconds.", "Connect again."))


class Session:
    """One visit; `run` it once."""

    def __init__(
        self, socket: web.WebSocketResponse, query: Mapping[str, str], dialect: Adapter, turn: Place, house: House
    ) -> None:
        self._socket = socket
        self._query = query
        self._dialect = dialect
        self._turn = turn
        self._house = house
        self._loop = loop = asyncio.get_running_loop()
        self._line = ClientAudio(self._hand_over)
        self._character: Character | None = None
        self._choosing = asyncio.Lock()
        self._opened = asyncio.Event()  # the client has said something
        self._taken = False  # the desk has the line
        self._over: asyncio.Future[Exception | None] = loop.create_future()  # the desk is through with it
        self._sent_away: asyncio.Future[Close] = loop.create_future()
        self._outgoing: deque[News | Echo] = deque()
        self._news = asyncio.Event()
        self._sounds = 0  # frames among the outgoing
        self._unsaid = 0  # samples that were lost there
        self._live = False  # sound that comes is heard
        self._began_at: float | None = None
        self._heard_at = 0.0
        self._mistakes = 0
        self._frames = 0  # answered
        self._slowest = 0.0  # milliseconds of a step
        self._paces: list[float] = []  # milliseconds of the steps that were not told yet

    async def run(self) -> Close:
        """Go through with it; returns how it ended."""
        parts = [asyncio.create_task(part) for part in (self._receive(), self._send(), self._attend())]
        try:
            ends: list[asyncio.Future[Any]] = [*parts, self._sent_away]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._turn.going = True
            for part in parts:
                part.cancel()
            errors = await asyncio.gather(*parts, return_exceptions=True)
            await self._hang_up()
        farewell = self._sent_away.result() if self._sent_away.done() else _farewell(errors, self._socket)
        talked = self._began_at is not None
        self._house.figures.ended(farewell.end, talked, self._line.dropped, self._unsaid)
        await self._say_goodbye(farewell)
        return farewell

    def send_away(self, farewell: Close) -> None:
        """End it from the server's side."""
        if not self._sent_away.done():
            self._sent_away.set_result(farewell)

    @property
    def about(self) -> str:
        """Who talks, as the catalog calls them: nothing that the client wrote."""
        return f"{self._character.persona.name}, {self._character.voice.name}" if self._character else "nobody yet"

    def summary(self) -> str:
        """How it went, in figures."""
        lost = (self._line.dropped + self._unsaid) / SAMPLE_RATE
        pace = f", a step at most {self._slowest:.1f} ms" if self._frames else ""
        return f"{self._frames * FRAME_SECONDS:.1f} s of talk{pace}{f', {lost:.1f} s of sound lost' if lost else ''}"

    def _hand_over(self, news: lines.News) -> None:
        """What comes from the model, in its thread."""
        self._loop.call_soon_threadsafe(self._take_news, news)

    # Attend.

    async def _attend(self) -> None:
        request = self._dialect.open(self._query)
        if request is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(OPENING_TIMEOUT):
                    await self._opened.wait()
        async with self._choosing:
            character = self._character or await self._choose(request or Request())
        async for position in self._turn.positions():
            self._tell(Queued(position))
        self._line.begin(self._character or character)
        self._taken = True
        self._house.desk.take(self._line)
        if error := await asyncio.shield(self._over):
            raise error

    async def _choose(self, request: Request) -> Character:
        """Look up who is asked for; a voice may be a recording, which takes a while to read."""
        self._character = await asyncio.to_thread(self._house.character, request)
        return self._character

    async def _hang_up(self) -> None:
        """Let the model go, and with it the next one's turn come."""
        self._line.hang_up()
        if self._taken:
            await asyncio.shield(self._over)
        self._turn.leave()

    # Receive.

    async def _receive(self) -> None:
        async for message in self._socket:
            if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                return
            try:
                for wish in self._dialect.hear(message.data):
                    await self._grant(wish)
            except WireError as mistake:
                self._mistakes += 1
                if self._mistakes > MAX_MISTAKES:
                    raise
                self._tell(mistake)

    async def _grant(self, wish: Wish) -> None:
        if len(self._outgoing) > MAX_UNSENT_EVENTS:
            raise Leave(STUCK)
        match wish:
            case np.ndarray():
                self._heard_at = self._loop.time()
                if self._live:
                    self._line.hear(wish)
            case Begin(request):
                await self._begin(request)
            case Hush():
                self._line.hush()
            case Echo():
                self._tell(wish)
            case _:
                assert_never(wish)
        self._opened.set()

    async def _begin(self, request: Request | None) -> None:
        if request is not None:
            async with self._choosing:
                await self._choose(request)
        if self._taken and self._character:
            self._live = False
            self._line.begin(self._character)

    # Send.

    async def _send(self) -> None:
        while True:
            news = await self._next_news()
            messages = [news.message] if isinstance(news, Echo) else self._dialect.say(news)
            for message in messages:
                await self._send_message(message)

    async def _send_message(self, message: bytes | str) -> None:
        async with asyncio.timeout(SEND_TIMEOUT):
            if isinstance(message, str):
                await self._socket.send_str(message)
            else:
                await self._socket.send_bytes(message)

    async def _next_news(self) -> News | Echo:
        self._check_time()
        if not self._outgoing:
            self._news.clear()
            try:
                # Not wait_for, which in Python 3.11 can swallow that the visit ends.
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                return Quiet()
        news = self._outgoing.popleft()
        self._sounds -= isinstance(news, np.ndarray)
        return news

    def _check_time(self) -> None:
        now, minutes = self._loop.time(), self._house.terms.max_minutes
        if self._live and now - self._heard_at > IDLE_TIMEOUT:
            raise Leave(IDLE)
        if self._began_at is not None and minutes is not None and now - self._began_at > 60 * minutes:
            error = PersonaplexError(f"A conversation may last {minutes:g} minutes here.", "Connect again.")
            raise Leave(Close("time is up", 4408, error))

    def _tell(self, news: News | Echo) -> None:
        self._outgoing.append(news)
        self._news.set()

    def _take_news(self, news: lines.News) -> None:
        """What comes from the model, on the event loop."""
        match news:
            case Over(error):
                self._over.set_result(error)
                return
            case Began():
                self._live = True
                self._heard_at = self._loop.time()
                self._began_at = self._began_at or self._heard_at
            case Step(timings=timings) if timings:
                self._count(timings.total)
            case np.ndarray():
                self._sounds += 1
                if self._sounds > MAX_UNSENT_SOUNDS:
                    self._lose_the_oldest_sound()
        self._tell(news)

    def _count(self, milliseconds: float) -> None:
        self._house.figures.step(milliseconds)
        self._frames += 1
        self._slowest = max(self._slowest, milliseconds)
        self._paces.append(milliseconds)
        if len(self._paces) == PACE_FRAMES:
            mean = sum(self._paces) / PACE_FRAMES
            self._tell(Pace(round(mean, 2), round(max(self._paces), 2), self._frames))
            self._paces.clear()

    def _lose_the_oldest_sound(self) -> None:
        oldest = next(index for index, each in enumerate(self._outgoing) if isinstance(each, np.ndarray))
        del self._outgoing[oldest]
        self._sounds -= 1
        self._unsaid += FRAME

    async def _say_goodbye(self, farewell: Close) -> None:
        if farewell is STUCK:
            return  # the server cuts the line
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                for news in (farewell.error, Ended(farewell.end)):
                    for message in self._dialect.say(news) if news and not self._socket.closed else ():
                        await self._send_message(message)
                await self._socket.close(code=farewell.code, message=farewell.end.encode())


def _farewell(errors: list[BaseException | None], socket: web.WebSocketResponse) -> Close:
    """What ended a visit, from what ended its parts."""
    for error in errors:
        match error:
            case None | asyncio.CancelledError() | ConnectionError():
                pass
            case Leave():
                return error.farewell
            case TimeoutError():
                return STUCK
            case UsageError():
                return Close("refused", 4400, error)
            case AudioError() | WireError():
                return Close("nonsense", 1007, error)
            case PersonaplexError():
                return Close("failed", 1011, error)
            case _:
                failure = PersonaplexError("The server failed.", "Try again.")
                failure.__cause__ = error
                return Close("failed", 1011, failure)
    return TOO_BIG if socket.close_code == TOO_BIG.code else LEFT
