"""A sound card made of numbers, in place of the module sounddevice: it drives the real callback, without sleeping.

Time passes when the sound card looks at its clock, which it does when the next frame is not there yet: that calls the
callback with the next block of the microphone's sound. So tests run in one thread, deterministic, without waiting.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from personaplex_cli.audio.soundcard import DEFAULT_DEVICES, WATCHDOG_SECONDS, SoundCard
from personaplex_cli.events import Event, Glitch, Note, Notice, Phase, State
from personaplex_cli.options import SoundCardOptions
from personaplex_cli.samples import SAMPLE_RATE, Samples

FLAGS = ("input_underflow", "input_overflow", "output_underflow", "output_overflow", "priming_output")


class PortAudioError(Exception):
    pass


class Flags(SimpleNamespace):
    """What went wrong before a callback, by PortAudio's names."""

    def __init__(self, *names: str) -> None:
        super().__init__(**{name: name in names for name in FLAGS})

    def __bool__(self) -> bool:
        return any(vars(self).values())


def device(name: str, inputs: int = 1, outputs: int = 1, rate: int = 48_000) -> dict[str, Any]:
    return {
        "name": name,
        "hostapi": 0,
        "max_input_channels": inputs,
        "max_output_channels": outputs,
        "default_samplerate": float(rate),
    }


@dataclass
class FakeCard:
    """`microphone` [n] is heard, at whatever rate the card runs, then `at_end` is called; `blocks` are the sizes that
    the callback is called with, over and over."""

    microphone: Samples = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    blocks: tuple[int, ...] = (480,)
    listed: list[dict[str, Any]] = field(default_factory=lambda: [device("Fake")])
    rates: tuple[int, ...] = (SAMPLE_RATE,)
    mono: bool = True  # whether it can be opened with one channel
    host_api: str = "Fake API"
    lifetimes: deque[float] = field(default_factory=deque)  # seconds until each opening dies; then they live on
    flags: Callable[[int], Flags] = lambda block: Flags()
    at_end: Callable[[], None] = lambda: None
    at_abort: Callable[[], object] = lambda: None
    feedback: Callable[[Samples], Samples] | None = None  # what gets from the speaker to the microphone

    PortAudioError = PortAudioError
    WasapiSettings = staticmethod(lambda **settings: settings)

    def __post_init__(self) -> None:
        self.opened: list[FakeStream] = []
        self.played: list[Samples] = []
        self.calls = 0
        self.now = 0.0  # seconds on its clock
        self.default = SimpleNamespace(device=(0, len(self.listed) - 1) if self.listed else (-1, -1))
        self.Stream = lambda **settings: FakeStream(self, True, True, settings)
        self.InputStream = lambda **settings: FakeStream(self, True, False, settings)
        self.OutputStream = lambda **settings: FakeStream(self, False, True, settings)

    # What sounddevice offers.

    def query_devices(self, wanted: int | str | None = None, kind: str | None = None) -> Any:
        listed = [{**found, "index": index} for index, found in enumerate(self.listed)]
        if kind is None:
            return listed
        usable = [found for found in listed if found[f"max_{kind}_channels"]]
        if isinstance(wanted, str):
            matches = [found for found in usable if wanted.lower() in found["name"].lower()]
            if len(matches) == 1:
                return matches[0]
            lines = [f"[{found['index']}] {found['name']}" for found in matches]
            raise ValueError("\n".join([f"Multiple or no {kind} devices", *lines]))
        index = self.default.device[kind == "output"] if wanted is None else wanted
        if not 0 <= index < len(listed):
            raise PortAudioError(f"Error querying device {index}")
        if listed[index] not in usable:
            raise ValueError(f"Not an {kind} device: {listed[index]['name']!r}")
        return listed[index]

    def query_hostapis(self, index: int) -> dict[str, str]:
        return {"name": self.host_api}

    def _terminate(self) -> None:
        assert not any(stream.running for stream in self.opened), "PortAudio would crash"

    def _initialize(self) -> None:
        pass

    def _exit_handler(self) -> None:
        pass

    # Time.

    @property
    def running(self) -> "list[FakeStream]":
        return [stream for stream in self.opened if stream.running and stream.elapsed < stream.lifetime]

    def clock(self) -> float:
        """In place of SoundCard.clock: the time after the next callback, or when a card without one counts as dead."""
        if not self.pass_time():
            self.now += 1.01 * WATCHDOG_SECONDS
        return self.now

    def pass_time(self) -> bool:
        """Let the card call back once; False if it does not (any more)."""
        if not self.running:
            return False
        stream = min(self.running, key=lambda stream: stream.elapsed)
        count = self.blocks[self.calls % len(self.blocks)]
        if stream.hears and not len(self.microphone):
            self.at_end()
            return False
        self.calls += 1
        stream.call_back(min(count, len(self.microphone)) if stream.hears else count)
        return True


