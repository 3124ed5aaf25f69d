"""The program behind `personaplex run`: recorded speech in, the agent's answer out, file by file.

Every input is read once before anything slow begins, so that a bad one is found before the model loads. Each answer
appears whole or not at all; what was finished stays when a later one fails or the user stops.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from personaplex_cli import __version__
from personaplex_cli.audio.recording import Recording, read_recording, shown, write_wav
from personaplex_cli.character import Character
from personaplex_cli.conversation import Conversation, Engine, converse_all
from personaplex_cli.errors import NetworkError, OutputError, PersonaplexError
from personaplex_cli.events import Began, Ended, Event, Finished, Listener, Note, Started, Step, Timings, ignore
from personaplex_cli.files import atomic_file
from personaplex_cli.options import OutputOptions
from personaplex_cli.programs.jobs import STDOUT, Job, Ready, Work, look_at
from personaplex_cli.samples import FRAME_SECONDS, SAMPLE_RATE, frames_for
from personaplex_cli.transcript import Transcript, as_bytes, clock, one_line

FAILURES_IN_A_ROW = 3  # not the recordings' fault, but a server's or a disk's: the run ends


def check(jobs: list[Job], out: str | None, output: OutputOptions, listen: Listener = ignore) -> Work:
    """Read every input once and see that every output can be written, as `jobs.look_at` says."""

    def read(source: str, remark: Any) -> Any:
        return read_recording(source, output.channel, remark)

    return look_at(jobs, out, output, read, lambda text: listen(Note(text)))


def answer(engine: Engine, character: Character, work: Work, output: OutputOptions, listen: Listener = ignore) -> None:
    """Hold one conversation per job, each from the same beginning, and write what came of it.

    What was finished stays. A job that fails is noted in `work.failures` and the next one goes on; with `strict`, or
    when several fail in a row, its error is raised.
    """
    results = Results(work)
    run = _Run(work, output, listen, results)
    with closing(results), closing(converse_all(engine, run.conversations(character))) as events:
        for conversation, event in events:
            conversation.listen(event)
    if run.cut_short:
        ended = "The recording ends with your" if work.count == 1 else f"{run.cut_short} recordings end with their"
        listen(Note(f"{ended} last word: --tail 4 gives time to answer."))


class Results:
    """The file with a line of JSON for each recording. Lines of earlier runs stay, but for what is answered anew."""

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
            if job.target and str(job.target) not in outputs:
                self._add_again(job.target.with_suffix(".json"))
        for source, error in work.failures:
            self.add({"input": source, "error": str(error)})

    def add(self, result: dict[str, Any]) -> None:
        if self._file:
            self._file.write(as_bytes(json.dumps(result, ensure_ascii=False) + "\n"))
            self._file.flush()

    def _add_again(self, report: Path) -> None:
        with suppress(OSError, ValueError, RecursionError):
            self.add(json.loads(report.read_bytes()))

    def close(self) -> None:
        if self._file:
            self._file.close()


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


class _Run:
    """The jobs as conversations, and what becomes of those that fail."""

    def __init__(self, work: Work, output: OutputOptions, listen: Listener, results: Results) -> None:
        self._work = work
        self._output = output
        self._listen = listen
        self._results = results
        self._in_a_row = 0
        self.cut_short = 0  # recordings that ended while the user spoke
        self._frames_left = sum(frames_for(each.samples) for each in work.todo)

    def conversations(self, character: Character) -> Iterator[Conversation]:
        for ready in self._work.todo:
            left, self._frames_left = self._frames_left, self._frames_left - frames_for(ready.samples)
            started = Started(ready.job.source, frames_for(ready.samples), ready.number, self._work.count, left)
            try:
                each = _Answer(ready, started, self._output, self._listen)
            except PersonaplexError as error:  # it was there when all were looked at
                self._fail(ready.job, error)
                continue
            yield Conversation(character, each.audio, self._hearer(ready.job, each))

    def _hearer(self, job: Job, answer: "_Answer") -> Listener:
        def hear(event: Event) -> None:
            if not isinstance(event, Ended):
                answer.hear(event)
                return
            try:
                if event.error:
                    raise event.error
                self._results.add(answer.finish())
                self._work.finished += 1
                self._in_a_row = 0
                self.cut_short += answer.audio.ends_speaking
            except PersonaplexError as error:
                self._fail(job, error)

        return hear

    def _fail(self, job: Job, error: PersonaplexError) -> None:
        self._work.failures.append((job.source, error))
        self._results.add({"input": job.source, "output": str(job.target), "error": str(error)})
        self._in_a_row += 1
        if self._output.strict or self._work.count == 1 or self._in_a_row == FAILURES_IN_A_ROW:
            raise error
        self._listen(Note(f"{shown(job.source)} was not answered: {error}"))


class _Answer:
    """One job's conversation: its recording, and what is to be written of the answer."""

    def __init__(self, ready: Ready, started: Started, output: OutputOptions, listen: Listener) -> None:
        self._job = ready.job
        self._remarks = list(ready.remarks)
        self._started = started
        self._output = output
        self._listen = listen
        sound = read_recording(ready.job.source, output.channel) if ready.sound is None else ready.sound
        self.audio = Recording(sound, output.tail)
        self._transcript = Transcript()
        self._timings: list[Timings] = []
        self._persona_until: float | None = None

    def hear(self, event: Event) -> None:
        self._listen(event)
        match event:
            case Began():
                self._began = event
                self._began_at = time.perf_counter()
                self._warn_of_length(event)
                self._listen(self._started)
            case Step():
                # Words belong to the sound that they came with, however long that was under way.
                self._transcript.add(self.audio.answered, event.text)
                self._timings += [event.timings] if event.timings else []

    def _warn_of_length(self, began: Began) -> None:
        """What is older than the model's context is forgotten: first of all who it is."""
        remembered = began.context - began.prompt_frames
        if began.context and len(self.audio) > remembered:
            self._persona_until = round(max(0, remembered) * FRAME_SECONDS, 2)
            name = shown(self._job.source)
            remark = (
                f"{name} is longer than the model remembers: after {clock(self._persona_until)} it forgets its persona."
            )
            self._remarks.append(remark)
            self._listen(Note(remark))

    def finish(self) -> dict[str, Any]:
        """Write the answer; returns what is known of it.

        Raises NetworkError if it is not whole, AudioError or OutputError if it cannot be written.
        """
        audio, source = self.audio, self._job.source
        if len(audio.answer) < len(audio.heard):
            what = f"The answer to {shown(source)} is incomplete."
            raise NetworkError(what, "Check the server, and try again.")
        speed = round(len(audio) * FRAME_SECONDS / (time.perf_counter() - self._began_at), 2)
        seconds = round(len(audio.heard) / SAMPLE_RATE, 3)
        report = self._report(seconds, speed)
        self._listen(Finished(source, self._write(report), seconds, speed, self._transcript.text))
        return report

    def _report(self, seconds: float, speed: float) -> dict[str, Any]:
        return {
            "text": self._transcript.text,
            "words": [asdict(word) for word in self._transcript.words()],
            "input": self._job.source,
            "output": STDOUT if self._job.target is None else str(self._job.target),
            "seconds": seconds,
            "speed": speed,
            "notes": self._remarks,
            "persona_until": self._persona_until,
            "settings": {**self._began.settings, **self._output.settings},
            "milliseconds": _percentiles(self._timings),
            "personaplex": __version__,
        }

    def _write(self, report: dict[str, Any]) -> tuple[str, ...]:
        target = self._job.target
        channels = (self.audio.heard, self.audio.answer) if self._output.stereo else (self.audio.answer,)
        if target is None:
            try:
                write_wav(sys.stdout.buffer, *channels)
                sys.stdout.buffer.flush()
            except BrokenPipeError:  # the reader has heard enough
                raise
            except OSError as error:
                raise OutputError(f"Standard output cannot be written ({error.strerror}).", "Give -o FILE.") from error
            return ()
        *beside, _ = self._job.written(self._output)
        for path in beside:
            with atomic_file(path) as file:
                file.write(as_bytes(self._text(path, report)))
        # The wav comes last: where it is, everything is.
        with atomic_file(target) as file:
            write_wav(file, *channels)
        return tuple(map(str, (target, *beside)))

    def _text(self, path: Path, report: dict[str, Any]) -> str:
        if path.suffix == ".srt":
            return self._transcript.srt()
        if path.suffix == ".md":
            return f"# {one_line(shown(self._job.source))}\n\n{self._transcript.markdown()}\n"
        return json.dumps(report, ensure_ascii=False, indent=1) + "\n"


def _percentiles(timings: Sequence[Timings]) -> dict[str, dict[str, float]]:
    """p50 and p95 of each stage and of the whole step, in milliseconds. Nothing is known of those elsewhere."""
    stages = ("encode", "lm", "decode", "total")
    columns = {stage: [getattr(each, stage) for each in timings] for stage in stages if timings}
    return {
        stage: {f"p{share}": round(float(np.percentile(column, share)), 2) for share in (50, 95)}
        for stage, column in columns.items()
    }
