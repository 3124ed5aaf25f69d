"""`personaplex run` over the machines of a Ray cluster: a worker on each GPU, which takes recordings when it has room.

The workers read and write the files themselves, so all machines must see them under the same names, and have this
program installed. Of Ray only actors are used; `dispatch` decides what they do.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import count
from logging import ERROR
from queue import Empty, SimpleQueue
from threading import Condition, Thread
from typing import Any

from personaplex_cli.character import Character
from personaplex_cli.conversation import Engine
from personaplex_cli.errors import NetworkError, UsageError
from personaplex_cli.events import Event, Listener, Note, Phase, State, Step
from personaplex_cli.options import OutputOptions, RemoteOptions
from personaplex_cli.programs.answers import Result
from personaplex_cli.programs.dispatch import Lost, News, dispatch
from personaplex_cli.programs.jobs import Job, Ready, Work
from personaplex_cli.programs.results import Ledger
from personaplex_cli.programs.run import answer, in_order

PERIOD = 0.5  # seconds after which a worker tells how far it is, at the latest
PATIENCE = 10.0  # seconds in which workers may write what is finished, when the run ends
CONNECT_SECONDS = 10.0
ADDRESSES = (
    "Give local, HOST:PORT, or auto on a machine where `ray start` has been run. "
    "For a cluster with a token set RAY_AUTH_MODE=token."
)
STORE_BYTES = 100 * 2**20  # Ray's memory for what it passes on; we pass on little
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # what Ray would print of the workers' errors: we say it in our own words
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a warning about a default of Ray's that does not concern us
}

Start = Callable[[Listener], Engine]


def check(jobs: Sequence[Job], remote: RemoteOptions) -> None:
    """See that these jobs can be given to a cluster. Raises UsageError."""
    if remote.server:
        raise UsageError("--ray and --server contradict each other.", "Give one of them.")
    _import_ray()
    if any(job.target is None for job in jobs):
        raise UsageError("The workers of a cluster cannot write to standard output.", "Give -o FOLDER.")


def answer_all(
    address: str, start: Start, character: Character, work: Work, output: OutputOptions, listen: Listener
) -> None:
    """Like `run.answer_all`, on all GPUs of the cluster at this address, or on all its cores where it has none.

    `start` is called in every worker. Raises NetworkError if there is no such cluster.
    """
    todo = in_order(work.todo, at_once=2)
    with (
        _cluster(address, listen) as ray,
        closing(_Actors(ray, (start, character, output, os.getcwd()))) as pool,
        closing(Ledger(work, todo, output, listen)) as ledger,
    ):
        workers = min(pool.places, len(todo))
        listen(Note(pool.told_of(workers)))
        dispatch(pool, workers, todo, output, ledger, listen)
        ledger.conclude()


class Worker:
    """An engine and the thread that answers with it, in a process of its own. Its methods are called from elsewhere."""

    def __init__(self, start: Start, character: Character, output: OutputOptions, folder: str) -> None:
        """`folder` is the one from which relative names count."""
        self._jobs: SimpleQueue[Ready] = SimpleQueue()
        self._changed = Condition()
        self._news = News()
        self._is_urgent = False  # something began or ended, which is told at once
        self._ending = False
        self._thread = Thread(target=self._run, args=(start, character, output, folder), name="model", daemon=True)
        self._thread.start()

    def exchange(self, jobs: Sequence[Ready]) -> News:
        """Take jobs, give news: at once if something ends, or the model is ready; else after a while."""
        for job in jobs:
            self._jobs.put(job)
        with self._changed:
            self._changed.wait_for(lambda: self._is_urgent, PERIOD)
            news, self._news, self._is_urgent = self._news, News(self._news.slots), False
            return news

    def end(self) -> News:
        """Answer nothing more, write what is finished, and tell of it."""
        self._ending = True
        self._thread.join(PATIENCE)
        return self.exchange(())

    def _run(self, start: Start, character: Character, output: OutputOptions, folder: str) -> None:
        try:
            os.chdir(folder)
            with closing(start(self._tell)) as engine:
                with self._telling() as news:
                    news.slots = engine.slots
                answer(engine, character, self._coming(), output, self._tell, self._done)
        except _Ending:
            pass
        except Exception as error:
            with self._telling() as news:
                news.error = error

    def _coming(self) -> Iterator[Ready | None]:
        while not self._ending:
            try:
                yield self._jobs.get_nowait()
            except Empty:
                yield None

    def _tell(self, event: Event) -> None:
        if self._ending:
            raise _Ending
        with self._changed:
            if isinstance(event, Step):
                self._news.frames[event.source] += 1
            else:
                self._news.events.append(event)

    def _done(self, result: Result) -> None:
        with self._telling() as news:
            news.results.append(result)

    @contextmanager
    def _telling(self) -> Iterator[News]:
        """What is told at once."""
        with self._changed:
            yield self._news
            self._is_urgent = True
            self._changed.notify()


class _Ending(Exception):
    """The run is over: this worker need not go on."""


class _Actors:
    """The workers as Ray's actors: a `Pool`, with `places` for so many of them."""

    def __init__(self, ray: Any, arguments: tuple[Any, ...]) -> None:
        """`arguments` are those of `Worker`."""
        has = ray.cluster_resources()
        self._resource = "GPU" if has.get("GPU", 0) >= 1 else "CPU"
        self.places = max(1, int(has.get(self._resource, 0)))
        self._ray = ray
        self._actor = ray.remote(**{f"num_{self._resource.lower()}s": 1})(Worker)
        self._arguments = arguments
        self._numbers = count()
        self._workers: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}  # that are not answered yet

    def told_of(self, workers: int) -> str:
        """A sentence for the user: one that waits for another program's GPU would look like one that hangs."""
        waiting = workers - min(workers, int(self._ray.available_resources().get(self._resource, 0)))
        later = f"; {waiting} of them once it is free" if waiting else ""
        return f"{workers} worker{'s' * (workers > 1)}, each with a {self._resource} of its own{later}."

    def hire(self) -> int:
        number = next(self._numbers)
        self._workers[number] = self._actor.remote(*self._arguments)
        return number

    def ask(self, worker: int, jobs: Sequence[Ready]) -> None:
        self._calls[self._workers[worker].exchange.remote(list(jobs))] = worker

    def hear(self) -> tuple[int, News | Lost]:
        [call], _ = self._ray.wait(list(self._calls))
        worker = self._calls.pop(call)
        try:
            return worker, self._ray.get(call)
        except self._ray.exceptions.RayTaskError:  # a bug of ours
            raise
        except self._ray.exceptions.RayError as error:
            # One that was only out of reach shall not go on beside the one that takes its place.
            self._ray.kill(self._workers.pop(worker))
            return worker, Lost(str(error))

    def end(self) -> Iterator[News]:
        calls = [*self._calls, *(worker.end.remote() for worker in self._workers.values())]
        self._calls.clear()
        told, _ = self._ray.wait(calls, num_returns=len(calls), timeout=PATIENCE)
        for call in told:
            with suppress(self._ray.exceptions.RayError):
                yield self._ray.get(call)

    def close(self) -> None:
        for worker in self._workers.values():
            self._ray.kill(worker)


@contextmanager
def _cluster(address: str, listen: Listener) -> Iterator[Any]:
    """Ray, connected with the cluster at this address; `local` starts one here that ends with us."""
    listen(State(Phase.STARTING, "Ray"))
    ray = _import_ray()
    _knock(address)
    here = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if address == "local" else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=ERROR, **here)
    except (OSError, RuntimeError, ValueError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise NetworkError(f"The Ray cluster {address!r} cannot be joined: {first_line}", ADDRESSES) from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray would end us at once
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise NetworkError at once where nobody answers: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise NetworkError(f"No Ray cluster answers at {address} ({error}).", ADDRESSES) from error


def _import_ray() -> Any:
    """Ray, which keeps quiet. Raises UsageError if it is not installed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UsageError("Ray is not installed here.", "Run: pip install 'ray>=2.9'") from error
    return ray
