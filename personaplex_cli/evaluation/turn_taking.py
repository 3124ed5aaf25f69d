"""The rules of Full-Duplex-Bench, in our words, with the oddities of its scripts where figures depend on them.

Times are seconds from the start of the input. Sources: the benchmark's repository at commit d7336bd, and its papers,
arXiv 2503.04721 (version 1.0) and 2507.23159 (version 1.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from personaplex_cli.evaluation.intervals import Interval, common, merged

TURN_SECONDS, TURN_WORDS = 1.0, 3  # who speaks so long, or says more words, takes the turn
FORMAL_SECONDS = 3.0  # speech without a gap that is longer is no backchannel, whatever is said
BACKCHANNEL_WORDS = 2
BIN = 0.2  # seconds: human listeners' backchannels are counted in such bins
NOTHING = 1e-10  # what an empty bin counts
USER_GAP, AGENT_GAP = 0.6, 0.5  # seconds of silence that belong to one stretch of speech


@dataclass(frozen=True)
class Spoken:
    """A word and when it is spoken; the recogniser may not have known its end."""

    text: str
    start: float
    end: float | None


def takes_turn(words: Sequence[Spoken]) -> bool:
    """Whether so much is said that it is a turn. Without an end the last word counts from its start."""
    if not words:
        return False
    last = words[-1]
    seconds = (last.start if last.end is None else last.end) - words[0].start
    return seconds >= TURN_SECONDS or len(words) > TURN_WORDS


def latency(starts: float, user_ends: float) -> float:
    """From the end of the user's turn to the start of the answer; who is early is not late."""
    return max(0.0, starts - user_ends)


@dataclass(frozen=True)
class Listening:
    """What a listener's sounds are: the short ones up to the first long one, and whether the turn was taken.

    The benchmark's script keeps the verdict on the stretch that it looked at last; `any_takes_turn` is that on all.
    """

    short: list[Interval]
    takes_turn: bool
    any_takes_turn: bool


def listening(speech: Sequence[Interval], words: Sequence[Spoken]) -> Listening:
    """Tell backchannels from turns in what is said while the user speaks."""
    short: list[Interval] = []
    verdicts = [False]
    for start, end in speech:
        if end - start > FORMAL_SECONDS:
            verdicts.append(True)
            break
        said = sum(_sounds_in(word, start, end) for word in words)
        verdicts.append(said > BACKCHANNEL_WORDS or end - start >= TURN_SECONDS)
        short.append((start, end))
    return Listening(short, verdicts[-1], any(verdicts))


def divergence(short: Sequence[Interval], seconds: float, human: Sequence[float] | None) -> float | None:
    """How far the times of backchannels are from those of human listeners: the Jensen-Shannon distance, 0 to 0.83.

    It is a distance (a root) with natural logarithms. `human` is a distribution over bins of the same recording; it is
    stretched to our number of bins. 1 without any backchannel; None, then too, if it is not known how people listen.
    """
    if human is None:
        return None
    if not short:
        return 1.0
    from scipy.spatial.distance import jensenshannon

    counts = np.full(int(seconds / BIN) + 1, NOTHING)
    for start, end in short:
        counts[int(start / BIN) : int(end / BIN) + 1] += 1
    places, known = np.linspace(0, 1, len(counts)), np.linspace(0, 1, len(human))
    return float(jensenshannon(counts, np.interp(places, known, human)))


def stops(user: Sequence[Interval], agent: Sequence[Interval]) -> list[Interval]:
    """Where the agent goes on while the user speaks (version 1.5); of those that end together the shortest.

    Takes the speech of both as it was found. Times are rounded to milliseconds, as in the benchmark's files.
    """
    user, agent = merged(user, USER_GAP), merged(agent, AGENT_GAP)
    shortest = {_milliseconds(end): (start, end) for start, end in common(user, agent)}
    return [_rounded(each) for _, each in sorted(shortest.items())]


def responses(user: Sequence[Interval], agent: Sequence[Interval]) -> list[Interval]:
    """From the end of what the user says to the agent's next start (version 1.5); of those that end together the
    shortest. Takes the speech of both as it was found; rounded as `stops`.
    """
    starts = [start for start, _ in merged(agent, AGENT_GAP)]
    shortest: dict[int, Interval] = {}
    for _, end in merged(user, USER_GAP):
        following = next((start for start in starts if start > end), None)
        if following is not None:
            shortest[_milliseconds(following)] = (end, following)
    return [_rounded(each) for _, each in sorted(shortest.items())]


def _sounds_in(word: Spoken, start: float, end: float) -> bool:
    if word.end is None:  # the script leaves such words out, but for one that begins as the speech ends
        return word.start == end
    return word.start <= end and (word.start >= start or word.end > start)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _rounded(interval: Interval) -> Interval:
    start, end = interval
    return round(start, 3), round(end, 3)
