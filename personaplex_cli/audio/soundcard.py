"""The sound card as the `Audio` of a live conversation: the microphone in, the speaker out, both at once.

Two threads meet here. PortAudio's callback hands over what was heard and fetches what is to be played, nothing else.
The thread that iterates `frames()` does the rest: it makes frames, counts losses and reopens a card that stops. Neither
waits for the other.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from time import monotonic
from typing import Any, NamedTuple, Self

import numpy as np

from personaplex_cli.audio.capture import Capture
from personaplex_cli.audio.devices import OpenCard, open_card, quiet_portaudio, rescan
from personaplex_cli.audio.echo import echo_canceller
from personaplex_cli.audio.jitter_buffer import JitterBuffer
from personaplex_cli.audio.resample import Resampler
from personaplex_cli.conversation import Audio, Wakeup
from personaplex_cli.errors import AudioError, PersonaplexError
from personaplex_cli.events import Devices, Glitch, Latency, Listener, Note, Notice, Phase, State, ignore
from personaplex_cli.options import SoundCardOptions
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples, frame_at, frames_for, level

WATCHDOG_SECONDS = 2.0  # without a callback, and the card is taken for dead, whatever PortAudio says
MAX_REOPENINGS = 3  # in a row, before the conversation ends
MAX_BLOCKS = 500  # waiting, from the callback: 10 s in which `frames()` was not iterated
SETTLING_SECONDS = 0.5  # the first blocks of a stream are often flagged
TROUBLE = 3.0  # flagged blocks until the card gets larger buffers; one is forgiven in FORGIVING_SECONDS
FORGIVING_SECONDS = 2.0
NO_SOUND = "The microphone delivers nothing but silence: is it off, or blocked?"
DEFAULT_DEVICES = SoundCardOptions()
TONE_HERTZ, TONE_SECONDS, TONE_PEAK = 440.0, 1.0, 0.1


class Block(NamedTuple):
    """What one call of the callback brought: heard [n, channels] or None, played [n] or None, and how it went."""

    heard: Samples | None
    played: Samples | None
    flags: Any


class SoundCard:
    """Microphone and speaker, from the first call of `frames` until `close`, or the end of the `with` block.

        with SoundCard(LiveSoundCardOptions(), listen) as card:
            for step in converse(engine, card, character): ...

    `muted` may be set at any time: the frames go on, with silence in them. `listen` gets losses and gaps as Glitch, and
    what the user should know as Note and State, from the thread that iterates `frames()`, never from the callback.
    """

    clock = staticmethod(monotonic)  # seconds; looked at whenever the next frame is not there yet

    def __init__(self, options: SoundCardOptions = DEFAULT_DEVICES, listen: Listener = ignore) -> None:
        self.muted = False
        self._options = options
        self._listen = listen
        self._notes: set[str] = set()
        self._totals: Counter[str] = Counter()
        self._opening = threading.Lock()  # held while streams open and close; the callback does not know it
        self._card: OpenCard | None = None
        self._opened = self._closed = False
        self._silent = False  # the microphone, as it was reported last
        self._hung = False  # PortAudio did not return from closing a dead device
        self._quiet = ExitStack()
        self._failure: Exception | None = None
        self._portaudio_latency = "low"
        self._revivals = 0
        # Both are called in the callback, which must not wait: neither takes a lock that a slower thread could hold.
        self._arrived: SimpleQueue[Block] = SimpleQueue()
        self._wake: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End `frames()` and give the devices back. From any thread, any number of times."""
        self._closed = True
        self._wake()
        with self._opening:
            self._release()
            if not self._hung:  # else a thread of PortAudio's is alive, and goes on complaining
                self._quiet.close()

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
        """What the user says from now on, [1920] at a time, until `close()`; None while the next frame is incomplete.

        `wake` is called in the sound callback. The first call opens the card: it raises UsageError for devices that do
        not exist, AudioError for those that cannot be opened. The iterator raises AudioError if the card is gone and
        does not come back, or if the callback failed.
        """
        self._wake = wake
        if self._opened:
            self._begin()
        else:
            self._open()
        return self._frames()

    def play(self, pcm: Samples) -> None:
        """Say [n] samples at 24 kHz. Never waits."""
        self._jitter_buffer.put(self._outward(pcm))

    def latency(self) -> Latency:
        """Where sound spends its time around the engine, as of the last frame."""
        return Latency(
            device_in=1000 * self._device_in,
            queue=1000 * self._late / SAMPLE_RATE,
            cushion=1000 * self._jitter_buffer.depth / self._speaker_rate,
            device_out=1000 * self._device_out,
        )

    # Opening and closing.

    def _open(self) -> None:
        with self._opening:
            if self._closed:
                return
            if not self._opened:
                self._quiet.enter_context(quiet_portaudio())
            self._card = card = open_card(self._options, self._portaudio_latency, self._call_back)
            self._microphone_rate, self._speaker_rate = card.microphone.rate, card.speaker.rate
            self._begin()
            self._opened = True
            card.start()
        self._listen(Devices(str(card.microphone), str(card.speaker)))

    def _begin(self) -> None:
        """Nothing heard, nothing to play: how a conversation begins, and goes on with a card that was reopened."""
        while not self._arrived.empty():
            self._arrived.get()
        self._outward = Resampler(SAMPLE_RATE, self._speaker_rate)
        self._jitter_buffer = JitterBuffer(self._speaker_rate)
        canceller = echo_canceller(self._options)
        self._capture = Capture(
            self._microphone_rate, self._speaker_rate, canceller, self._note, self._options.input_channel
        )
        self._health = StreamHealth()
        self._waiting_since: float | None = None  # when `frames()` first found nothing new, on the clock
        self._device_in = self._device_out = 0.0  # seconds from the microphone to the callback, from it to the speaker
        self._late = 0  # samples that had come after the last frame when it was taken
        self._ignored = 0
        self._reported: Counter[str] = Counter()

    def _reopen(self) -> None:
        self._waiting_since = None
        with self._opening:
            self._release()
            if not self._hung:  # else looking for devices anew would hang as well
                rescan()
        with suppress(PersonaplexError):  # it may come back later; the watchdog goes on
            self._open()

    def _release(self) -> None:
        if self._card is not None:
            self._hung |= not self._card.close()
            self._card = None

    # The callback.

    def _call_back(self, heard: Any, to_play: Any, count: int, time: Any, flags: Any) -> None:
        """PortAudio's thread: copy in, fetch out, wake. Never waits, never raises; a failure ends `frames()`."""
        try:
            played = None
            if heard is not None:
                heard = heard.copy()
                self._device_in = time.currentTime - time.inputBufferAdcTime
            if to_play is not None:
                played = self._jitter_buffer.take(count)
                to_play[:] = played[:, np.newaxis]
                self._device_out = time.outputBufferDacTime - time.currentTime
            if self._arrived.qsize() >= MAX_BLOCKS:
                self._ignored += 1
                return
            self._arrived.put(Block(heard, played, flags))
            self._wake()
        except Exception as failure:
            self._failure = failure
            if to_play is not None:
                to_play.fill(0)

    # The thread that iterates frames().

    def _frames(self) -> Iterator[Samples | None]:
        while not self._closed:
            while not self._arrived.empty():
                self._take_in(self._arrived.get())
            if self._failure is not None:
                raise AudioError("The sound callback failed.", "Please report this.") from self._failure
            if len(self._capture) < FRAME:
                self._watch()
                yield None
            elif not self._closed:
                frame = self._capture.take()
                self._late = len(self._capture)
                self._report_losses()
                yield np.zeros_like(frame) if self.muted else frame

    def _watch(self) -> None:
        """Nothing is there: reopen a card that has not called back for too long."""
        now = self.clock()
        if self._waiting_since is None:
            self._waiting_since = now
        elif now - self._waiting_since > WATCHDOG_SECONDS:
            self._revive()

    def _take_in(self, block: Block) -> None:
        self._waiting_since = None
        self._capture.put(block.heard, block.played)
        if self._capture.silent != self._silent:
            self._silent = not self._silent
            self._listen(Notice(NO_SOUND, self._silent))
        heard = 0.0 if block.heard is None else len(block.heard) / self._microphone_rate  # seconds
        played = 0.0 if block.played is None else len(block.played) / self._speaker_rate
        self._health.beat(heard, played, bool(block.flags))
        if self._health.settled and block.flags:
            self._report_flags(block.flags)
        if self._health.dead:
            self._revive()
        elif self._health.settled and self._revivals:
            self._revivals = 0
            self._lost("reopened", 1, "the sound card is back")
            self._listen(State(Phase.LIVE))
        elif self._health.troubled and self._portaudio_latency == "low":
            self._portaudio_latency = "high"
            self._note("The sound card cannot keep up: its buffers were enlarged.")
            self._reopen()

    def _revive(self) -> None:
        """The card is dead: reopen it; give up after some attempts in a row."""
        if self._revivals == MAX_REOPENINGS:
            raise AudioError(
                "The sound card has stopped and could not be reopened.",
                "Plug it in and start again, or choose another one (see `personaplex devices`).",
            )
        if not self._revivals:
            self._listen(State(Phase.RECONNECTING, "the sound card has stopped"))
        self._revivals += 1
        self._reopen()

    def _report_losses(self) -> None:
        buffer, rate = self._jitter_buffer, self._speaker_rate
        lost = Counter(
            underrun=buffer.underruns,
            overflow=self._ignored,
            shed=round(1000 * buffer.shed / rate),
            dropped=round(1000 * (buffer.dropped / rate + self._capture.dropped / SAMPLE_RATE)),
        )
        reasons = {"underrun": "the answer came late", "overflow": "the program was too busy to listen"}
        for kind, more in (lost - self._reported).items():
            self._lost(kind, more if kind in reasons else 1, reasons.get(kind, f"{more} ms"))
        self._reported = lost

    def _report_flags(self, flags: Any) -> None:
        if flags.output_underflow or flags.input_underflow:
            self._lost("underrun", 1, "in the sound card")
        if flags.output_overflow or flags.input_overflow:
            self._lost("overflow", 1, "in the sound card")

    def _lost(self, kind: str, times: int, detail: str) -> None:
        self._totals[kind] += times
        self._listen(Glitch(kind, self._totals[kind], detail))

    def _note(self, text: str) -> None:
        """A note for the user, once."""
        if text not in self._notes:
            self._notes.add(text)
            self._listen(Note(text))


