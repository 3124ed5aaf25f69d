"""The program behind `personaplex run`: recorded speech in, the agent's answer out, file by file.

Every input is read once before anything slow begins, so that a bad one is told before the model loads. Each answer
appears whole or not at all; what was finished stays when a later one fails or the user stops.
"""

import io
import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from personaplex_cli import __version__
from personaplex_cli.audio.recording import (
    STDIN,
    Recording,
    atomic_file,
    check_place,
    read_recording,
    standard_input,
    write_wav,
)
from personaplex_cli.conversation import Agent, converse
from personaplex_cli.errors import NetworkError, UsageError
from personaplex_cli.events import Finished, Listener, Started, Timings
from personaplex_cli.samples import FRAME_SECONDS, SAMPLE_RATE
from personaplex_cli.transcript import Transcript

STDOUT = "-"
LONGEST_TAIL = 600  # seconds; more is a mistake


@dataclass(frozen=True)
class Job:
    """One recording and where its answer goes; None is standard output."""

    source: str
    target: Path | None


@dataclass(frozen=True)
class OutputOptions:
    """What is kept of each conversation beside the agent's voice."""

    stereo: bool = False
    transcript: bool = True
    srt: bool = False
    tail: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.tail <= LONGEST_TAIL:
            raise UsageError(f"The tail is {self.tail} s.", f"Give a number of seconds from 0 to {LONGEST_TAIL}.")


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
            check_place(job.target)


def answer(agent: Agent, jobs: Sequence[Job], keeping: OutputOptions, listen: Listener) -> None:
    """Hold one conversation per job, each from the same beginning, and write what came of it."""
    for job in jobs:
        with standard_input() if job.source == STDIN else nullcontext(Path(job.source)) as path:
            audio = Recording(read_recording(path), keeping.tail)
        listen(agent.begin())
        listen(Started(job.source, len(audio)))
        began = time.perf_counter()
        transcript, timings = Transcript(), list[Timings]()
        for step in converse(agent, audio):
            # Words belong to the sound that they came with, however long that was under way.
            transcript.add(audio.answered, step.text)
            timings += [step.timings] if step.timings else []
            listen(step)
        if len(audio.answer) < len(audio.heard):
            raise NetworkError(f"The answer to {job.source} has not arrived whole.", "Try again; is the server well?")
        speed = round(len(audio) * FRAME_SECONDS / (time.perf_counter() - began), 2)
        seconds = round(len(audio.heard) / SAMPLE_RATE, 3)
        report: dict[str, Any] = {
            "personaplex": __version__,
            "input": job.source,
            "output": STDOUT if job.target is None else str(job.target),
            "seconds": seconds,
            "settings": {**agent.settings, **asdict(keeping)},
            "text": transcript.text,
            "words": [asdict(word) for word in transcript.words()],
            "speed": speed,
            "milliseconds": _percentiles(timings),
        }
        files = _write(job, audio, transcript, report, keeping)
        listen(Finished(job.source, files, seconds, speed, transcript.text))


def _write(
    job: Job, audio: Recording, transcript: Transcript, report: dict[str, Any], keeping: OutputOptions
) -> tuple[str, ...]:
    channels = (audio.heard, audio.answer) if keeping.stereo else (audio.answer,)
    if job.target is None:
        sound = io.BytesIO()
        write_wav(sound, *channels)
        sys.stdout.buffer.write(sound.getvalue())
        sys.stdout.buffer.flush()
        return ()
    texts = {}
    if keeping.transcript:
        texts[".json"] = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    if keeping.srt:
        texts[".srt"] = transcript.srt()
    written = [job.target]
    # The wav comes last: where it is, everything is.
    for suffix, text in texts.items():
        written.append(job.target.with_suffix(suffix))
        with atomic_file(written[-1]) as file:
            file.write(text.encode())
    with atomic_file(job.target) as file:
        write_wav(file, *channels)
    return tuple(map(str, written))


def _refuse_clashes(jobs: Sequence[Job], out: str | None) -> None:
    targets = [job.target for job in jobs if job.target is not None]
    if len(jobs) > 1 and len(targets) < len(jobs):
        raise UsageError("Several answers do not fit in one output.", "Give -o FOLDER.")
    if len(jobs) > 1 and out is not None and out.lower().endswith(".wav"):
        raise UsageError(f"Several inputs cannot all be answered in {out}.", "Give -o FOLDER.")
    for index, target in enumerate(targets):
        if target.suffix.lower() != ".wav":
            raise UsageError(f"{target} is not the name of a wav file.", "Answers are written as .wav.")
        if target in targets[:index]:
            raise UsageError(f"Two inputs would both be answered in {target}.", "Rename one, or run them apart.")
    sources = {Path(job.source).resolve() for job in jobs if job.source != STDIN}
    for target in targets:
        if target.resolve() in sources:
            raise UsageError(f"{target} is an input: the answer would overwrite it.", "Choose another -o.")


def _percentiles(timings: Sequence[Timings]) -> dict[str, dict[str, float]]:
    """p50 and p95 of each stage and of the whole step, in milliseconds. Nothing is known of those elsewhere."""
    if not timings:
        return {}
    stages = {
        "encode": [each.encode for each in timings],
        "lm": [each.lm for each in timings],
        "decode": [each.decode for each in timings],
        "total": [each.total for each in timings],
    }
    return {
        stage: {f"p{share}": round(float(np.percentile(values, share)), 2) for share in (50, 95)}
        for stage, values in stages.items()
    }
