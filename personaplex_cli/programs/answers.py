"""The answer to one recording: the conversation's user, and what is written of what the agent says."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from personaplex_cli import __version__
from personaplex_cli.audio.recording import Recording, read_recording, shown, write_wav
from personaplex_cli.errors import NetworkError, OutputError, PersonaplexError
from personaplex_cli.events import Began, Event, Listener, Note, Started, Step, Timings
from personaplex_cli.files import atomic_file
from personaplex_cli.options import OutputOptions
from personaplex_cli.programs.jobs import STDOUT, Job, Ready
from personaplex_cli.recogniser import Recogniser
from personaplex_cli.samples import FRAME_SECONDS, SAMPLE_RATE
from personaplex_cli.transcript import AGENT, USER, Transcript, as_bytes, chunks, clock, one_line


@dataclass(frozen=True)
class Result:
    """What came of a job: the report of its answer, or the error in its place.

    `turns` are who spoke and what, in order. `cut_short` says that the recording ends with the user's last word.
    """

    job: Job
    report: dict[str, Any] | None = None
    turns: tuple[tuple[str, str], ...] = ()
    error: Exception | None = None
    cut_short: bool = False


class Answer:
    """One job's conversation. Making it reads the recording, `write` writes the answer; both may take a while, and may
    be called from other threads than `hear`.

    Raises what `read_recording` raises.
    """

    def __init__(self, ready: Ready, output: OutputOptions, slots: int, recogniser: Recogniser | None) -> None:
        """`slots` conversations are held at once: that is noted in the report."""
        self.job = ready.job
        self._remarks = list(ready.remarks)
        self._output = output
        self._slots = slots
        sound = read_recording(ready.job.source, output.channel) if ready.sound is None else ready.sound
        self.audio = Recording(sound, output.tail)
        self._transcript = Transcript()
        self._user_words = recogniser.submit([sound]) if recogniser else None
        self._timings: list[Timings] = []
        self._persona_until: float | None = None

    def hear(self, event: Event, listen: Listener) -> None:
        """Take what happens in the conversation, and tell it onward."""
        match event:
            case Began():
                listen(event)
                self._began = event
                self._began_at = self._ended_at = time.perf_counter()
                self._warn_of_length(event, listen)
                listen(Started(self.job.source, len(self.audio)))
            case Step():
                # Words belong to the sound that they came with, however long that was under way.
                self._transcript.add(self.audio.answered, event.text)
                self._timings += [event.timings] if event.timings else []
                self._ended_at = time.perf_counter()
                listen(replace(event, source=self.job.source))
            case _:
                listen(event)

    def _warn_of_length(self, began: Began, listen: Listener) -> None:
        """What is older than the model's context is forgotten: first of all who it is."""
        remembered = began.context - began.prompt_frames
        if began.context and len(self.audio) > remembered:
            self._persona_until = round(max(0, remembered) * FRAME_SECONDS, 2)
            name = shown(self.job.source)
            remark = (
                f"{name} is longer than the model remembers: after {clock(self._persona_until)} it forgets its persona."
            )
            self._remarks.append(remark)
            listen(Note(remark))

    def write(self) -> Result:
        """Write the answer, once the conversation has ended.

        Raises NetworkError if it is not whole, AudioError or OutputError if it cannot be written, PersonaplexError if
        the user's words cannot be written down.
        """
        if len(self.audio.answer) < len(self.audio.heard):
            what = f"The answer to {shown(self.job.source)} is incomplete."
            raise NetworkError(what, "Check the server, and try again.")
        self._add_user_words()
        report = self._report()
        channels = (self.audio.heard, self.audio.answer) if self._output.stereo else (self.audio.answer,)
        if self.job.target is None:
            _pour(*channels)
        else:
            *beside, wav = self.job.written(self._output)
            for path in beside:
                with atomic_file(path) as file:
                    file.write(as_bytes(self._text(path, report)))
            # The wav comes last: where it is, everything is.
            with atomic_file(wav) as file:
                write_wav(file, *channels)
        turns = tuple((turn.speaker, turn.text) for turn in self._transcript.turns())
        return Result(self.job, report, turns, cut_short=self.audio.ends_speaking)

    def _add_user_words(self) -> None:
        """Wait for them: they were asked for when the recording was read."""
        try:
            words = self._user_words.result() if self._user_words else []
        except PersonaplexError as error:
            what = f"The words of {shown(self.job.source)} cannot be written down: {error}"
            raise PersonaplexError(what, "Choose another model for --asr, or leave it out.") from error
        for word in words:
            first, after = word.frames
            self._transcript.add(first, f" {word.word}", USER, after)

    def _report(self) -> dict[str, Any]:
        """What is known of the answer. Its speed is that of its own time, from the first frame to the last."""
        took = max(self._ended_at - self._began_at, 1e-9)
        words = self._transcript.words()
        said = [word for word in words if word.speaker == AGENT]
        return {
            "text": self._transcript.text,
            "words": [asdict(word) for word in words],
            **({"chunks": chunks(said)} if self._output.chunks else {}),
            "input": self.job.source,
            "output": STDOUT if self.job.target is None else str(self.job.target),
            "seconds": round(len(self.audio.heard) / SAMPLE_RATE, 3),
            "speed": round(len(self.audio) * FRAME_SECONDS / took, 2),
            "notes": self._remarks,
            "persona_until": self._persona_until,
            "settings": {**self._began.settings, **self._output.settings, "batch_size": self._slots},
            "milliseconds": _percentiles(self._timings),
            "personaplex": __version__,
        }

    def _text(self, path: Path, report: dict[str, Any]) -> str:
        if path.suffix == ".srt":
            return self._transcript.srt()
        if path.suffix == ".md":
            return f"# {one_line(shown(self.job.source))}\n\n{self._transcript.markdown()}\n"
        return json.dumps(report, ensure_ascii=False, indent=1) + "\n"


def _pour(*channels: Any) -> None:
    """Onto standard output. Raises OutputError if that fails, and BrokenPipeError if the reader has heard enough."""
    try:
        write_wav(sys.stdout.buffer, *channels)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"Standard output cannot be written ({error.strerror}).", "Give -o FILE.") from error


def _percentiles(timings: Sequence[Timings]) -> dict[str, dict[str, float]]:
    """p50 and p95 of each stage and of the whole step, in milliseconds. Nothing is known of those elsewhere."""
    stages = ("encode", "lm", "decode", "total")
    columns = {stage: [getattr(each, stage) for each in timings] for stage in stages if timings}
    return {
        stage: {f"p{share}": round(float(np.percentile(column, share)), 2) for share in (50, 95)}
        for stage, column in columns.items()
    }
