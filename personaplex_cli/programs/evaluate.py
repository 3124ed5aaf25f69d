"""The program behind `personaplex eval`: what a data set has no output for is run, then all of it is scored.

It runs what `run` runs, in the same way. Outputs that others have made are scored alike, and never replaced.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from personaplex_cli import __version__
from personaplex_cli.character import Character
from personaplex_cli.conversation import Engine
from personaplex_cli.errors import PersonaplexError, UsageError, either, unknown_name
from personaplex_cli.evaluation import picture, speech
from personaplex_cli.evaluation.benchmark import MANNER, TASKS, Published, Task
from personaplex_cli.evaluation.dataset import HUMAN, Sample, human_listeners, read_json, samples, task_of
from personaplex_cli.evaluation.heard import can_hear, heard
from personaplex_cli.evaluation.scores import Figures, Scored, Scorer, summary
from personaplex_cli.evaluation.turn_taking import Spoken
from personaplex_cli.events import Listener, Note, Scoring
from personaplex_cli.files import atomic_file, check_writable
from personaplex_cli.library.whisper_files import find_whisper
from personaplex_cli.options import WORDS, EvalOptions, OutputOptions
from personaplex_cli.programs import run
from personaplex_cli.programs.jobs import Job, Work
from personaplex_cli.programs.results import Ledger, report_beside
from personaplex_cli.recogniser import open_recogniser
from personaplex_cli.transcript import as_bytes

RECOGNISER = "base.en"  # Whisper's size, as of `--asr`
REPORT = "eval.json"  # in the data set's folder
EXTRA = "Install the extra eval: pip install 'silero-vad>=6.2.3' matplotlib"
NAMED = 10  # samples that are not scored
SPREAD = {"median": "median", "p95": "95 % below"}


@dataclass(frozen=True)
class BenchmarkOutput(OutputOptions):
    """Beside each wav lies its JSON, in which the benchmark's scripts find their words, too."""

    chunks = True


OUTPUT = BenchmarkOutput(skip_existing=True)


@dataclass
class Evaluation:
    """A data set and the task that it is scored for. `failures` are samples that have no figures, and why."""

    root: Path
    task: Task
    samples: list[Sample]
    options: EvalOptions
    scored: list[Scored] = field(default_factory=list)
    failures: dict[str, PersonaplexError] = field(default_factory=dict)

    def look_at(self, listen: Listener) -> Work:
        """Read every annotation, and every recording that has to be answered, as `run.check` does.

        A sample that could not be scored is noted in `failures` and not answered. The recogniser's model is downloaded
        first, if it is needed: better to fail now.
        """
        if self.options.words == "asr":
            find_whisper(RECOGNISER, listen)
        jobs = []
        for sample in self.samples:
            try:
                sample.window(self.task)
                jobs += _jobs(sample, self.task)
            except PersonaplexError as error:
                self.failures[sample.name] = error
                listen(Note(f"{error} It is skipped."))
        return run.check(jobs, None, OUTPUT, listen)

    def answer(self, engine: Engine, character: Character, work: Work, listen: Listener) -> None:
        """Hold the conversations that are missing. What was finished stays, whatever happens."""
        todo = run.in_order(work.todo, engine.slots)
        with closing(Ledger(work, todo, OUTPUT, listen)) as ledger:
            run.answer(engine, character, todo, OUTPUT, ledger.listen, ledger.add)

    def score(self, listen: Listener, failed: Sequence[tuple[str, PersonaplexError]] = ()) -> None:
        """Measure every sample. One that cannot be measured, or whose run has `failed`, is noted in `failures`."""
        listen(Note(f"Samples to score for {self.task.name} (version {self.task.version}): {len(self.samples)}."))
        human = human_listeners(self.root) if self.task.needs_speech and not self.task.clean else {}
        for sentence in self._remarks(human):
            listen(Note(sentence))
        runs = {Path(source).parent: error for source, error in failed}
        with self._words(listen) as words:
            scorer = Scorer(self.task, words, human)
            for done, sample in enumerate(self.samples):
                listen(Scoring(done, len(self.samples)))
                if sample.name in self.failures:
                    continue
                try:
                    if sample.folder in runs:
                        raise runs[sample.folder]
                    self.scored.append(scorer(sample))
                except PersonaplexError as error:
                    self.failures[sample.name] = error

    def report(self) -> dict[str, Any]:
        """All figures, as `eval.json` has them."""
        return {
            "personaplex": __version__,
            "task": self.task.name,
            "version": self.task.version,
            "words": RECOGNISER if self.options.words == "asr" else self.options.words,
            "detector": speech.version(),
            "scored": len(self.scored),
            "summary": summary(self.scored),
            "published": [vars(each) for each in self.published],
            "settings": next((settings for each in self.samples if (settings := each.settings)), {}),
            "samples": {each.name: each.figures for each in self.scored},
            "failures": {name: str(error) for name, error in self.failures.items()},
        }

    @property
    def published(self) -> Sequence[Published]:
        """Figures of PersonaPlex to set beside these; none beside those of the demo."""
        return () if self._is_of_demo() else self.task.published

    def write(self, listen: Listener) -> None:
        """Write `eval.json`, and the picture if it is wanted, and tell where. Raises AudioError if that fails."""
        with atomic_file(self.root / REPORT) as file:
            file.write(as_bytes(json.dumps(self.report(), ensure_ascii=False, indent=1) + "\n"))
        if self.options.plot and self.scored:
            picture.draw(self.options.plot, self.task, self.scored)
            listen(Note(f"Written: {self.root / REPORT}, {self.options.plot}"))
        else:
            listen(Note(f"Written: {self.root / REPORT}"))

    def conclude(self) -> None:
        """Raise the end of an evaluation that some samples have no part in: with the exit code of the first one."""
        if not self.failures:
            return
        lines = [f"{name}: {error}" for name, error in list(self.failures.items())[:NAMED]]
        more = len(self.failures) - len(lines)
        lines += [f"and {more} more, all in {self.root / REPORT}"] if more else []
        what = f"{len(self.failures)} of {len(self.samples)} samples were left out. " + " | ".join(lines)
        raise type(next(iter(self.failures.values())))(what, "Correct them, then run the same command again.")

    @contextmanager
    def _words(self, listen: Listener) -> Iterator[Callable[[Sample], list[Spoken]]]:
        """What finds the words of a sample."""
        if self.options.words == "asr":
            with open_recogniser(RECOGNISER, listen) as recogniser:
                yield partial(heard, recogniser=recogniser)
        else:
            yield Sample.words

    def _remarks(self, human: dict[str, Any]) -> list[str]:
        """What the user may not expect of the figures."""
        remarks = []
        if not speech.can_be_found():
            remarks.append(f"How much each side speaks is not measured. {EXTRA}")
        if not human and self.task.needs_speech and not self.task.clean:
            remarks.append(f"Without the benchmark's {HUMAN} in {self.root} there is no comparison with people.")
        if self._is_of_demo():
            remarks.append("The demo is another, small model: published figures are not shown beside its own.")
        elif self.options.words == "tokens" and self.task.published and any(each.settings for each in self.samples):
            remarks.append("Published figures come from words recognised in the sound: --words asr is nearer to them.")
        made = {json.dumps(_essence(settings), sort_keys=True) for each in self.samples if (settings := each.settings)}
        if len(made) > 1:
            remarks.append(f"The outputs were made with {len(made)} different settings; each output.json has its own.")
        return remarks

    def _is_of_demo(self) -> bool:
        return any(each.settings.get("model") == "demo" for each in self.samples)


