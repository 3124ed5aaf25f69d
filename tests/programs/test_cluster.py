"""`personaplex run --ray`: a worker answers like this machine, and over Ray itself a killed one changes no answer."""

import os
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from personaplex_cli.cli import main as cli
from personaplex_cli.errors import ModelError, NetworkError
from personaplex_cli.events import Listener, Note, Started, Step
from personaplex_cli.options import OutputOptions
from personaplex_cli.programs import cluster, run
from personaplex_cli.programs.cluster import Worker
from personaplex_cli.programs.dispatch import News
from personaplex_cli.programs.jobs import Ready, plan
from tests.programs.test_batches import answered, lines, record, said
from tests.test_conversation import ChainEngine, character

ROOT = Path(__file__).parents[2]
needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install 'ray>=2.9'")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def worker(engine: ChainEngine) -> Worker:
    def start(listen: Listener) -> ChainEngine:
        listen(Note("loaded"))
        return engine

    return Worker(start, character(), OutputOptions(), os.getcwd())


def todo() -> list[Ready]:
    return run.check(plan(["in"], "out"), "out", OutputOptions()).todo


def test_a_worker_answers_like_this_machine_and_tells_each_thing_once() -> None:
    lengths = {"a": 3, "b": 2, "c": 5, "d": 1}
    record(lengths)
    answered(ChainEngine(1), "alone")
    one = worker(ChainEngine(2))
    news, jobs = [News()], todo()
    while not news[-1].slots:
        news.append(one.exchange(()))
    news += [one.exchange([ready]) for ready in jobs]
    while sum(len(each.results) for each in news) < len(jobs):
        news.append(one.exchange(()))
    last = one.end()
    assert not (last.events or last.results or last.error) and all(each.slots == 2 for each in news[-len(jobs) :])
    assert said("out") == said("alone")
    events = [event for each in news for event in each.events]
    assert events[0] == Note("loaded") and not [event for event in events if isinstance(event, Step)]
    assert sorted(each.source for each in events if isinstance(each, Started)) == [f"in/{x}.wav" for x in lengths]
    counted = sum((each.frames for each in news), start=news[0].frames)
    assert counted == {f"in/{name}.wav": frames for name, frames in lengths.items()}


def test_a_worker_that_is_told_to_end_writes_what_is_finished_and_nothing_more() -> None:
    record({"a": 2, "b": 1000})
    one, before = worker(ChainEngine(2)), threading.active_count()
    one.exchange(todo())
    finished = one.exchange(()).results
    while not finished:
        finished = one.exchange(()).results
    assert not one.end().error
    assert list(said("out")) == ["a"] and threading.active_count() < before


def test_a_model_that_cannot_be_loaded_is_told() -> None:
    def start(listen: Listener) -> ChainEngine:
        raise ModelError("It is damaged.")

    one = Worker(start, character(), OutputOptions(), os.getcwd())
    error = one.exchange(()).error or one.exchange(()).error
    assert isinstance(error, ModelError)


def test_where_nobody_answers_it_is_told_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(NetworkError, match="No Ray cluster answers at 127"):
            cluster._knock(f"127.0.0.1:{closed.getsockname()[1]}")
        closed.listen()
        cluster._knock(f"127.0.0.1:{closed.getsockname()[1]}")
    for name in ("local", "auto", "ray://nowhere:1"):
        cluster._knock(name)  # is Ray's own business


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.wav", "-o", "out"], "pip install 'ray>=2.9'"),
        (["a.wav", "-o", "out", "--server", "localhost"], "--ray and --server contradict each other"),
    ],
)
def test_what_cannot_be_is_told_before_anything_begins(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.program(["run", *arguments, "--ray", "local"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(not find_spec("ray"), reason="only then it is asked for")
def test_workers_have_no_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.program(["run", "a.wav", "-o", "-", "--ray", "local"]) == 2
    assert "cannot write to standard output" in capsys.readouterr().err


MORTAL = """
import os, signal
from contextlib import suppress
from pathlib import Path
from personaplex_cli.events import Note
from personaplex_cli.options import OutputOptions
from personaplex_cli.programs import cluster, jobs, run
from tests.test_conversation import ChainEngine, character

def start(listen):
    class Mortal(ChainEngine):
        def step(self, frames, silent=()):
            dies = not all(frame.any() for frame in frames.values())  # poison: silence
            if len(list(Path("out").glob("*.wav"))) >= 4:
                with suppress(FileExistsError), open("died", "x"):
                    dies = True  # one of them, once
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step(frames, silent)
    return Mortal(2)

work = run.check(jobs.plan(["in"], "out"), "out", OutputOptions())
told = []
cluster.answer_all("local", start, character(), work, OutputOptions(), told.append)
losses = [event.text for event in told if isinstance(event, Note) and "was lost" in event.text]
assert 4 == len(losses), losses  # three times by the poison
[(source, error)] = work.failures
assert source == "in/poison.wav" and "3 workers were lost" in str(error), work.failures
"""


@needs_ray
@pytest.mark.slow
def test_over_ray_killed_workers_change_no_answer_and_poison_is_given_up(here: Path) -> None:
    record({f"{number}": 2 + number % 5 for number in range(12)})
    answered(ChainEngine(1), "alone")
    (here / "in/poison.wav").write_bytes((here / "in/9.wav").read_bytes()[:44] + bytes(6 * 2 * 1920))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(here)}
    done = subprocess.run([sys.executable, "-c", MORTAL], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # Ray keeps quiet
    assert said("out") == said("alone")
    assert sorted(line["input"] for line in lines("out")) == sorted(f"in/{path.name}" for path in Path("in").iterdir())
