"""The program behind `personaplex run`: recorded speech in, the agent's answer out, file by file.

Every input is read once before anything slow begins, so that a bad one is found before the model loads. Each answer
appears whole or not at all; what was finished stays when a later one fails or the user stops.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from personaplex_cli import __version__
from personaplex_cli.audio.recording import STDIN, Recording, read_recording, standard_input, write_wav
from personaplex_cli.character import Character
from personaplex_cli.conversation import Conversation, Engine, converse_all
from personaplex_cli.errors import NetworkError, UsageError
from personaplex_cli.events import Began, Ended, Event, Finished, Listener, Started, Step, Timings
from personaplex_cli.files import atomic_file, check_writable
from personaplex_cli.options import OutputOptions
from personaplex_cli.samples import FRAME_SECONDS, SAMPLE_RATE
from personaplex_cli.transcript import Transcript

STDOUT = "-"


@dataclass(frozen=True)
class Job:
    """One recording and where its answer goes; None is standard output."""

    source: str
    target: Path | None


def plan(inputs: Sequence[str], out: str | None) -> list[Job]:
    """Where each answer goes. `out` is a wav file, a folder (needed for several inputs) or `-`.

    Without it `question.wav` is answered in `question.answer.wav`, here; standard input on standard output.
    Raises UsageError where answers would overwrite each other or an input.
    """
    if inputs.count(STDIN) > 1:
        raise UsageError("Standard input can be read only once.", "Give - once.")
    if out is None:
        jobs = [Job(each, None if each == STDIN else Path(f"{Path(each).stem}.answer.wav")) for each in inputs]
    elif out == STDOUT:
        jobs = [Job(each, None) for each in inputs]
    elif Path(out).is_dir() or out.endswith(("/", "\\")) or len(inputs) > 1:
        jobs = [Job(each, Path(out) / f"{'stdin' if each == STDIN else Path(each).stem}.wav") for each in inputs]
    else:
        jobs = [Job(inputs[0], Path(out))]
    _refuse_clashes(jobs, out)
    return jobs


def check(jobs: Sequence[Job]) -> None:
    """Read every input file once and see that every output can be written, so that no long run ends in vain.

    Raises UsageError or AudioError for the first job that cannot be done.
    """
    if any(job.target is None for job in jobs) and sys.stdout.isatty():
        raise UsageError("Sound cannot be shown on a terminal.", "Give -o FILE, or pipe the output onward.")
    for job in jobs:
        if job.source != STDIN:
            read_recording(Path(job.source))
        if job.target is not None:
            check_writable(job.target)


def answer(engine: Engine, character: Character, jobs: Iterable[Job], output: OutputOptions, listen: Listener) -> None:
    """Hold one conversation per job, each from the same beginning, and write what came of it.

    Raises what goes wrong with the first job that fails; what was finished before stays.
    """
    answers = (_Answer(job, output, listen) for job in jobs)
    conversations = (Conversation(character, each.audio, each.hear) for each in answers)
    with closing(converse_all(engine, conversations)) as events:
        for conversation, event in events:
            conversation.listen(event)


class _Answer:
    """One job's conversation: its recording, and what is to be written of the answer."""

    def __init__(self, job: Job, output: OutputOptions, listen: Listener) -> None:
        self._job = job
        self._output = output
        self._listen = listen
        with standard_input() if job.source == STDIN else nullcontext(Path(job.source)) as path:
            self.audio = Recording(read_recording(path), output.tail)
        self._transcript = Transcript()
        self._timings: list[Timings] = []

    def hear(self, event: Event) -> None:
        if not isinstance(event, Ended):
            self._listen(event)
        match event:
            case Began():
                self._began = event
                self._began_at = time.perf_counter()
                self._listen(Started(self._job.source, len(self.audio)))
            case Step():
                # Words belong to the sound that they came with, however long that was under way.
                self._transcript.add(self.audio.answered, event.text)
                self._timings += [event.timings] if event.timings else []
            case Ended(error):
                if error:
                    raise error
                self._finish()

    def _finish(self) -> None:
        audio, source = self.audio, self._job.source
        if len(audio.answer) < len(audio.heard):
            raise NetworkError(f"The answer to {source} has not arrived whole.", "Try again; is the server well?")
        speed = round(len(audio) * FRAME_SECONDS / (time.perf_counter() - self._began_at), 2)
        seconds = round(len(audio.heard) / SAMPLE_RATE, 3)
        self._listen(Finished(source, self._write(self._report(seconds, speed)), seconds, speed, self._transcript.text))

    def _report(self, seconds: float, speed: float) -> dict[str, Any]:
        return {
            "personaplex": __version__,
            "input": self._job.source,
            "output": STDOUT if self._job.target is None else str(self._job.target),
            "seconds": seconds,
            "settings": {**self._began.settings, **asdict(self._output)},
            "text": self._transcript.text,
            "words": [asdict(word) for word in self._transcript.words()],
            "speed": speed,
            "milliseconds": _percentiles(self._timings),
        }

    def _write(self, report: dict[str, Any]) -> tuple[str, ...]:
        target = self._job.target
        channels = (self.audio.heard, self.audio.answer) if self._output.stereo else (self.audio.answer,)
        if target is None:
            write_wav(sys.stdout.buffer, *channels)
            sys.stdout.buffer.flush()
            return ()
        texts = {}
        if self._output.transcript:
            texts[target.with_suffix(".json")] = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
        if self._output.srt:
            texts[target.with_suffix(".srt")] = self._transcript.srt()
        for path, text in texts.items():
            with atomic_file(path) as file:
                file.write(text.encode())
        # The wav comes last: where it is, everything is.
        with atomic_file(target) as file:
            write_wav(file, *channels)
        return tuple(map(str, (target, *texts)))


def _refuse_clashes(jobs: Sequence[Job], out: str | None) -> None:
    targets = [job.target for job in jobs if job.target is not None]
    if len(jobs) > 1 and len(targets) < len(jobs):
        raise UsageError("Several answers do not fit in one output.", "Give -o FOLDER.")
    if len(jobs) > 1 and out is not None and out.lower().endswith(".wav"):
        raise UsageError(f"Several inputs cannot all be answered in {out}.", "Give -o FOLDER.")
    sources = {Path(job.source).resolve() for job in jobs if job.source != STDIN}
    for index, target in enumerate(targets):
        if target.suffix.lower() != ".wav":
            raise UsageError(f"{target} is not the name of a wav file.", "Answers are written as .wav.")
        if target in targets[:index]:
            raise UsageError(f"Two inputs would both be answered in {target}.", "Rename one, or run them apart.")
        if target.resolve() in sources:
            raise UsageError(f"{target} is an input: the answer would overwrite it.", "Choose another -o.")


def _percentiles(timings: Sequence[Timings]) -> dict[str, dict[str, float]]:
    """p50 and p95 of each stage and of the whole step, in milliseconds. Nothing is known of those elsewhere."""
    stages = ("encode", "lm", "decode", "total")
    columns = {stage: [getattr(each, stage) for each in timings] for stage in stages if timings}
    return {
        stage: {f"p{share}": round(float(np.percentile(column, share)), 2) for share in (50, 95)}
        for stage, column in columns.items()
    }
