"""A model elsewhere as an engine: a server that speaks Moshi's protocol.

Works with our server, NVIDIA's and Kyutai's. The next conversation is requested on the same connection where the server
can do that, else on a new one. The prompt travels as text, never as the name of a persona: the server may not have it,
or another one of that name. Knows no torch.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np

from personaplex_cli.audio.queue import NOTHING
from personaplex_cli.character import Character
from personaplex_cli.client.address import is_readable_on_the_way, server_url
from personaplex_cli.client.connection import Arrival, Connection, known
from personaplex_cli.conversation import NO_ONE, Disconnected, Reply
from personaplex_cli.errors import NetworkError, UsageError
from personaplex_cli.events import Began, Listener, Note, Notice, Phase, Renewed, State, ignore
from personaplex_cli.options import DEMO, DEMO_NOTE, RemoteOptions
from personaplex_cli.protocols.wire import Action, Control, Request
from personaplex_cli.samples import FRAME, FRAME_SECONDS, Samples

MAX_RETRY_SECONDS = 30  # between two attempts
MAX_QUERY_BYTES = 7_000  # most servers take 8,190 for the whole line
REPLY_TIMEOUT = 0.75 * FRAME_SECONDS  # of a live step: the rest of the frame's time is for everything else
FRESH_SECONDS = FRAME_SECONDS - REPLY_TIMEOUT
MAX_UNSENT_FRAMES = 4  # waiting to be sent, live; older sound would only add delay
MAX_FRAMES_AHEAD = 8  # of a recording, ahead of the answer to it; servers drop what comes too fast for them
ANSWER_TIMEOUT = 10.0  # seconds, for the sound that answers one frame of a recording
# Seconds that recordings wait for a server to be ready, in its queue most of all, since the last sound came from it.
# Three who talk for ten minutes each, and as much again. Who talks live sees the queue, and can leave it.
PATIENCE = 3600.0


def connect(options: RemoteOptions, listen: Listener = ignore, paced: bool = False) -> "RemoteEngine":
    """The engine of a server elsewhere; it is called by the first `prefill`.

    Raises UsageError for what is no address, and for a token that fits in no header.
    """
    if options.token and not (options.token.isascii() and options.token.isprintable()):
        raise UsageError("The token has characters that cannot be sent.", "Copy it again.")
    url = server_url(options.server or "")
    if options.token and is_readable_on_the_way(url):
        listen(Note(f"The token goes to {urlsplit(url).netloc} unencrypted: better use wss://, or a tunnel (ssh -L)."))
    return RemoteEngine(options, listen, paced)


def request_for(character: Character) -> Request:
    """What a server is asked for. A seed only if the user gave one: NVIDIA's server fails on any.

    Raises UsageError for a voice that is a file here, and for a prompt that does not fit in a URL.
    """
    sampling = character.sampling
    if not isinstance(character.sound, str):
        what = f"The voice {character.voice} is on this machine; a server has its own voices."
        raise UsageError(what, "Give --voice the name of one of those; `personaplex voices add` there adds yours.")
    request = Request(
        voice=Path(character.sound).stem,
        prompt=character.prompt or " ",  # NVIDIA's server needs one; without one ours would take a persona's
        seed=sampling.seed,
        text_temperature=0.0 if sampling.greedy else sampling.text_temperature,
        text_top_k=sampling.text_top_k,
        audio_temperature=0.0 if sampling.greedy else sampling.audio_temperature,
        audio_top_k=sampling.audio_top_k,
    )
    if len(urlencode(request.to_query())) > MAX_QUERY_BYTES:
        raise UsageError("The prompt is too long to be sent to a server.", "Shorten it to some thousand characters.")
    return request


class RemoteEngine:
    """One conversation at a time, with a server; `listen` gets what happens to the connection.

    When the connection breaks, `prefill` dials again after 1, 2, 4 ... 30 s. A first call that fails is not repeated,
    nor one that the server ended on purpose. `paced` is for recordings: every step lasts its 80 ms, as servers expect
    of live sound, and longer where the server or the network is slow, so that nothing is lost; any failure is the end.
    """

    slots = 1

    def __init__(self, options: RemoteOptions, listen: Listener, paced: bool) -> None:
        self._options = options
        self._url = server_url(options.server or "")
        self._listen = listen
        self._paced = paced
        self._character: Character | None = None  # whose conversation it is
        self._query: dict[str, str] = {}  # what the server is asked for
        self._connection: Connection | None = None  # the last one, perhaps broken
        self._begun = False  # the server is ready for it, or was
        self._steps = 0  # of this conversation
        self._demo = False  # the server has the demo, and this was said
        self._reached = False  # the server has answered before
        self._failures: list[NetworkError] = []  # since the server was last heard
        self._patience = PATIENCE  # seconds that are left of it
        self._closed = threading.Event()

    def begin(self, slot: int, character: Character) -> None:
        """Remember what `prefill` shall request. Raises UsageError for what no server can be asked for."""
        self._query = request_for(character).to_query()
        self._character = character
        self._begun = False

    def prefill(self) -> list[tuple[int, Began | Renewed | NetworkError]] | None:
        """If a conversation waits for the server: dial, and wait until it is ready or has failed."""
        if self._begun and self._connection and (renewed := self._connection.renewed()):
            return [(0, Renewed(self._steps, *renewed))]
        if self._character is None or (self._begun and not self._closed.is_set()):
            return None
        try:
            connection = self._reach()
        except NetworkError as error:
            return [(0, error)]
        self._begun = self._reached = True
        self._silent = 0  # frames for which the agent is silent
        self._steps = 0
        self._answered = 0  # samples that have come in it
        self._due = time.monotonic()  # when the next frame of a recording is said
        return [(0, self._began(self._character, connection))]

    def step(
        self, frames: Mapping[int, Samples], silent: Mapping[int, int] = NO_ONE
    ) -> Mapping[int, Reply | Exception]:
        """Send a frame [1920] and return what has come meanwhile, however late; nothing if the connection is lost."""
        connection = self._connection
        assert connection is not None and self._begun, "a conversation starts with begin and prefill"
        if silent.get(0, 0) > self._silent:  # begun, or renewed
            connection.say(Control(Action.PAUSE))  # our server obeys; what another one goes on saying is not heard
        self._silent = silent.get(0, 0)
        connection.say(frames[0])
        self._steps += 1
        try:
            arrivals = self._paced_arrivals(connection) if self._paced else self._fresh_arrivals(connection)
        except NetworkError as error:
            self._begun = False
            return {} if self._lost(error) else {0: error}
        pcm = np.concatenate([NOTHING, *(each.pcm for each in arrivals)])
        self._answered += len(pcm)
        if len(pcm):
            self._failures.clear()
            self._patience = PATIENCE
        if silent:
            return {0: Reply(np.zeros_like(pcm), "")}
        return {0: Reply(pcm, "".join(each.text for each in arrivals))}

    def end(self, slot: int) -> None:
        """The connection stays: the next conversation may be possible on it."""
        self._character = None
        self._begun = False

    def close(self) -> None:
        self._closed.set()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection:
            self._connection.hang_up()

    def _reach(self) -> Connection:
        """The connection, when the server is ready on it. Raises NetworkError, or Disconnected after `close`."""
        while not self._closed.is_set():
            try:
                connection = self._connection
                if not (connection and connection.begin_again(self._query)):
                    connection = self._dial()
                self._wait(connection)
                return connection
            except NetworkError as error:
                if not self._lost(error):
                    raise
        raise Disconnected("The connection was closed.")

    def _wait(self, connection: Connection) -> None:
        if not self._paced:
            return connection.wait()
        began = time.monotonic()
        try:
            connection.wait(self._patience)
        finally:
            self._patience = max(0.0, self._patience - (time.monotonic() - began))

    def _lost(self, error: NetworkError) -> bool:
        """Give the connection up; returns whether another one shall be tried."""
        self._hang_up()
        retry = isinstance(error, Disconnected) and self._reached and not self._paced
        self._failures = [*self._failures, error] if retry else []
        return retry

    def _dial(self) -> Connection:
        """Another connection, after a pause that gets longer with every failure in a row."""
        self._hang_up()
        if self._failures:
            seconds = min(MAX_RETRY_SECONDS, 2 ** (len(self._failures) - 1))
            self._listen(State(Phase.DISCONNECTED, f"trying again in {seconds} s"))
            self._listen(Note(f"Reconnecting in {seconds} s: {self._failures[-1]}"))
            if self._closed.wait(seconds):
                raise Disconnected("The connection was closed.")
        max_unsent = 2 * MAX_FRAMES_AHEAD if self._paced else MAX_UNSENT_FRAMES
        self._connection = Connection(self._url, self._options, self._query, max_unsent, self._listen)
        if self._closed.is_set():  # just now: `close` has not seen this one
            self._hang_up()
        return self._connection

    def _began(self, character: Character, connection: Connection) -> Began:
        metadata = connection.metadata
        model, precision = known(metadata, "model", str) or "", known(metadata, "precision", str) or ""
        seed = known(metadata, "seed", int)
        if model == DEMO and not self._demo:
            self._demo = True
            self._listen(Notice(DEMO_NOTE))
        settings = {
            "server": connection.name,
            "model": model,
            "precision": precision,
            "persona": character.persona,
            "prompt": character.prompt,
            "voice": character.voice,
            "sampling": asdict(replace(character.sampling, seed=seed)),
        }
        return Began(
            persona=character.persona,
            voice=character.voice,
            model=model,
            device=connection.name,
            precision=precision,
            seed=seed,
            prompt_frames=known(metadata, "prompt_frames", int) or 0,
            context=known(metadata, "context", int) or 0,
            memory=known(metadata, "memory", int) or 0,
            settings=settings,
        )

    def _paced_arrivals(self, connection: Connection) -> list[Arrival]:
        """All that comes until the next frame is due, and until the answer is near enough."""
        self._due = max(self._due, time.monotonic() - FRAME_SECONDS) + FRAME_SECONDS
        arrivals = list(iter(lambda: connection.hear(self._due - time.monotonic()), None))
        until = time.monotonic() + ANSWER_TIMEOUT  # whatever else comes meanwhile
        while self._answered + sum(len(each.pcm) for each in arrivals) < (self._steps - MAX_FRAMES_AHEAD) * FRAME:
            arrival = connection.hear(until - time.monotonic())
            if arrival is None:
                raise NetworkError(f"{connection.name} has stopped answering.", "Check the server, and try again.")
            arrivals.append(arrival)
        return arrivals

    def _fresh_arrivals(self, connection: Connection) -> list[Arrival]:
        """Sound that has just come, and all that came before it; without any, what there is after REPLY_TIMEOUT.

        What came long before this step is an answer that missed the step before. A step that returned with that alone
        would miss its own answer, and so would every step after it.
        """
        until = time.monotonic() + REPLY_TIMEOUT
        arrivals: list[Arrival] = []
        while (arrival := connection.hear(until - time.monotonic())) is not None:
            arrivals.append(arrival)
            if time.monotonic() - arrival.at < FRESH_SECONDS and len(arrival.pcm):
                until = 0.0  # take what is there, wait no longer
        return arrivals
