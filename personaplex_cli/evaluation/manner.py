"""How the agent talks, in figures of our own: how much, over whom, how late, how often it begins in vain."""

from collections.abc import Sequence
from math import inf

from personaplex_cli.evaluation.intervals import Interval, between, common, merged, total
from personaplex_cli.evaluation.turn_taking import AGENT_GAP, USER_GAP, Spoken

FALSE_START = 1.0  # seconds; who begins and stops so soon has begun in vain
LEAST_SPEECH = 1.0  # seconds, of which words a minute mean something


def manner(
    user: Sequence[Interval], agent: Sequence[Interval], words: Sequence[Spoken], seconds: float
) -> dict[str, float | None]:
    """Figures of a recording of so many seconds, from the speech of both sides and the agent's words.

    None is a figure of what did not occur, such as words a minute of an agent who hardly speaks.
    """
    user, agent = merged(user, USER_GAP), merged(agent, AGENT_GAP)
    told = [(words[0].start, words[-1].end or seconds)] if words else []  # others may tell the last words only
    spoken = total(common(agent, told))
    silence = between(user, seconds)
    waits = [_wait(end, user, agent, seconds) for _, end in user]
    return {
        "speaking_share": _ratio(total(agent), seconds),
        "overlap_share": _ratio(total(common(user, agent)), seconds),
        "longest_wait": max(waits, default=None),
        "false_starts_a_minute": _ratio(60 * len(_false_starts(silence, user, agent)), total(silence)),
        "words_a_minute": 60 * len(words) / spoken if spoken >= LEAST_SPEECH else None,
    }


def _wait(user_ends: float, user: Sequence[Interval], agent: Sequence[Interval], seconds: float) -> float:
    """Seconds of silence after a user's turn: until anybody speaks, or the recording ends."""
    if any(start <= user_ends < end for start, end in agent):
        return 0.0
    return (
        min((start for start, _ in (*user, *agent) if start > user_ends), default=max(seconds, user_ends)) - user_ends
    )


def _false_starts(silence: Sequence[Interval], user: Sequence[Interval], agent: Sequence[Interval]) -> list[Interval]:
    """What the agent begins while the user is silent, and breaks off: it is the user who speaks next."""
    users, agents = ([start for start, _ in side] for side in (user, agent))
    return [
        (start, end)
        for start, end in agent
        if end - start < FALSE_START
        and any(first <= start < last for first, last in silence)
        and min((each for each in users if each > start), default=inf)
        < min((each for each in agents if each > start), default=inf)
    ]


def _ratio(amount: float, of: float) -> float | None:
    return amount / of if of > 0 else None
