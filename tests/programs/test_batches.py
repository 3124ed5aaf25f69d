"""Many recordings at once: each is answered as if it were alone, whatever happens to the others."""

import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personaplex_cli.audio.recording import read_recording, write_wav
from personaplex_cli.conversation import Reply
from personaplex_cli.errors import AudioError, PersonaplexError
from personaplex_cli.events import Event, Failed, Finished, Note, Started, Step, ignore
from personaplex_cli.options import OutputOptions
from personaplex_cli.programs import answers, results, run
from personaplex_cli.programs.jobs import Work, plan
from personaplex_cli.samples import FRAME, Samples
from tests.programs.test_run import run as cli_run
from tests.test_conversation import ChainEngine, character

RESUMED = OutputOptions(skip_existing=True)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def threads_end() -> Iterable[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def record(lengths: Mapping[str, int], folder: str = "in") -> None:
    """Recordings of so many frames, no two alike."""
    Path(folder).mkdir(exist_ok=True)
    for number, (name, frames) in enumerate(lengths.items()):
        sound = np.random.default_rng(number).normal(0, 0.1, frames * FRAME).astype(np.float32)
        with Path(f"{folder}/{name}.wav").open("wb") as file:
            write_wav(file, sound)


def answered(
    engine: ChainEngine,
    out: str,
    output: OutputOptions = OutputOptions(),
    listen: Callable[[Event], None] = ignore,
    spoil: Callable[[], None] = lambda: None,
) -> Work:
    """Answer all that is in `in`. `spoil` is called once everything was looked at."""
    work = run.check(plan(["in"], out, output), out, output)
    spoil()
    run.answer_all(engine, character(), work, output, listen)
    return work


def said(out: str) -> dict[str, tuple[bytes, Any]]:
    """All that was answered: the wav, and the report but for what depends on the time and the batch."""
    found = {}
    for wav in Path(out).glob("*.wav"):
        report = json.loads(wav.with_suffix(".json").read_text())
        for each in ("speed", "milliseconds", "output"):
            del report[each]
        del report["settings"]["batch_size"]
        found[wav.stem] = wav.read_bytes(), report
    return found


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(out, "results.jsonl").read_text().splitlines()]


many = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9), min_size=1)


class Failing(ChainEngine):
    """A recording fails where its state happens to be below `weakness`."""

    def __init__(self, slots: int, chunks: int, weakness: int) -> None:
        super().__init__(slots, chunks)
        self.weakness = weakness

    def step(self, *rest: Any) -> Mapping[int, Reply | Exception]:
        replies = super().step(*rest)
        return {slot: AudioError("weak") if self.states[slot][0] < self.weakness else replies[slot] for slot in replies}


@given(lengths=many, slots=st.integers(2, 5), chunks=st.integers(1, 3), weakness=st.sampled_from([0, 10, 50]))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_answers_like_one_after_the_other(
    lengths: dict[str, int], slots: int, chunks: int, weakness: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also if some fail in the middle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("batch"))
        patch.setattr(results, "FAILURES_IN_A_ROW", 100)
        record({**lengths, "x": 2, "y": 3})  # of a single one the failure is raised
        alone = answered(Failing(1, chunks, weakness), "alone")
        batch = answered(Failing(slots, chunks, weakness), "batch")
        assert said("batch") == said("alone")
        assert sorted(source for source, _ in batch.failures) == sorted(source for source, _ in alone.failures)
        assert len(lines("batch")) == batch.count == batch.finished + len(batch.failures)


def test_the_model_itself_answers_a_batch_alike(random_folder: Path) -> None:
    """Whatever the order. In other company sums are rounded differently, by a step of 16 bits at most."""
    record({"a": 9, "b": 4, "c": 12, "d": 7, "e": 6})
    backwards = sorted(map(str, Path("in").iterdir()), reverse=True)
    for out, more in (
        ("alone", ["in"]),
        ("batch", ["in", "--batch-size", 3]),
        ("other", [*backwards, "--batch-size", 4]),
    ):
        assert cli_run(random_folder, *more, "-o", out, "--seed", 5) == 0
    alone, batch, other = map(said, ("alone", "batch", "other"))
    assert len(alone) == 5
    for name, (wav, report) in alone.items():
        for others in (batch, other):
            assert report == others[name][1]
            here, there = (np.frombuffer(each, "<i2").astype(int) for each in (wav, others[name][0]))
            assert np.abs(here - there).max() <= 1


def test_at_the_end_many_are_summed_up() -> None:
    record({"a": 12, "b": 13, "c": 25})
    told: list[Event] = []
    answered(ChainEngine(2, 1), "out", listen=told.append, spoil=Path("in/c.wav").unlink)
    summary = next(each.text for each in told if isinstance(each, Note))
    assert re.fullmatch(r"Answered: 2 of 3 recordings, 0:02 of sound in 0:0\d, [\d.]+x real time\.", summary)