def prepare(root: Path, task: str, options: EvalOptions) -> Evaluation:
    """What is in the data set. Raises UsageError for what cannot be done and AudioError for what cannot be written,
    before anything slow begins.
    """
    if not task:
        raise UsageError("Which task is it?", f"Give --task {either(TASKS)}.")
    found = samples(root)
    chosen = task_of(task, found)
    if options.words not in WORDS:
        raise unknown_name("source of words", options.words, WORDS, f"Give {either(WORDS)}.")
    if options.words == "asr" and not can_hear():
        what = "To hear the agent's words faster-whisper is needed, which is not installed."
        raise UsageError(what, "Run `pip install faster-whisper`, or leave out --words asr.")
    if chosen.needs_speech and not speech.can_be_found():
        raise UsageError(f"{chosen.name} needs a detector of speech, which is not installed.", EXTRA)
    if options.plot:
        if options.plot.suffix.lower() not in picture.SUFFIXES:
            raise UsageError(f"{options.plot} is not a picture.", f"Its name must end in {either(picture.SUFFIXES)}.")
        if not picture.can_be_drawn():
            raise UsageError("Pictures are drawn by matplotlib, which is not installed.", EXTRA)
        check_writable(options.plot)
    _check_report(root / REPORT, chosen)
    return Evaluation(root, chosen, found, options)


def _check_report(path: Path, task: Task) -> None:
    """Raises UsageError rather than replace the figures of another task, AudioError if it cannot be written."""
    check_writable(path)
    kept: Any = None
    with suppress(UsageError):
        kept = read_json(path)
    other = kept.get("task") if isinstance(kept, dict) else None
    if other and other != task.name:
        hint = f"Give --task {other}, or move that file away."
        raise UsageError(f"{path} has the figures of another task, {other}.", hint)


def rows(task: Task, published: Sequence[Published], means: Figures, marks: Mapping[str, str]) -> list[list[str]]:
    """The figures for reading: title, ours, published, difference, whose; a row for each `published` one.

    `marks` are those of LOWER and HIGHER.
    """
    table = []
    for figure in task.figures:
        title, ours = f"{figure.title} {marks[figure.better]}", means.get(figure.name)
        whose = [each for each in published if each.figure == figure.name]
        for number, each in enumerate(whose):
            difference = "-" if ours is None else f"{ours - each.value:+.3f}"
            first = ["", ""] if number else [title, _shown(ours)]
            table.append([*first, f"{each.value:.3f}", difference, each.whose])
        table += [] if whose else _own(title, ours)
        for name, share in SPREAD.items():
            table += _own(f"{figure.title}: {share}", means.get(f"{figure.name}_{name}"))
    for figure in MANNER:
        table += _own(figure.title, means.get(figure.name))
    return table


def _own(title: str, ours: float | None) -> list[list[str]]:
    """The row of a figure that nobody has published; none of one that has not occurred."""
    return [] if ours is None else [[title, _shown(ours), "", "", ""]]


def _jobs(sample: Sample, task: Task) -> list[Job]:
    """The recordings to be answered, unless others have told their words already."""
    pairs = [("input.wav", "output.wav"), *([("clean_input.wav", "clean_output.wav")] if task.clean else [])]
    jobs = [Job(str(sample.folder / heard), sample.folder / said) for heard, said in pairs]
    return [job for job in jobs if Path(job.source).is_file() and not _is_anothers(job)]


def _is_anothers(job: Job) -> bool:
    """Whether there are words that this program has not written."""
    beside = [path for path in job.written(OUTPUT) if path.suffix == ".json"]
    return beside[0].exists() and "personaplex" not in (report_beside(job) or {})


def _essence(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that change from run to run and matter to no comparison."""
    sampling = {name: value for name, value in settings.get("sampling", {}).items() if name != "seed"}
    return {**settings, "sampling": sampling, "batch_size": None}


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
