"""Recordings over workers that are lost at any time: each is answered once, and only what ends workers is given up."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personaplex_cli.errors import AudioError, DeviceError, ModelError
from personaplex_cli.events import Event, Note, Phase, Started, State, ignore
from personaplex_cli.options import OutputOptions
from personaplex_cli.programs.answers import Result
from personaplex_cli.programs.dispatch import AHEAD, TRIES, Lost, News, dispatch
from personaplex_cli.programs.jobs import Job, Ready, Work
from personaplex_cli.programs.results import Ledger

REPORT = {"text": "", "seconds": 1.0, "speed": 2.0, "words": []}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jobs(count: int) -> list[Ready]:
    return [Ready(Job(f"{number}.wav", Path(f"out/{number}.wav")), 10, None, ()) for number in range(count)]


class Machines:
    """A pool whose workers do, and die, as chance wants. `poison` are recordings that end whoever begins them; `deaths`
    is how many workers are lost without a reason, before an answer, or after it was written and before it was told."""

    def __init__(self, random: Random, slots: int, poison: Iterable[str] = (), deaths: int = 0) -> None:
        self.random, self.slots, self.poison, self.deaths = random, slots, set(poison), deaths
        self.held: dict[int, list[Ready]] = {}
        self.ready: set[int] = set()
        self.asked: list[int] = []
        self.written = Counter[str]()
        self.lost_with = Counter[str]()
        self.hired = 0

    def hire(self) -> int:
        self.hired += 1
        self.held[self.hired] = []
        return self.hired

    def ask(self, worker: int, jobs: Sequence[Ready]) -> None:
        assert worker not in self.asked and (worker in self.ready or not jobs)
        self.held[worker] += jobs
        self.asked.append(worker)
        sources = [each.job.source for held in self.held.values() for each in held]
        assert len(set(sources)) == len(sources)  # none is in two hands
        assert len(self.held[worker]) <= self.slots + AHEAD

    def hear(self) -> tuple[int, News | Lost]:
        worker = self.asked.pop(self.random.randrange(len(self.asked)))
        if worker not in self.ready:
            self.ready.add(worker)
            return worker, News(self.slots)
        begun = self.held[worker][: self.slots]
        dies = self.deaths > 0 and self.random.random() < 0.2
        self.deaths -= dies
        if dies and begun and self.random.random() < 0.5:
            self.write(self.random.choice(begun))
        if dies or any(each.job.source in self.poison for each in begun):
            self.lost_with.update(each.job.source for each in self.held.pop(worker))
            return worker, Lost("killed")
        news = News(self.slots)
        if begun:
            done = self.random.choice(begun)
            self.held[worker].remove(done)
            self.write(done)
            news.frames[done.job.source] += done.frames
            news.results.append(Result(done.job, REPORT))
        return worker, news

    def write(self, ready: Ready) -> None:
        assert ready.job.target
        ready.job.target.parent.mkdir(exist_ok=True)
        ready.job.target.with_suffix(".json").write_text(json.dumps(REPORT))
        ready.job.target.touch()
        self.written[ready.job.source] += 1

    def end(self) -> Iterable[News]:
        return ()


def dispatched(
    pool: Machines, workers: int, todo: list[Ready], output: OutputOptions = OutputOptions(), listen=ignore
) -> Work:
    work = Work(todo, None, len(todo))
    with closing(Ledger(work, todo, output, listen)) as ledger:
        dispatch(pool, workers, todo, output, ledger, listen)
    return work


chances = st.integers(0, 10**6).map(Random)


@given(chance=chances, count=st.integers(1, 30), workers=st.integers(1, 4), slots=st.integers(1, 5))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_is_answered_once_whoever_is_lost(
    chance: Random, count: int, workers: int, slots: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        pool = Machines(chance, slots, deaths=TRIES - 1)
        work = dispatched(pool, workers, jobs(count))
        assert not work.failures and work.finished == count
        assert pool.written == Counter({f"{number}.wav": 1 for number in range(count)})
        assert pool.hired - workers == TRIES - 1 - pool.deaths


@given(chance=chances, count=st.integers(6, 30), workers=st.integers(1, 4), slots=st.integers(1, 5))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_ends_every_worker_is_given_up_and_takes_no_other_along(
    chance: Random, count: int, workers: int, slots: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        poison = {"0.wav", "4.wav"}
        pool = Machines(chance, slots, poison)
        work = dispatched(pool, workers, jobs(count))
        assert {source for source, _ in work.failures} == poison
        assert all(pool.lost_with[source] == TRIES for source in poison)
        assert set(pool.written) == {f"{number}.wav" for number in range(count)} - poison
        assert work.finished == count - len(poison)


def test_what_was_there_before_the_run_is_no_answer_of_it() -> None:
    """With --overwrite the wav that a lost worker leaves may be an old one: it is answered again."""
    [ready] = jobs(1)
    pool = Machines(Random(0), 1)
    pool.write(ready)
    pool.deaths, chances = 1, iter([0.1, 0.1])  # it dies, after the wav was written
    pool.random.random = lambda: next(chances, 0.9)  # type: ignore[method-assign]
    dispatched(pool, 1, [ready], OutputOptions(overwrite=True))
    assert pool.lost_with["0.wav"] == 1 and pool.written["0.wav"] == 3  # before, by the lost one, and again


class Scripted(Machines):
    """Workers that answer to every question what stands in the script."""

    def __init__(self, *script: News | Lost) -> None:
        super().__init__(Random(0), 2)
        self.script = list(script)
        self.told = list[News]()

    def hear(self) -> tuple[int, News | Lost]:
        worker = self.asked.pop(0)
        self.ready.add(worker)
        return worker, self.script.pop(0)

    def end(self) -> Iterable[News]:
        return self.told


def test_a_model_that_does_not_load_ends_all_with_its_own_error() -> None:
    with pytest.raises(ModelError, match="damaged"):
        dispatched(Scripted(News(error=ModelError("It is damaged."))), 2, jobs(3))


def test_workers_that_are_lost_while_they_load_end_all_with_the_reason() -> None:
    pool = Scripted(*[Lost("It ended.\nModuleNotFoundError: No module named 'personaplex_cli'\n")] * TRIES)
    with pytest.raises(DeviceError, match="3 workers ended while they loaded the model: ModuleNotFoundError"):
        dispatched(pool, 2, jobs(3))


def test_of_loading_only_one_worker_tells() -> None:
    events = list[Event]()
    state, one, other = State(Phase.LOADING, "demo"), Note("On the GPU of one."), Note("On the GPU of another.")
    started = [Started("0.wav", 10), Started("1.wav", 10)]
    done = [Result(each.job, REPORT) for each in jobs(2)]
    pool = Scripted(
        News(0, [state]),
        News(0, [state]),
        News(2, [one]),
        News(2, [other]),
        News(2, [started[0]], results=done[:1]),
        News(2, [started[1]], results=done[1:]),
    )
    dispatched(pool, 2, jobs(2), listen=events.append)
    assert [event for event in events if isinstance(event, State | Note)] == [state, one]
    numbers = [(event.number, event.count, event.frames_left) for event in events if isinstance(event, Started)]
    assert numbers == [(1, 2, 20), (2, 2, 10)]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_what_was_finished_when_it_ends_is_noted(stop: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Scripted(News(2))
    hear: Callable[..., tuple[int, News | Lost]] = pool.hear

    def stopped() -> tuple[int, News | Lost]:
        if not pool.script:
            raise stop
        return hear()

    monkeypatch.setattr(pool, "hear", stopped)
    todo = jobs(3)
    pool.told = [News(2, results=[Result(todo[0].job, REPORT), Result(todo[1].job, error=AudioError("Full."))])]
    work = Work(todo, None, len(todo))
    with pytest.raises(stop), closing(Ledger(work, todo, OutputOptions(), ignore)) as ledger:
        dispatch(pool, 1, todo, OutputOptions(), ledger, ignore)
    assert work.finished == 1 and [source for source, _ in work.failures] == ["1.wav"]
