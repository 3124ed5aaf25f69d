"""The program of `chat` held on a fake card, without a screen: what it said, and what is done to it on the way."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from fakecard import FakeCard

from personaplex_cli.character import Character
from personaplex_cli.conversation import Engine
from personaplex_cli.events import Event, Listener, Phase, State, Step
from personaplex_cli.options import LiveSoundCardOptions
from personaplex_cli.programs.chat import Chat

NO_ONE: Mapping[str, Character] = MappingProxyType({})


class Nothing:
    """A screen that nobody looks at and a keyboard that nobody touches."""

    def show(self, event: Event) -> None: ...

    def press(self, key: str) -> bool:
        return False

    def refresh(self, now: float) -> None: ...

    def poll(self, seconds: float) -> str | None:
        time.sleep(0.001)
        return None


class Held:
    """A chat until the microphone's sound has ended; `at` says what happens at which step, `then` at which state.

    `start` is given the listener, and returns the engine.
    """

    def __init__(
        self,
        card: FakeCard,
        start: Callable[[Listener], Engine],
        character: Character,
        record: Path | None = None,
        favourites: Mapping[str, Character] = NO_ONE,
        asr: str | None = None,
    ) -> None:
        self.events: list[Event] = []
        self.at: dict[int, Callable[[], None]] = {}
        self.then: dict[Phase, Callable[[], None]] = {}
        options = LiveSoundCardOptions()
        self.chat = Chat(lambda: start(self._listen), character, options, record, self._listen, favourites, asr)
        self._steps = 0
        card.at_end = self.chat.stop

    def run(self) -> Self:
        self.chat.run(Nothing(), Nothing())
        while not self.chat.end():
            pass
        return self

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def states(self) -> list[Phase]:
        return [state.name for state in self.of(State)]

    def _listen(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Step):
            self._steps += 1
            self.at.get(self._steps, lambda: None)()
        elif isinstance(event, State):
            self.then.get(event.name, lambda: None)()
