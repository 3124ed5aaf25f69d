"""What `run` has to do: which recordings, where each answer goes, and what must not be overwritten."""

import glob
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from personaplex_cli.audio.recording import STDIN, can_be_read_again, shown
from personaplex_cli.errors import PersonaplexError, UsageError
from personaplex_cli.files import check_writable
from personaplex_cli.options import OutputOptions
from personaplex_cli.samples import SAMPLE_RATE, SOUND_SUFFIXES, Samples, frames_for

STDOUT = "-"
MAX_LIST_BYTES = 100_000_000  # of a list of names
RESULTS = "results.jsonl"  # in the output folder: what came of each recording, a line for each


@dataclass(frozen=True)
class Job:
    """One recording and where its answer goes; None is standard output. `named` if the user named that very file."""

    source: str
    target: Path | None
    named: bool = field(default=False, compare=False)

    def written(self, output: OutputOptions) -> tuple[Path, ...]:
        """Every file that is written, the wav last: where it is, everything is."""
        if self.target is None:
            return ()
        wanted = {".json": output.transcript, ".srt": output.srt, ".md": output.md}
        return (*(self.target.with_suffix(suffix) for suffix, is_wanted in wanted.items() if is_wanted), self.target)


@dataclass
class Work:
    """Jobs that can be done, in order, those that failed and those that were `done` before.

    `results` is the file in which all are noted, if any; `count` is how many there are, `finished` how many of them are
    answered now.
    """

    todo: list["Ready"]
    results: Path | None
    count: int
    failures: list[tuple[str, PersonaplexError]] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    finished: int = 0

    @property
    def kept(self) -> tuple[str, ...]:
        """What to say when the user stops the run: a sentence, or none."""
        return (f"Kept: {self.finished} of {self.count} answers.",) if self.finished else ()


@dataclass(frozen=True)
class Ready:
    """A job whose recording was read once: how long the conversation is, and the sound if it cannot be read again."""

    job: Job
    frames: int  # the tail's included
    sound: Samples | None
    remarks: tuple[str, ...]


def plan(
    inputs: Sequence[str], out: str | None, output: OutputOptions = OutputOptions(), used: Iterable[str] = ()
) -> list[Job]:
    """Where each answer goes. `out` is a wav file, a folder (needed for several inputs) or `-`.

    An input is a recording, a folder with recordings, at any depth, or a pattern. Without `out` `question.wav` is
    answered in `question.answer.wav`, here; standard input on standard output. `used` are other files that are read.
    Raises UsageError where answers would overwrite each other, an input or what already exists.
    """
    if inputs.count(STDIN) > 1:
        raise UsageError("Standard input can be read only once.", "Give - once.")
    found = [each for given in inputs for each in _recordings(given, out)]
    if not found:
        raise UsageError(
            "Missing argument INPUT: there is nothing to answer.", "Name recordings, folders or --list FILE."
        )
    jobs, folder = _targets(found, out, any(os.path.isdir(given) for given in inputs))
    _refuse_clashes(jobs, out)
    _refuse_overwriting_inputs(jobs, output, folder, used)
    if not output.overwrite:
        _refuse_overwriting_answers(jobs, output)
    return jobs


def read_list(path: str) -> list[str]:
    """The names in a file, one a line; `-` is standard input. Raises UsageError if it cannot be read."""
    try:
        with nullcontext(sys.stdin.buffer) if path == STDIN and sys.stdin else open(path, "rb") as file:
            content = file.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"The list {shown(path)} cannot be read ({error.strerror}).", "Check the path.") from error
    if len(content) > MAX_LIST_BYTES or b"\0" in content:
        raise UsageError(f"{shown(path)} is no list of names.", "Give --list a text file with one name a line.")
    return [name for name in map(os.fsdecode, content.splitlines()) if name.strip()]


def results_of(jobs: Sequence[Job], out: str | None) -> Path | None:
    """Where the results are noted: in the output folder, if there is one."""
    return None if out in (None, STDOUT) or any(job.named for job in jobs) else Path(str(out)) / RESULTS


