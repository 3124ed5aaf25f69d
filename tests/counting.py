"""An engine that holds two conversations at once, and a server of it: a fake of a few lines."""

import time
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pytest

from personaplex_cli.character import Character
from personaplex_cli.conversation import Reply
from personaplex_cli.events import Began, Event, Phase, State, Timings
from personaplex_cli.samples import FRAME, Samples
from personaplex_cli.server import admission, rounds
from personaplex_cli.server.app import App


class CountingEngine:
    """Answers every frame of its n-th conversation with samples of n/100."""

    slots = 2

    def __init__(self) -> None:
        self._begun = 0
        self._waiting: dict[int, Character] = {}
        self._numbers: dict[int, int] = {}

    def begin(self, slot: int, character: Character) -> None:
        self._waiting[slot] = character

    def prefill(self) -> Iterable[tuple[int, Event | Exception]] | None:
        if not self._waiting:
            return None
        slot, who = self._waiting.popitem()
        self._begun += 1
        self._numbers[slot] = self._begun
        began = Began(who.persona, who.voice, "fake", "cpu", "none", who.sampling.seed, 1, 3000)
        return [(slot, State(Phase.PRIMING)), (slot, began)]

    def step(self, frames: Mapping[int, Samples], silent: Collection[int] = ()) -> Mapping[int, Reply | Exception]:
        time.sleep(0.005)
        return {
            slot: Reply(np.full(FRAME, self._numbers[slot] / 100, dtype=np.float32), "", timings=Timings(1, 2, 3))
            for slot in frames
        }

    def end(self, slot: int) -> None:
        self._waiting.pop(slot, None)

    def close(self) -> None: ...


class FakeApp(App):
    def _start(self) -> CountingEngine:
        return CountingEngine()


def at_any_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Admit whoever finds a slot, at once, however slow this machine is."""
    monkeypatch.setattr(rounds, "MAX_ROUND_MS", float("inf"))
    monkeypatch.setattr(admission, "JOIN_SECONDS", 0.0)


def number(sound: bytes) -> set[int]:
    """Of the conversations that this was said in."""
    return {round(100 * each / 32768) for each in set(np.frombuffer(sound, "<i2").tolist())}
