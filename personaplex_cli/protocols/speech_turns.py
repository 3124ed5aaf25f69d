"""Turns for protocols that have them, made of a talk that has none: by levels and text, frame by frame.

Both may speak at once here, and the model decides by itself when it does. What is made up: when one of them has begun
and ended, so that a client can show and count turns, and stop playing what the user talks into.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from personaplex_cli.events import Step
from personaplex_cli.hush import SPEECH_FRAMES, SPEECH_LEVEL
from personaplex_cli.samples import FRAME_MS, Samples

# Frames. Choices, not measurements.
ONSET = 2  # before the agent's first speech: they are said, too, so that nothing of it is cut
PAUSE = 10  # 0.8 s without speech and text end what the agent says ...
SHORT_PAUSE = 3  # ... or so many, when the other one begins; the same goes for the user's turn
OVER_AGENT = 8  # of the user's speech while the agent talks: a "mhm" is no turn
DROPPED = 12  # most that is dropped of what the agent goes on saying after an interruption, if it does not ...
DROPPED_PAUSE = 2  # ... pause for so many


@dataclass(frozen=True)
class Rules:
    """After so much silence the user's turn is over; when the user begins, the agent's may be."""

    silence_ms: int = 500
    interrupts: bool = True


@dataclass(frozen=True)
class UserBegan:
    frame: int


@dataclass(frozen=True)
class UserEnded:
    frame: int  # the first one that is no part of it


@dataclass(frozen=True)
class AgentBegan:
    pass


@dataclass(frozen=True)
class AgentSaid:
    """A frame between the agent's beginning and end, silent ones included."""

    pcm: Samples
    text: str


@dataclass(frozen=True)
class AgentEnded:
    interrupted: bool


Change = UserBegan | UserEnded | AgentBegan | AgentSaid | AgentEnded


class SpeechTurns:
    """`hear` it each frame; without `rules` the user has no turns."""

    def __init__(self, rules: Rules | None) -> None:
        self.rules = rules
        self.agent_talks = False
        self._user_talks = False
        self._before: deque[Samples] = deque(maxlen=ONSET)  # the agent's last frames outside of its turns
        self._agent_quiet = 0  # frames in a row, as all of these
        self._user_loud = 0
        self._user_quiet = 0
        self._to_drop = 0

    def hear(self, step: Step, pcm: Samples) -> Iterator[Change]:
        """What a frame changes; `pcm` is what the agent said in it."""
        speaks = bool(step.text) or step.said > SPEECH_LEVEL
        self._agent_quiet = 0 if speaks else self._agent_quiet + 1
        if self.rules:
            yield from self._user(step, self.rules)
        else:
            self._user_talks, self._user_loud = False, 0
        if self._to_drop:
            self._to_drop = self._to_drop - 1 if self._agent_quiet < DROPPED_PAUSE else 0
        elif self.agent_talks:
            yield AgentSaid(pcm, step.text)
            if self._agent_quiet >= PAUSE:
                yield self._end(interrupted=False)
        elif speaks:
            if self._user_talks and self._user_quiet >= SHORT_PAUSE:
                yield self._end_user(step)
            self.agent_talks = True
            yield AgentBegan()
            while self._before:
                yield AgentSaid(self._before.popleft(), "")
            yield AgentSaid(pcm, step.text)
        else:
            self._before.append(pcm)

    def interrupt(self) -> AgentEnded:
        """End what the agent says; it does not know and goes on for a moment, which nobody shall hear."""
        self._to_drop = DROPPED
        return self._end(interrupted=True)

    def _user(self, step: Step, rules: Rules) -> Iterator[Change]:
        loud = step.heard > SPEECH_LEVEL
        if self._user_talks:
            self._user_quiet = 0 if loud else self._user_quiet + 1
            if self._user_quiet >= math.ceil(rules.silence_ms / FRAME_MS):
                yield self._end_user(step)
            return
        self._user_loud = self._user_loud + 1 if loud else 0
        over_agent = self.agent_talks and self._agent_quiet < SHORT_PAUSE
        if self._user_loud < (OVER_AGENT if over_agent else SPEECH_FRAMES):
            return
        self._user_talks, self._user_quiet = True, 0
        if self.agent_talks and not over_agent:
            yield self._end(interrupted=False)
        yield UserBegan(step.index + 1 - self._user_loud)
        if self.agent_talks and rules.interrupts:
            yield self.interrupt()

    def _end_user(self, step: Step) -> UserEnded:
        self._user_talks, self._user_loud = False, 0
        return UserEnded(step.index + 1)

    def _end(self, interrupted: bool) -> AgentEnded:
        self.agent_talks = False
        self._before.clear()
        return AgentEnded(interrupted)