def look_at(
    jobs: Sequence[Job],
    out: str | None,
    output: OutputOptions,
    read: Callable[[str, Callable[[str], None]], Samples],
    note: Callable[[str], None],
) -> Work:
    """Read every recording once and see that every output can be written, so that no long run ends in vain.

    One that cannot be done is left out, with a note; with `strict`, and if it is the only one, its error is raised.
    Those whose wav is there are left out if the user wants that.
    """
    if any(job.target is None for job in jobs) and sys.stdout.isatty():
        raise UsageError("Sound cannot be shown on a terminal.", "Give -o FILE, or pipe the output onward.")
    work = Work([], results_of(jobs, out), len(jobs))
    for job in jobs:
        if output.skip_existing and job.target is not None and job.target.is_file():
            work.done.append(job)
            continue
        try:
            for path in job.written(output):
                check_writable(path)
            remarks: list[str] = []
            sound = read(job.source, remarks.append)
        except PersonaplexError as error:
            if output.strict or len(jobs) == 1:
                raise
            work.failures.append((job.source, error))
            note(f"{error} It is skipped.")
            continue
        for remark in remarks:
            note(remark)
        kept = None if can_be_read_again(job.source) else sound
        frames = frames_for(len(sound) + round(output.tail * SAMPLE_RATE))
        work.todo.append(Ready(job, frames, kept, tuple(remarks)))
    if work.done:
        note(f"{len(work.done)} of {len(jobs)} are answered already.")
    return work


def conclude(work: Work) -> None:
    """Raise the end of a run in which some failed: with the exit code of the first one."""
    if not work.failures:
        return
    (_, first), *_ = work.failures
    if work.count == 1:
        raise first
    lines = [f"{shown(source)}: {error}" for source, error in work.failures[:10]]
    more = len(work.failures) - len(lines)
    lines += [f"and {more} more" + (f", all in {work.results}" if work.results else "")] if more else []
    what = f"{len(work.failures)} of {work.count} recordings were not answered. " + " | ".join(lines)
    raise type(first)(what, "The others are done. Fix these, then run the same again with --skip-existing.")


def _recordings(given: str, out: str | None) -> Iterator[tuple[str, Path]]:
    """Each recording behind an input, and its place below the output folder."""
    if given == STDIN:
        yield given, Path("stdin")
    elif os.path.isdir(given):
        inside = sorted(_inside(given, out))
        if not inside:
            raise UsageError(f"There are no recordings in {shown(given)}.", f"Known are {', '.join(SOUND_SUFFIXES)}.")
        for path in inside:
            yield path, Path(os.path.relpath(path, given))
    elif glob.has_magic(given) and not os.path.lexists(given):
        matching = sorted(path for path in glob.glob(given, recursive=True) if not os.path.isdir(path))
        if not matching:
            raise UsageError(f"No file matches {shown(given)}.", "Check the pattern.")
        yield from ((path, Path(Path(path).name)) for path in matching)
    else:
        yield given, Path(Path(given).name or "sound")


def _inside(folder: str, out: str | None) -> Iterator[str]:
    """All recordings in a folder, but for hidden ones and our own answers in an output folder that lies in it."""
    answers = os.path.realpath(out) if out not in (None, STDOUT) else None
    for place, folders, names in os.walk(folder):
        kept = [each for each in folders if not each.startswith(".")]
        folders[:] = [each for each in kept if os.path.realpath(os.path.join(place, each)) != answers]
        for name in names:
            if name.lower().endswith(SOUND_SUFFIXES) and not name.startswith("."):
                yield os.path.join(place, name)


def _targets(found: Sequence[tuple[str, Path]], out: str | None, has_folder: bool) -> tuple[list[Job], Path | None]:
    if out is None:
        if has_folder:
            raise UsageError("Answers to a folder need an output folder.", "Give -o FOLDER.")
        return [
            Job(source, None if source == STDIN else Path(f"{place.stem}.answer.wav")) for source, place in found
        ], None
    if out == STDOUT:
        return [Job(source, None) for source, _ in found], None
    if os.path.exists(out) and not os.path.isdir(out) and not os.path.isfile(out):
        raise UsageError(f"{shown(out)} is a device or a pipe, not a file.", f"Write: -o - > {shlex.quote(out)}")
    is_folder = os.path.isdir(out) or out.endswith(("/", "\\")) or len(found) > 1 or has_folder or not Path(out).suffix
    if is_folder:
        folder = Path(out)
        return [Job(source, folder / place.with_name(f"{place.stem}.wav")) for source, place in found], folder
    return [Job(found[0][0], Path(out), named=True)], None