class FakeStream:
    def __init__(self, card: FakeCard, hears: bool, speaks: bool, settings: dict[str, Any]) -> None:
        print_to_stderr("Expression 'paInvalidSampleRate' failed in 'src/hostapi/alsa/pa_linux_alsa.c'")
        if hears and speaks:  # one value is for both directions
            for name in ("device", "channels", "extra_settings"):
                value = settings[name]
                settings[name] = value if isinstance(value, tuple) else (value, value)
        self.card, self.hears, self.speaks, self.settings = card, hears, speaks, settings
        self.samplerate, self.channels = float(settings["samplerate"]), settings["channels"]
        if settings["samplerate"] not in card.rates:
            raise PortAudioError("Invalid sample rate", -9997)
        if not card.mono and self.channels in (1, (1, 1)):
            raise PortAudioError("Invalid number of channels", -9998)
        self.running = False
        self.elapsed = 0.0
        self.lifetime = card.lifetimes.popleft() if card.lifetimes else float("inf")
        card.opened.append(self)

    def start(self) -> None:
        self.running = True

    def abort(self) -> None:
        print_to_stderr("ALSA lib pcm.c: File descriptor in bad state")
        self.card.at_abort()

    def close(self) -> None:
        self.running = False

    def stop(self) -> None:
        raise AssertionError("stop() never returns when a device is gone")

    def call_back(self, count: int) -> None:
        card = self.card
        inputs, outputs = self.channels if isinstance(self.channels, tuple) else (self.channels, self.channels)
        heard, card.microphone = card.microphone[:count], card.microphone[count:] if self.hears else card.microphone
        indata = np.repeat(heard[:, np.newaxis], inputs, axis=1)
        outdata = np.full((count, outputs), np.nan, dtype=np.float32)
        time = SimpleNamespace(currentTime=1.0, inputBufferAdcTime=0.98, outputBufferDacTime=1.03)
        sides = ([indata] if self.hears else []) + ([outdata] if self.speaks else [])
        if self.hears and card.feedback is not None:
            indata += card.feedback(indata[:, 0])[:, np.newaxis]
        self.settings["callback"](*sides, count, time, card.flags(card.calls))
        if self.speaks:
            assert (outdata == outdata[:, :1]).all(), "the same sound on every channel, and on all of it"
            card.played.append(outdata[:, 0])
        indata.fill(np.nan)  # PortAudio's buffers are its own again
        self.elapsed += count / self.samplerate


def frames(card: SoundCard) -> Iterator[Samples]:
    """What the card hears, one frame after the other, without waiting in between."""
    return (frame for frame in card.frames(lambda: None) if frame is not None)


def print_to_stderr(text: str) -> None:
    """As C libraries do, past Python."""
    os.write(2, f"{text}\n".encode())


def plug_in(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> FakeCard:
    """Make it the machine's only sound card."""
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    monkeypatch.setattr(SoundCard, "clock", staticmethod(card.clock))
    return card


def speech(seconds: float, rate: int = SAMPLE_RATE) -> Samples:
    """A tone that swells and fades, never quite silent."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * (1.1 + np.sin(2 * np.pi * time)) / 2.1 * np.sin(2 * np.pi * 300 * time)).astype(np.float32)


def talk(
    fake: FakeCard,
    answer: Callable[[Samples], Samples | None] = lambda heard: heard,
    options: SoundCardOptions = DEFAULT_DEVICES,
) -> tuple[list[Samples], list[Event]]:
    """A whole conversation, until the microphone's sound has ended: the frames that were heard, the events."""
    heard: list[Samples] = []
    events: list[Event] = []
    with SoundCard(options, events.append) as card:
        fake.at_end = card.close
        for frame in frames(card):
            heard.append(frame)
            reply = answer(frame)
            if reply is not None:
                card.play(reply)
    return heard, events


def glitches(events: list[Event], kind: str) -> int:
    return max((event.total for event in events if isinstance(event, Glitch) and event.kind == kind), default=0)


def notes(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note | Notice))


def states(events: list[Event]) -> list[Phase]:
    return [event.name for event in events if isinstance(event, State)]