@pytest.mark.parametrize("slots", [1, 3])
def test_events_tell_whose_they_are_and_how_much_is_left(slots: int) -> None:
    lengths = {"a": 2, "b": 5, "c": 3, "d": 4}
    record(lengths)
    events = list[Event]()
    answered(ChainEngine(slots), "out", listen=events.append)
    left, begun = sum(lengths.values()), list[str]()
    for event in events:
        match event:
            case Started(source, frames, number, count, frames_left):
                begun.append(Path(source).stem)
                assert (frames, number, count, frames_left) == (lengths[begun[-1]], len(begun), 4, left)
            case Step():
                left -= 1
    assert left == 0
    # Several at once begin with the longest; one after the other they keep their order.
    assert begun == (["a", "b", "c", "d"] if slots == 1 else ["b", "d", "c", "a"])
    for name, frames in lengths.items():
        steps = [each.index for each in events if isinstance(each, Step) and each.source == f"in/{name}.wav"]
        assert steps == list(range(frames))
    finished = [each for each in events if isinstance(each, Finished)]
    assert [each.source for each in finished] == [line["input"] for line in lines("out")]
    assert all(set(each.files) == {f"out/{Path(each.source).stem}.{x}" for x in ("wav", "json")} for each in finished)


class Interrupted(ChainEngine):
    """The user presses Ctrl-C during a step."""

    def __init__(self, slots: int, at: int) -> None:
        super().__init__(slots)
        self.at = at

    def step(self, *rest: Any) -> Any:
        self.at -= 1
        if self.at == 0:
            raise KeyboardInterrupt
        return super().step(*rest)


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("at", range(1, 14, 3))
def test_stopped_anywhere_what_was_finished_is_there_and_the_rest_follows(slots: int, at: int) -> None:
    record({"a": 3, "b": 2, "c": 4, "d": 1, "e": 2, "f": 3})
    answered(ChainEngine(1), "whole")
    seen = dict[str, Any]()
    for _ in range(20):
        try:
            answered(Interrupted(slots, at), "out", RESUMED)
            break
        except KeyboardInterrupt:
            assert {line["input"] for line in lines("out")} == {f"in/{name}.wav" for name in said("out")}
            seen |= said("out")
            assert not [path for path in Path("out").iterdir() if path.name.startswith(".")]
            at += 1
    assert seen.items() <= said("out").items() and said("out") == said("whole")
    assert sorted(line["input"] for line in lines("out")) == [f"in/{name}.wav" for name in "abcdef"]


@pytest.mark.parametrize("slots", [1, 3])
def test_the_loop_does_not_wait_for_the_disk(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer is not written until all that there is room for have been answered, too."""
    ended = threading.Semaphore(0)
    waited = list[bool]()

    def slow(*rest: Any) -> None:
        if not waited:
            waited.append(all(ended.acquire(timeout=20) for _ in range(slots + run.AHEAD - 1)))
        write_wav(*rest)

    class Counting(ChainEngine):
        def end(self, slot: int) -> None:
            if slot in self.states:
                ended.release()
            super().end(slot)

    record({f"{number}": 2 for number in range(7)})
    monkeypatch.setattr(answers, "write_wav", slow)
    assert answered(Counting(slots), "out").finished == 7
    assert waited == [True]


@pytest.mark.parametrize("slots", [1, 3])
def test_few_recordings_are_in_memory_at_once(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def read(*rest: Any) -> Samples:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        return read_recording(*rest)

    def finished(event: Event) -> None:
        nonlocal now
        if isinstance(event, Finished):
            with lock:
                now -= 1

    record({f"{number}": 2 for number in range(12)})
    monkeypatch.setattr(answers, "read_recording", read)
    answered(ChainEngine(slots), "out", listen=finished)
    assert 1 < most <= slots + run.AHEAD


class TestFailures:
    """Files that are gone once all were looked at."""

    def spoiled(self, slots: int, gone: str, output: OutputOptions = OutputOptions()) -> list[Event]:
        record(dict.fromkeys("abcdefgh", 3))
        events = list[Event]()

        def remove() -> None:
            for name in gone:
                Path(f"in/{name}.wav").unlink()

        answered(ChainEngine(slots), "out", output, events.append, remove)
        return events

    @pytest.mark.parametrize("slots", [1, 2, 5])
    @pytest.mark.parametrize("gone", ["a", "h", "abdeg", "bceh"])
    def test_the_others_go_on(self, slots: int, gone: str) -> None:
        events = self.spoiled(slots, gone)
        assert sorted(said("out")) == sorted(set("abcdefgh") - set(gone))
        assert sorted(each.source for each in events if isinstance(each, Failed)) == [f"in/{name}.wav" for name in gone]
        assert {line["input"] for line in lines("out") if "error" in line} == {f"in/{name}.wav" for name in gone}

    @pytest.mark.parametrize("slots", [1, 2, 5])
    @pytest.mark.parametrize("gone", ["abc", "def", "bfgh", "abdefg"])
    def test_three_that_began_one_after_the_other_end_it(self, slots: int, gone: str) -> None:
        with pytest.raises(PersonaplexError, match="There is no file"):
            self.spoiled(slots, gone)
        failed = [line for line in lines("out") if "error" in line]
        assert len(said("out")) + len(failed) == len(lines("out")) and len(failed) >= 3

    @pytest.mark.parametrize("slots", [1, 2, 5])
    def test_strictly_the_first_one_ends_it(self, slots: int) -> None:
        with pytest.raises(PersonaplexError, match=r"There is no file in/[dg]\.wav"):
            self.spoiled(slots, "dg", OutputOptions(strict=True))
        assert len([line for line in lines("out") if "error" in line]) >= 1

    @pytest.mark.parametrize("slots", [1, 3])
    def test_a_lost_device_ends_all_with_its_own_error(self, slots: int) -> None:
        record(dict.fromkeys("abcd", 3))
        with pytest.raises(RuntimeError, match="the device is lost"):
            answered(ChainEngine(slots, dies=5), "out")
        assert len(lines("out")) == len(said("out"))