def _refuse_clashes(jobs: Sequence[Job], out: str | None) -> None:
    targets = [job.target for job in jobs if job.target is not None]
    if len(jobs) > 1 and len(targets) < len(jobs):
        raise UsageError("Several answers do not fit in one output.", "Give -o FOLDER.")
    if len(jobs) > 1 and out is not None and out.lower().endswith(".wav"):
        raise UsageError(f"Several inputs cannot all be answered in {shown(out)}.", "Give -o FOLDER.")
    seen: dict[str, Path] = {}
    same = _Sameness()
    for target in targets:
        if target.suffix.lower() != ".wav":
            raise UsageError(f"{shown(target)} is not the name of a wav file.", "Answers are written as .wav.")
        # Compared without its suffix: what lies beside the wav would clash as well.
        if (other := seen.setdefault(same.key(target.with_suffix("")), target)) is not target:
            names = shown(target) if other == target else f"{shown(other)} or {shown(target)}, which are one file here"
            hint = "Rename one, or name their folder: what lies in it keeps its place."
            raise UsageError(f"Two inputs would both be answered in {names}.", hint)


def _refuse_overwriting_inputs(
    jobs: Sequence[Job], output: OutputOptions, folder: Path | None, used: Iterable[str]
) -> None:
    same = _Sameness()
    read = {key for job in jobs if job.source != STDIN for key in same.keys(Path(job.source))}
    read |= {key for each in used for key in same.keys(Path(os.path.expanduser(each)))}
    written = [path for job in jobs for path in job.written(output)] + ([folder / RESULTS] if folder else [])
    for path in written:
        if not read.isdisjoint(same.keys(path)):
            what = "the answer" if path.suffix.lower() == ".wav" else "what is written beside the answer"
            raise UsageError(f"{shown(path)} is an input: {what} would overwrite it.", "Choose another -o.")


def _refuse_overwriting_answers(jobs: Sequence[Job], output: OutputOptions) -> None:
    """Only a wav that the user named is replaced unasked, together with what lies beside it."""
    for job in jobs:
        is_there = job.target is not None and os.path.lexists(job.target)
        if output.skip_existing or (job.named and is_there):
            continue  # what lies beside a missing wav is what a stopped run has left
        there = next((path for path in reversed(job.written(output)) if os.path.lexists(path)), None)
        if there is not None:
            hint = "Give --skip-existing to answer only what is missing, or --overwrite."
            raise UsageError(f"{shown(there)} already exists.", hint)


class _Sameness:
    """Whether two paths are one file: through links, and where the file system does not mind case or accents' form."""

    def __init__(self) -> None:
        self._folders: dict[str, bool] = {}

    def key(self, path: Path) -> str:
        """The place of a path that may not exist."""
        real = os.path.realpath(path)
        return normalize("NFC", real).casefold() if self._minds_no_case(os.path.dirname(real)) else real

    def keys(self, path: Path) -> set[object]:
        """The place, and the file itself if it is there."""
        try:
            about = os.stat(path)
        except OSError:
            return {self.key(path)}
        return {self.key(path), (about.st_dev, about.st_ino)}

    def _minds_no_case(self, folder: str) -> bool:
        if folder not in self._folders:
            there = [each for each in (Path(folder), *Path(folder).parents) if each.exists()]
            cased = next((each for each in there if each.name.swapcase() != each.name), None)
            try:
                other = cased and cased.with_name(cased.name.swapcase())
                self._folders[folder] = bool(cased and other and os.path.samefile(cased, other))
            except OSError:
                self._folders[folder] = False
        return self._folders[folder]
