"""The figures of a sample, and of a whole set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from personaplex_cli.audio.recording import read_at_own_rate
from personaplex_cli.evaluation import speech as detector
from personaplex_cli.evaluation.benchmark import Task
from personaplex_cli.evaluation.dataset import Sample
from personaplex_cli.evaluation.intervals import Interval, merged, touches
from personaplex_cli.evaluation.manner import manner
from personaplex_cli.evaluation.turn_taking import (
    USER_GAP,
    Spoken,
    divergence,
    latency,
    listening,
    responses,
    stops,
    takes_turn,
)
from personaplex_cli.samples import Samples

Figures = dict[str, float | None]  # by name; None for what did not occur


@dataclass(frozen=True)
class Scored:
    """What was measured in a sample, and what can be drawn of it, in seconds."""

    name: str
    figures: Figures
    words: Sequence[Spoken]
    window: Interval | None
    user: Sequence[Interval] = ()
    agent: Sequence[Interval] = ()


@dataclass(frozen=True)
class Scorer:
    """Measures samples of a task: `words` finds the agent's words, `human` is what `human_listeners` has read."""

    task: Task
    words: Callable[[Sample], list[Spoken]]
    human: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __call__(self, sample: Sample) -> Scored:
        """Raises UsageError or AudioError for a file of this sample that is missing or wrong."""
        window = sample.window(self.task)
        # Words are only counted where the rules are about speech; others may have told none.
        words = [] if self.task.clean and not sample.has_words else self.words(sample)
        pair = _Pair(sample, "input.wav", "output.wav")
        if self.task.clean and window:
            figures = _overlap(sample, pair, window)
        elif window:
            figures = _turn(self.task, words, window)
        else:
            figures = self._listening(sample, pair, words)
        if not (detector.can_be_found() and (self.task.needs_speech or pair.is_there)):
            return Scored(sample.name, figures, words, window)
        if figures.get("latency") is not None and window:
            figures["sound_latency"] = _sound_latency(self.task, words, window, pair.agent)
        figures |= manner(pair.user, pair.agent, words, pair.seconds)
        return Scored(sample.name, figures, words, window, pair.user, pair.agent)

    def _listening(self, sample: Sample, pair: "_Pair", words: Sequence[Spoken]) -> Figures:
        human = self.human.get(sample.name)
        script = listening(detector.speech_as_by_the_script(pair.said[0]), words)
        true = listening(pair.agent, words)
        return {
            "takes_turn": script.takes_turn,
            "backchannels": len(script.short) / pair.seconds,
            "divergence": divergence(script.short, pair.seconds, human),
            "any_takes_turn": true.any_takes_turn,
            "true_backchannels": len(true.short) / pair.seconds,
            "true_divergence": divergence(true.short, pair.seconds, human),
        }


def summary(scored: Sequence[Scored]) -> Figures:
    """The means over the samples in which a figure occurs, and median and 95th percentile of latencies."""
    names = dict.fromkeys(name for each in scored for name in each.figures)
    means: Figures = {}
    for name in names:
        values = [value for each in scored if (value := each.figures.get(name)) is not None]
        means[name] = float(np.mean(values)) if values else None
        if name.endswith("latency"):
            for suffix, share in (("median", 50), ("p95", 95)):
                means[f"{name}_{suffix}"] = float(np.percentile(values, share)) if values else None
    return means


def _turn(task: Task, words: Sequence[Spoken], window: Interval) -> Figures:
    words = _counted(task, words, window)
    taken = takes_turn(words)
    if task.name == "pause_handling":
        return {"takes_turn": taken}
    return {"takes_turn": taken, "latency": latency(words[0].start, _user_ends(task, window)) if taken else None}


def _counted(task: Task, words: Sequence[Spoken], window: Interval) -> Sequence[Spoken]:
    """Of an interruption only the words after it count, as the benchmark cuts the sound there."""
    return [each for each in words if each.start >= window[1]] if task.name == "user_interruption" else words


def _user_ends(task: Task, window: Interval) -> float:
    return window[1] if task.name == "user_interruption" else window[0]


def _sound_latency(task: Task, words: Sequence[Spoken], window: Interval, agent: Sequence[Interval]) -> float | None:
    """The latency of the speech that the first word belongs to: text may come before its sound."""
    first = _counted(task, words, window)[0]
    heard = (start for start, end in agent if end > first.start)
    return next((latency(start, _user_ends(task, window)) for start in heard), None)


def _overlap(sample: Sample, pair: "_Pair", window: Interval) -> Figures:
    """Means over what concerns the annotated seconds, and over the whole of the undisturbed recording."""
    clean = _Pair(sample, "clean_input.wav", "clean_output.wav")
    disturbance = {round(end, 3) for start, end in merged(pair.user, USER_GAP) if touches((start, end), window)}
    return {
        "stop_latency": _mean(each for each in stops(pair.user, pair.agent) if touches(each, window)),
        "response_latency": _mean(each for each in responses(pair.user, pair.agent) if each[0] in disturbance),
        "clean_response_latency": _mean(responses(clean.user, clean.agent)) if clean.is_there else None,
    }


def _mean(intervals: Iterable[Interval]) -> float | None:
    lengths = [end - start for start, end in intervals]
    return float(np.mean(lengths)) if lengths else None


class _Pair:
    """What was heard and said: read, and searched for speech, when it is asked for."""

    def __init__(self, sample: Sample, heard: str, said: str) -> None:
        self._heard, self._said = sample.folder / heard, sample.folder / said

    @property
    def is_there(self) -> bool:
        return self._heard.is_file() and self._said.is_file()

    @cached_property
    def said(self) -> tuple[Samples, int]:
        return read_at_own_rate(self._said)

    @property
    def seconds(self) -> float:
        return len(self.said[0]) / self.said[1]

    @cached_property
    def user(self) -> list[Interval]:
        return detector.speech(*read_at_own_rate(self._heard))

    @cached_property
    def agent(self) -> list[Interval]:
        return detector.speech(*self.said)
