"""The agent elsewhere: a model on a server that speaks Moshi's protocol, as the `Agent` of a conversation here.

Works with our server, NVIDIA's and Kyutai's. The next conversation is asked for on the same connection where the server
can do that, else it is called again. Who it shall be travels as text, never as the name of a persona, which the server
may not have or may know as somebody else. Knows no torch.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from personaplex_cli.audio.queue import NOTHING
from personaplex_cli.client.address import Server
from personaplex_cli.client.connection import Arrival, Connection, number
from personaplex_cli.conversation import Disconnected
from personaplex_cli.errors import NetworkError, UsageError
from personaplex_cli.events import Began, Glitch, Listener, Note, State
from personaplex_cli.hush import Hush
from personaplex_cli.lookup import Character
from personaplex_cli.protocols.wire import Action, Control, Request
from personaplex_cli.samples import FRAME, FRAME_SECONDS, Samples

MAX_WAIT_SECONDS = 30  # seconds between two attempts
MAX_QUERY_BYTES = 7_000  # bytes; most servers take 8,190 for the whole line
ATTENTION_SECONDS = 0.75 * FRAME_SECONDS  # that a live step waits for something to come; the microphone must not wait
FRESH_SECONDS = FRAME_SECONDS - ATTENTION_SECONDS
MAX_UNSENT_FRAMES = 4  # that wait to be sent, live; what is older is not worth hearing
MAX_FRAMES_AHEAD = 8  # frames of a recording, of the answer to it; servers drop what comes too fast for them
ANSWER_SECONDS = 10.0  # that an answer to a recording may take
TELLING_FRAMES = 12  # about a second between two reports of what was not sent


@dataclass(frozen=True)
class Reply:
    """What has come since the last frame: `pcm` [n] at 24 kHz and words, both perhaps empty."""

    pcm: Samples
    text: str
    timings: None = None


def request_for(character: Character, seed: int | None) -> Request:
    """What a server is asked for. A seed only if the user wants that one: NVIDIA's server falls over any.

    Raises UsageError for a voice that is a file here, and for a prompt that does not fit in a URL.
    """
    voice, how = character.voice, character.sampling
    if voice.path is not None:
        raise UsageError(
            f"The voice {voice.name} is a file here, and a server has its own voices.", "Give --voice a name."
        )
    request = Request(
        voice=Path(voice.file).stem,
        prompt=character.persona.prompt or " ",  # NVIDIA's server needs one, ours would take a persona's for none
        seed=seed,
        text_temperature=0.0 if how.greedy else how.text_temperature,
        text_top_k=how.text_top_k,
        audio_temperature=0.0 if how.greedy else how.audio_temperature,
        audio_top_k=how.audio_top_k,
    )
    if len(urlencode(request.to_query())) > MAX_QUERY_BYTES:
        raise UsageError("The prompt is too long to be sent to a server.", "Shorten it to some thousand characters.")
    return request


class RemoteAgent:
    """Calls the server for every conversation, and again when the connection breaks off: after 1, 2, 4 ... 30 s.

    A first call that fails is not tried again, nor one that the server ended on purpose. `paced` is for recordings:
    every step lasts its 80 ms, so that a server which knows only live talk hears one, and longer where the server or
    the network is slow, so that nothing is lost; and nothing is tried again.
    """

    def __init__(
        self, server: Server, character: Character, seed: int | None, listen: Listener, paced: bool = False
    ) -> None:
        self._server = server
        self._character = character
        self._request = request_for(character, seed)
        self._listen = listen
        self._paced = paced
        self._connection: Connection | None = None
        self._reached = False
        self._failures: list[NetworkError] = []  # since the server was last heard
        self._hush = Hush()
        self._steps = 0  # of this conversation
        self._answered = 0  # samples that have come in it
        self._unsent = 0  # frames, of this connection, as told
        self._due = 0.0
        self._closed = threading.Event()

    def start(self) -> None:
        """Nothing to do: the model is there already."""

    def warm_up(self) -> None:
        """Nothing to do: the server's work."""

    def begin(self) -> Began:
        """Call, and wait until the server is ready. Raises NetworkError, or Disconnected after `close`."""
        while True:
            try:
                connection = self._again() or self._dial()
                break
            except Disconnected as error:
                if self._closed.is_set() or self._paced or not self._reached:
                    raise
                self._failures.append(error)
        self._reached = True
        self._hush = Hush()
        self._steps = self._answered = 0
        self._due = time.monotonic()
        return self._began(connection)

    def step(self, frame: Samples) -> Reply:
        """Say a frame [1920]; returns what has come meanwhile, however long it was under way."""
        connection = self._connection
        assert connection is not None, "a conversation starts with begin"
        connection.say(frame)
        self._steps += 1
        self._tell_unsent(connection)
        try:
            arrivals = self._paced_arrivals(connection) if self._paced else self._fresh_arrivals(connection)
        except Disconnected as error:
            self._failures.append(error)
            raise
        pcm = np.concatenate([NOTHING, *(each.pcm for each in arrivals)])
        self._answered += len(pcm)
        if len(pcm):
            self._failures.clear()
        if self._hush.holds(frame):
            return Reply(np.zeros_like(pcm), "")
        return Reply(pcm, "".join(each.text for each in arrivals))

    @property
    def settings(self) -> dict[str, Any]:
        told = self._connection.metadata if self._connection else {}
        sampling = {**vars(self._character.sampling), "seed": _whole(told.get("seed"))}
        return {
            "server": self._server.name,
            "model": _text(told.get("model")),
            "precision": _text(told.get("precision")),
            "persona": self._character.persona.name,
            "prompt": self._character.persona.prompt,
            "voice": self._character.voice.name,
            "sampling": sampling,
        }

    def hush(self) -> None:
        """Be silent until the user speaks. Our server obeys; what another one goes on saying is not heard."""
        self._hush.begin()
        if self._connection:
            self._connection.say(Control(Action.PAUSE))

    @property
    def hushed(self) -> bool:
        return self._hush.on

    def close(self) -> None:
        self._closed.set()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection:
            self._connection.hang_up()

    def _again(self) -> Connection | None:
        """The connection that there is, with a new conversation on it; None if it is of no use for that."""
        if self._connection is None or self._failures or not self._connection.begin_again():
            return None
        self._connection.wait()
        return self._connection

    def _dial(self) -> Connection:
        self._hang_up()
        self._wait()
        self._unsent = 0
        connection = self._connection = Connection(
            self._server,
            self._request.to_query(),
            2 * MAX_FRAMES_AHEAD if self._paced else MAX_UNSENT_FRAMES,
            self._listen,
        )
        if self._closed.is_set():
            connection.hang_up()
        connection.wait()
        return connection

    def _wait(self) -> None:
        """After a failure, for as long as the failures before it suggest."""
        if not self._failures:
            return
        seconds = min(MAX_WAIT_SECONDS, 2 ** (len(self._failures) - 1))
        self._listen(State("disconnected", f"trying again in {seconds} s"))
        self._listen(Note(f"In {seconds} s a new conversation is tried: {self._failures[-1]}"))
        if self._closed.wait(seconds):
            raise Disconnected("The connection was ended.")

    def _began(self, connection: Connection) -> Began:
        told = connection.metadata
        return Began(
            persona=self._character.persona.name,
            voice=self._character.voice.name,
            model=_text(told.get("model")),
            device=self._server.name,
            precision=_text(told.get("precision")),
            seed=_whole(told.get("seed")),
            prompt_frames=_whole(told.get("prompt_frames")) or 0,
            context=_whole(told.get("context")) or 0,
        )

    def _paced_arrivals(self, connection: Connection) -> list[Arrival]:
        """All that comes until the next frame is due, and until the answer is near enough."""
        self._due = max(self._due, time.monotonic() - FRAME_SECONDS) + FRAME_SECONDS
        arrivals = list(iter(lambda: connection.hear(self._due - time.monotonic()), None))
        while self._answered + sum(len(each.pcm) for each in arrivals) < (self._steps - MAX_FRAMES_AHEAD) * FRAME:
            arrival = connection.hear(ANSWER_SECONDS)
            if arrival is None:
                raise NetworkError(f"{self._server.name} does not answer any more.", "Is the server well? Try again.")
            arrivals.append(arrival)
        return arrivals

    def _fresh_arrivals(self, connection: Connection) -> list[Arrival]:
        """Something that has come just now, and all before it; or what there is when the next frame is near.

        What came long before this step is an answer that missed the last one: whoever took it at once would miss the
        next one, too, and so on. It is taken along with that instead.
        """
        until = time.monotonic() + ATTENTION_SECONDS
        arrivals: list[Arrival] = []
        while (arrival := connection.hear(until - time.monotonic())) is not None:
            arrivals.append(arrival)
            if time.monotonic() - arrival.at < FRESH_SECONDS and len(arrival.pcm):
                until = 0.0  # take what is there, wait no longer
        return arrivals

    def _tell_unsent(self, connection: Connection) -> None:
        if connection.unsent > self._unsent and self._steps % TELLING_FRAMES == 0:
            self._unsent = connection.unsent
            self._listen(Glitch("unsent", self._unsent, "the network is too slow"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    return int(value) if number(value) is not None else None
