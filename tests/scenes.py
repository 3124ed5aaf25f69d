"""Scripted conversations for tests of the panel: events, and when they come, in seconds."""

import re
from collections.abc import Iterator

from personaplex_cli.events import (
    Began,
    Downloading,
    Event,
    Favourites,
    Glitch,
    Hushed,
    Latency,
    Muted,
    Network,
    Note,
    Phase,
    State,
    Step,
    Timings,
)
from personaplex_cli.screen.drawing import View

BEGAN = Began("teacher", "NATF2", "personaplex-7b-v1", "cuda:0", "bf16", 42, 142, 3000)
GREETING = "Hello, what shall we talk about?"
ANSWER = "The sky is blue since air scatters"


def loading() -> Iterator[tuple[float, Event]]:
    yield 0.0, State(Phase.DOWNLOADING, "nvidia/personaplex-7b-v1")
    for second in range(1, 9):
        yield float(second), Downloading(second * 1_000_000_000, 17_000_000_000)
    yield 8.0, Note("Kept in your Hugging Face cache.")


def talking() -> Iterator[tuple[float, Event]]:
    """Ten seconds: the agent greets, the user answers, the agent begins and the user speaks into its words."""
    yield 0.0, State(Phase.LOADING, "personaplex-7b-v1")
    yield 9.0, State(Phase.PRIMING)
    yield 9.5, BEGAN
    yield 9.5, State(Phase.LIVE)
    words = dict(zip(range(0, 24, 4), re.findall(r"\S+", GREETING), strict=True))
    words |= dict(zip(range(92, 120, 4), re.findall(r"\S+", ANSWER), strict=True))
    for index in range(125):
        spoken = any(near in words for near in range(index - 4, index + 1))
        heard = -18.0 - index % 5 * 6 if 40 <= index < 70 or index >= 105 else -70.0
        said = -15.0 - index % 7 * 4 if spoken else -90.0
        slow = 50.0 if index == 90 else 0.0
        yield 9.5 + index * 0.08, Latency(11.0, 3.0, 40.0, 13.0)
        yield (
            9.5 + index * 0.08,
            Step(index, f" {words[index]}" if index in words else "", heard, said, Timings(5.0, 38.0 + slow, 7.0)),
        )
    yield 19.5, Glitch("underrun", 2, "the cushion grew to 60 ms")


def elsewhere(server_step: float | None = 31.0) -> Iterator[tuple[float, Event]]:
    """Two seconds with a server that reports its steps, or does not."""
    yield 0.0, State(Phase.CONNECTING, "gpu.example.org:8998")
    yield 0.2, State(Phase.WARMING_UP, "gpu.example.org:8998")
    yield 0.5, Began("teacher", "NATF2", "personaplex-7b-v1", "gpu.example.org:8998", "bf16", 42, 142, 3000)
    yield 0.5, State(Phase.LIVE)
    for index in range(25):
        now = 0.5 + index * 0.08
        if index % 12 == 1:
            yield now, Network(24.0, server_step)
        yield now, Latency(11.0, 0.0, 40.0, 13.0)
        yield now, Step(index, " Hello" if index == 3 else "", -30.0 - index, -20.0, None)


def elsewhere_without_steps() -> Iterator[tuple[float, Event]]:
    yield from elsewhere(None)


def disconnected() -> Iterator[tuple[float, Event]]:
    yield from elsewhere()
    yield 3.0, Glitch("unsent", 3, "the network is too slow")
    yield 3.0, State(Phase.DISCONNECTED, "trying again in 4 s")
    yield 3.0, Note("Reconnecting in 4 s: gpu.example.org:8998 has been silent for 10 s.")
    yield 4.0, Hushed(False)


def connecting() -> Iterator[tuple[float, Event]]:
    yield 0.0, State(Phase.CONNECTING, "gpu.example.org:8998")
    yield 1.0, State(Phase.WAITING, "at gpu.example.org:8998, 2 before you")
    yield 3.0, Muted(False)


def switched() -> Iterator[tuple[float, Event]]:
    """After a key the chef talks."""
    yield 0.0, Favourites({"1": "teacher, NATF2", "2": "chef, NATM3", "4": "astronaut, VARF3"})
    yield from talking()
    yield 20.0, Began("chef", "NATM3", "personaplex-7b-v1", "cuda:0", "bf16", 42, 156, 3000)
    yield 20.1, State(Phase.LIVE)
    for index in range(30):
        yield 20.1 + index * 0.08, Step(index, " Welcome" if index == 9 else "", -70.0, -20.0 - index % 5, None)


def silenced() -> Iterator[tuple[float, Event]]:
    yield from talking()
    yield 20.0, Muted(True)
    yield 20.0, Hushed(True)
    yield 20.0, Note("On loudspeakers the agent hears itself: use headphones or --echo-cancel, whichever is at hand.")


SCENES = {
    "loading": (loading, View()),
    "live": (talking, View()),
    "details": (talking, View(details=True)),
    "help": (talking, View(help=True)),
    "switched": (switched, View()),
    "switched-help": (switched, View(help=True)),
    "silenced": (silenced, View(verbose=True)),
    "connecting": (connecting, View()),
    "elsewhere": (elsewhere, View(details=True)),
    "elsewhere-without-steps": (elsewhere_without_steps, View()),
    "disconnected": (disconnected, View()),
}
