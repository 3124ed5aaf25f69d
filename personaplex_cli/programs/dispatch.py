"""Recordings over many workers: who answers which, and what becomes of those of a worker that is lost.

Knows no Ray: a `Pool` has the workers, wherever they are. A worker does `run.answer`, as this machine would.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from personaplex_cli.errors import DeviceError, PersonaplexError
from personaplex_cli.events import Event, Listener, Note, Steps
from personaplex_cli.options import OutputOptions
from personaplex_cli.programs.answers import Result
from personaplex_cli.programs.jobs import Job, Ready
from personaplex_cli.programs.results import Ledger, report_beside

TRIES = 3  # of a recording whose workers are lost; the last one is made alone
AHEAD = 1  # recordings that a worker has beside those that it answers: it need not wait for the next one


@dataclass
class News:
    """What has happened at a worker since it was asked last.

    `slots` is how many conversations it holds at once, 0 while its model loads; `error` is what has ended it.
    """

    slots: int = 0
    events: list[Event] = field(default_factory=list)
    frames: Counter[str] = field(default_factory=Counter)  # answered, by recording
    results: list[Result] = field(default_factory=list)
    error: Exception | None = None


@dataclass(frozen=True)
class Lost:
    """A worker that gives no news any more."""

    why: str


class Pool(Protocol):
    """Workers, by numbers."""

    def hire(self) -> int:
        """Start a worker, which loads its model."""

    def ask(self, worker: int, jobs: Sequence[Ready]) -> None:
        """Give a worker more to do, perhaps nothing, and ask for its news."""

    def hear(self) -> tuple[int, News | Lost]:
        """Wait for the news of any worker that was asked."""

    def end(self) -> Iterable[News]:
        """Have all workers write what is finished, and nothing more; what they had not told yet."""


class Rota:
    """The jobs that wait, and which worker has which. Those of a lost worker are done again, `TRIES` times in all.

    A recording that ends every worker takes others along; it shows itself in its last try, which is made alone.
    """

    def __init__(self, todo: Collection[Ready], workers: int) -> None:
        self._waiting = deque(todo)
        self._suspects: deque[Ready] = deque()  # whose next try is the last
        self._held: dict[int, dict[str, Ready]] = {}
        self._workers = workers
        self._losses: Counter[str] = Counter()

    @property
    def is_done(self) -> bool:
        return not (self._waiting or self._suspects or any(self._held.values()))

    def take(self, worker: int, slots: int) -> list[Ready]:
        """What a worker with so many slots gets now: no more than its share of what is left, so that all end together.

        Nothing for one whose model still loads.
        """
        held = self._held.setdefault(worker, {})
        if any(self._is_suspect(each) for each in held.values()) or slots == 0:
            return []
        left = len(self._waiting) + sum(map(len, self._held.values()))
        room = min(slots + AHEAD, -(-left // self._workers)) - len(held)
        taken = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        if not (taken or held) and self._suspects:
            taken = [self._suspects.popleft()]
        held.update((each.job.source, each) for each in taken)
        return taken

    def end(self, worker: int, source: str) -> None:
        """This worker has done this job."""
        del self._held[worker][source]

    def lose(self, worker: int) -> list[Ready]:
        """This worker is lost; returns the jobs that it had."""
        lost = list(self._held.pop(worker, {}).values())
        self._losses.update(each.job.source for each in lost)
        return lost

    def again(self, ready: Ready) -> bool:
        """Have a lost job done again, before the others; False if it has had its tries."""
        if self._losses[ready.job.source] >= TRIES:
            return False
        if self._is_suspect(ready):
            self._suspects.append(ready)
        else:
            self._waiting.appendleft(ready)
        return True

    def _is_suspect(self, ready: Ready) -> bool:
        return self._losses[ready.job.source] == TRIES - 1


def dispatch(
    pool: Pool, workers: int, todo: Sequence[Ready], output: OutputOptions, ledger: Ledger, listen: Listener
) -> None:
    """Have all jobs done by so many workers; a lost one is replaced.

    Raises what the ledger raises, what a worker ended with, and DeviceError if workers are lost before they are ready.
    """
    driver = _Driver(pool, Rota(todo, workers), output, ledger, listen)
    try:
        for _ in range(workers):
            pool.ask(pool.hire(), ())
        while not driver.rota.is_done:
            driver.take(*pool.hear())
    except BaseException:
        for news in pool.end():
            for result in news.results:
                with suppress(PersonaplexError):
                    ledger.add(result)
        raise


class _Driver:
    """Takes what the workers tell, and tells them what to do next."""

    def __init__(self, pool: Pool, rota: Rota, output: OutputOptions, ledger: Ledger, listen: Listener) -> None:
        self.rota = rota
        self._pool = pool
        self._output = output
        self._ledger = ledger
        self._listen = listen
        self._ready: set[int] = set()
        self._first: int | None = None  # worker that was heard: its loading is told, that of the others is alike
        self._early_losses = 0  # of workers that were not ready, in a row

    def take(self, worker: int, news: News | Lost) -> None:
        if isinstance(news, Lost):
            self._replace(worker, news)
            return
        self._first = worker if self._first is None else self._first
        if worker == self._first or worker in self._ready:
            for event in news.events:
                self._ledger.listen(event)
        for source, frames in news.frames.items():
            self._ledger.listen(Steps(source, frames))
        for result in news.results:
            self.rota.end(worker, result.job.source)
            self._ledger.add(result)
        if news.error:
            raise news.error
        if news.slots and worker not in self._ready:
            self._ready.add(worker)
            self._early_losses = 0
        self._pool.ask(worker, self.rota.take(worker, news.slots))

    def _replace(self, worker: int, lost: Lost) -> None:
        self._early_losses += worker not in self._ready
        if self._early_losses == TRIES:
            *_, reason = lost.why.strip().splitlines() or [""]
            what = f"{TRIES} workers ended while they loaded the model: {reason}"
            raise DeviceError(what, "Is this program installed on every machine, and memory enough?")
        jobs = self.rota.lose(worker)
        self._listen(Note(_loss(jobs)))
        for ready in jobs:
            self._do_again(ready)
        self._pool.ask(self._pool.hire(), ())

    def _do_again(self, ready: Ready) -> None:
        """Unless its answer is there: a worker may be lost after the wav was written, and before it was told."""
        if report := _written(ready.job, self._output):
            self._ledger.add(Result(ready.job, report))
        elif not self.rota.again(ready):
            what = f"{TRIES} workers were lost while they answered it."
            self._ledger.add(Result(ready.job, error=DeviceError(what, "Is it too long for their memory?")))


def _loss(lost: Collection[Ready]) -> str:
    count = f"{len(lost)} recording{'s' * (len(lost) > 1)}"
    return f"A worker was lost with {count}: another one takes its place." if lost else "A worker was lost."


def _written(job: Job, output: OutputOptions) -> dict[str, Any] | None:
    """The report of an answer that this run has written: one that was there before is none, nor one without report."""
    may_be_older = output.overwrite or job.named
    is_there = job.target is not None and job.target.is_file()
    return report_beside(job) if is_there and output.transcript and not may_be_older else None
