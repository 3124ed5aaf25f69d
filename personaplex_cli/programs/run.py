"""The program behind `personaplex run`: recorded speech in, the agent's answer out, as many files at once as the engine
has slots.

Every input is read once before anything slow begins, so that a bad one is found before the model loads. Each answer
appears whole or not at all; what was finished stays when a later one fails or the user stops.

    jobs -> read ahead (a thread) -> conversations, in rounds -> written (a thread) -> results
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from personaplex_cli.audio.recording import read_recording
from personaplex_cli.character import Character
from personaplex_cli.conversation import Conversation, Engine, Wakeup, converse_all
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Ended, Event, Listener, Note, ignore
from personaplex_cli.options import OutputOptions
from personaplex_cli.programs.answers import Answer, Result
from personaplex_cli.programs.jobs import Job, Ready, Work, look_at
from personaplex_cli.programs.results import Ledger
from personaplex_cli.recogniser import Recogniser, open_recogniser

AHEAD = 2  # recordings in memory beside those that are being answered: read ahead, or not written yet


def check(jobs: list[Job], out: str | None, output: OutputOptions, listen: Listener = ignore) -> Work:
    """Read every input once and see that every output can be written, as `jobs.look_at` says."""

    def read(source: str, remark: Any) -> Any:
        return read_recording(source, output.channel, remark)

    return look_at(jobs, out, output, read, lambda text: listen(Note(text)))


def answer_all(
    engine: Engine, character: Character, work: Work, output: OutputOptions, listen: Listener = ignore
) -> None:
    """Hold one conversation per job, each from the same beginning, and write what came of it.

    What was finished stays. A job that fails is noted in `work.failures` and the next one goes on; with `strict`, or
    when several fail in a row, its error is raised.
    """
    todo = in_order(work.todo, engine.slots)
    with closing(Ledger(work, todo, output, listen)) as ledger:
        answer(engine, character, todo, output, ledger.listen, ledger.add)
        ledger.conclude()


def in_order(todo: Sequence[Ready], at_once: int) -> list[Ready]:
    """The order in which jobs begin: the user's, but the longest first where several are answered at once.

    Else a long one that begins late would keep the engine for itself at the end, nearly empty.
    """
    return sorted(todo, key=lambda ready: -ready.frames) if at_once > 1 else list(todo)


def answer(
    engine: Engine,
    character: Character,
    coming: Iterable[Ready | None],
    output: OutputOptions,
    listen: Listener,
    done: Callable[[Result], None],
) -> None:
    """Hold the conversations that come, as many at a time as the engine has slots, and write what comes of them.

    `coming` is asked for the next one as soon as there is room for it; None means that there is none just now. `done`
    takes each result once it is written; what it raises ends all, as does an error that no recording is to blame for.
    What was finished by then, or when the user stops, is still written and told to `done`.
    """
    wakeup = Wakeup()
    with ExitStack() as open_things:
        recogniser = open_things.enter_context(open_recogniser(output.asr, listen)) if output.asr else None
        desk = _Desk(engine.slots, coming, output, listen, done, wakeup, recogniser)
        open_things.enter_context(closing(desk))
        events = open_things.enter_context(closing(converse_all(engine, desk.conversations(character), wakeup)))
        for conversation, event in events:
            conversation.listen(event)
            desk.take_back()
            desk.check()
    desk.check()  # what was written last


class _Desk:
    """The recordings in hand: they are read ahead by one thread, answered by the loop, and written by another thread.

    There are never more of them than slots and `AHEAD`: where the disk is slow, no more are begun, and those that go on
    do not wait.
    """

    def __init__(
        self,
        slots: int,
        coming: Iterable[Ready | None],
        output: OutputOptions,
        listen: Listener,
        done: Callable[[Result], None],
        wakeup: Wakeup,
        recogniser: Recogniser | None,
    ) -> None:
        self._slots = slots
        self._recogniser = recogniser
        self._coming: Iterator[Ready | None] | None = iter(coming)  # None: all have come
        self._output = output
        self._listen = listen
        self._done = done
        self._wakeup = wakeup
        self._reader, self._writer = (ThreadPoolExecutor(1, name) for name in ("reader", "writer"))
        self._reading: deque[tuple[Job, Future[Answer]]] = deque()
        self._writing: deque[tuple[Job, Future[Result]]] = deque()
        self._in_hand = 0
        self._end: BaseException | None = None  # why all must end

    def conversations(self, character: Character) -> Iterator[Conversation | None]:
        """The recordings that are read, in their order, as conversations; None while the next one is not read yet."""
        while self._may_come() or self._reading:
            self.take_back()
            if not (self._reading and self._reading[0][1].done()):
                yield None
                continue
            job, read = self._reading.popleft()
            try:
                answer = read.result()
            except PersonaplexError as error:  # it was there when all were looked at
                self._finish(Result(job, error=error))
            else:
                yield Conversation(character, answer.audio, partial(self._hear, answer))

    def take_back(self) -> None:
        """Tell the results of what has been written."""
        while self._writing and self._writing[0][1].done():
            job, written = self._writing.popleft()
            try:
                result = written.result()
            except PersonaplexError as error:
                result = Result(job, error=error)
            except BaseException as error:
                self._must_end(error)
                continue
            self._finish(result)

    def check(self) -> None:
        """Raise what ends all."""
        if self._end:
            raise self._end

    def close(self) -> None:
        """Write what is finished. Nothing more is read."""
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()
        self.take_back()

    def _may_come(self) -> bool:
        """Have what comes read, as far as there is room; returns whether there may be more."""
        while self._coming and self._in_hand < self._slots + AHEAD:
            try:
                ready = next(self._coming)
            except StopIteration:
                self._coming = None
                break
            if ready is None:
                break
            self._in_hand += 1
            read = self._reader.submit(Answer, ready, self._output, self._slots, self._recogniser)
            read.add_done_callback(lambda _: self._wakeup.ring())
            self._reading.append((ready.job, read))
        return self._coming is not None

    def _hear(self, answer: Answer, event: Event) -> None:
        match event:
            case Ended(None):
                self._write(answer)
            case Ended(PersonaplexError() as error):
                self._finish(Result(answer.job, error=error))
            case Ended(error) if error:
                self._must_end(error)
            case _:
                answer.hear(event, self._listen)

    def _write(self, answer: Answer) -> None:
        written: Future[Result]
        if answer.job.target is None:  # a pipe may take its time, and Ctrl-C reaches this thread alone
            written = Future()
            try:
                written.set_result(answer.write())
            except Exception as error:
                written.set_exception(error)
        else:
            written = self._writer.submit(answer.write)
            written.add_done_callback(lambda _: self._wakeup.ring())
        self._writing.append((answer.job, written))

    def _finish(self, result: Result) -> None:
        self._in_hand -= 1
        try:
            self._done(result)
        except Exception as error:
            self._must_end(error)

    def _must_end(self, error: BaseException) -> None:
        self._end = self._end or error
        self._coming = None
        while self._reading:
            _, read = self._reading.popleft()
            read.cancel()