class StreamHealth:
    """How the streams are doing, in the seconds of their own sound: two streams can die one by one."""

    def __init__(self) -> None:
        self._age = self._trouble = 0.0
        self._unheard = self._unplayed = 0.0  # seconds since that side called back

    def beat(self, heard: float, played: float, flagged: bool) -> None:
        """The card has called back with so many seconds of sound."""
        self._age += heard
        self._unheard = 0.0 if heard else self._unheard + played
        self._unplayed = 0.0 if played else self._unplayed + heard
        if self.settled:
            self._trouble = max(0.0, self._trouble - heard / FORGIVING_SECONDS) + flagged

    @property
    def settled(self) -> bool:
        """Both sides call back, and have done so for a moment."""
        return self._age > SETTLING_SECONDS > max(self._unheard, self._unplayed)

    @property
    def dead(self) -> bool:
        """One side calls back, the other does not any more."""
        return max(self._unheard, self._unplayed) > WATCHDOG_SECONDS

    @property
    def troubled(self) -> bool:
        """Blocks come late again and again."""
        return self._trouble > TROUBLE


def waited(audio: Audio) -> Iterator[Samples]:
    """The frames of `audio`, [1920] each, waiting for the next one where it is not there yet."""
    wakeup = Wakeup()
    for frame in audio.frames(wakeup.ring):
        if frame is None:
            wakeup.wait()
        else:
            yield frame


def try_card(options: SoundCardOptions, listen: Listener, seconds: float) -> Iterator[float]:
    """Play a tone of a second, and yield the level of the microphone in dBFS every 80 ms, for some seconds."""
    time = np.arange(round(TONE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    ends = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.02)  # fades in and out over 20 ms
    tone = (TONE_PEAK * ends * np.sin(2 * np.pi * TONE_HERTZ * time)).astype(np.float32)
    with SoundCard(options, listen) as card:
        for index, heard in zip(range(frames_for(round(seconds * SAMPLE_RATE))), waited(card), strict=False):
            card.play(frame_at(tone, index))
            yield level(heard)
