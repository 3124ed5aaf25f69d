"""What becomes of the jobs of a run: told, counted, noted in `results.jsonl`; and when the run must end."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from personaplex_cli.errors import OutputError, PersonaplexError
from personaplex_cli.events import Event, Failed, Finished, Listener, Note, Started, Step, Steps
from personaplex_cli.files import atomic_file
from personaplex_cli.options import OutputOptions
from personaplex_cli.programs.answers import Result
from personaplex_cli.programs.jobs import Job, Ready, Work
from personaplex_cli.transcript import as_bytes, clock

FAILURES_IN_A_ROW = 3  # not the recordings' fault, but a server's or a disk's: the run ends


class Ledger:
    """Takes the events and the results of a run in any order. `todo` are its jobs in the order in which they begin."""

    def __init__(self, work: Work, todo: Sequence[Ready], output: OutputOptions, listen: Listener) -> None:
        self._work = work
        self._output = output
        self._tell = listen
        self._lines = ResultLines(work)
        self._numbers = {ready.job.source: n for n, ready in enumerate(todo, work.count - len(todo) + 1)}
        self._left = {ready.job.source: ready.frames for ready in todo}
        self._frames_left = sum(self._left.values())
        self._failed: set[int] = set()  # their numbers
        self._cut_short = 0  # recordings that ended while the user spoke
        self._seconds = 0.0  # of sound that was answered
        self._began = time.monotonic()

    def listen(self, event: Event) -> None:
        """Tell an event onward, with what only the whole run knows."""
        match event:
            case Started(source, frames):
                self._leave(source, frames)  # one that begins again, after a worker was lost, is left as a whole
                number, count = self._numbers[source], self._work.count
                event = replace(event, number=number, count=count, frames_left=self._frames_left)
            case Step(source=source):
                self._leave(source, self._left[source] - 1)
            case Steps(source, frames):
                self._leave(source, self._left[source] - frames)
        self._tell(event)

    def add(self, result: Result) -> None:
        """Note what came of a job; raises the job's error if it ends the run.

        That is any error with `strict` or of a single recording, and that of several recordings in a row, as they
        began: one that ends long after them all changes nothing about it.
        """
        self._leave(result.job.source, 0)
        match result.error:
            case None:
                self._finish(result)
            case PersonaplexError() as error:
                self._fail(result.job, error)
            case error:
                raise error

    def close(self) -> None:
        self._lines.close()

    def conclude(self) -> None:
        """Say at the end what was done, and what is not good, but no failure."""
        if self._work.count > 1:
            took = max(time.monotonic() - self._began, 1e-9)
            speed = f"{self._seconds / took:.1f}x real time"
            answered = f"Answered: {self._work.finished} of {self._work.count} recordings"
            self._tell(Note(f"{answered}, {clock(self._seconds)} of sound in {clock(took)}, {speed}."))
        if self._cut_short:
            one = self._work.count == 1
            ended = "The recording ends with your" if one else f"{self._cut_short} recordings end with their"
            self._tell(Note(f"{ended} last word: --tail 4 gives time to answer."))

    def _leave(self, source: str, frames: int) -> None:
        """So many frames of this recording are left; none if an answer from a server comes later than expected."""
        frames = max(0, frames)
        self._frames_left += frames - self._left[source]
        self._left[source] = frames

    def _finish(self, result: Result) -> None:
        report = result.report or {}
        *beside, wav = result.job.written(self._output) or (None,)
        files = (str(wav), *map(str, beside)) if wav else ()
        self._tell(Finished(result.job.source, files, report["seconds"], report["speed"], report["text"], result.turns))
        self._lines.add(report)
        self._work.finished += 1
        self._seconds += report["seconds"]
        self._cut_short += result.cut_short

    def _fail(self, job: Job, error: PersonaplexError) -> None:
        self._work.failures.append((job.source, error))
        self._lines.add({"input": job.source, "output": str(job.target), "error": str(error)})
        self._failed.add(self._numbers[job.source])
        if self._output.strict or self._work.count == 1 or self._is_in_a_row(self._numbers[job.source]):
            raise error
        self._tell(Failed(job.source, str(error)))

    def _is_in_a_row(self, number: int) -> bool:
        rows = (range(first, first + FAILURES_IN_A_ROW) for first in range(number - FAILURES_IN_A_ROW + 1, number + 1))
        return any(self._failed.issuperset(row) for row in rows)


class ResultLines:
    """The file with a line of JSON for each recording, in the order in which they end.

    Lines of earlier runs stay, but for what is answered anew.
    """

    def __init__(self, work: Work) -> None:
        self._file = None
        if work.results is None:
            return
        anew = {each.job.source for each in work.todo} | {source for source, _ in work.failures}
        anew_outputs = {str(each.job.target) for each in work.todo}
        kept: list[bytes] = []
        outputs: set[str | None] = set()
        for line in _lines(work.results):
            source, output = _about(line)
            if source not in anew and output not in anew_outputs:
                kept.append(line)
                outputs.add(output)
        with atomic_file(work.results) as file:
            file.writelines(kept)
        self._file = work.results.open("ab")
        for job in work.done:  # a run may have been stopped after the answer and before its line
            if job.target and str(job.target) not in outputs and (report := report_beside(job)):
                self.add(report)
        for source, error in work.failures:
            self.add({"input": source, "error": str(error)})

    def add(self, result: dict[str, Any]) -> None:
        """Raises OutputError if it cannot be written."""
        if self._file is None:
            return
        try:
            self._file.write(as_bytes(json.dumps(result, ensure_ascii=False) + "\n"))
            self._file.flush()
        except OSError as error:
            what = f"{self._file.name} cannot be written ({error.strerror})."
            raise OutputError(what, "Make room, then run the same again with --skip-existing.") from error

    def close(self) -> None:
        if self._file:
            with suppress(OSError):  # what was said when the line was written
                self._file.close()


def report_beside(job: Job) -> dict[str, Any] | None:
    """What lies beside the wav of a job that was answered before; None if nothing does, or no report."""
    with suppress(OSError, ValueError, RecursionError):
        report = json.loads(job.target.with_suffix(".json").read_bytes()) if job.target else None
        return report if isinstance(report, dict) else None
    return None


def _lines(path: Path) -> list[bytes]:
    """Those that are whole."""
    try:
        return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    except OSError:
        return []


def _about(line: bytes) -> tuple[str | None, str | None]:
    """Input and output of a line of results."""
    try:
        result = json.loads(line)
        return result.get("input"), result.get("output")
    except (ValueError, AttributeError, RecursionError):
        return None, None
