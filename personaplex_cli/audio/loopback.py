"""How long sound takes from this program through the speaker, the air and the microphone, and how loud it comes back.

Short sweeps are played and looked for in what is heard. All of it but `measure_loopback` is arithmetic on samples and
knows no sound card.
"""

from dataclasses import astuple, dataclass, field, replace
from typing import NamedTuple

import numpy as np

from personaplex_cli.audio.soundcard import SoundCard, waited
from personaplex_cli.events import Devices, Event, Glitch
from personaplex_cli.options import SoundCardOptions
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples, frame_at, frames_for, level

CHIRPS = 5
LOW_HERTZ, HIGH_HERTZ = 300.0, 6000.0  # what small loudspeakers play, and most of what headsets pick up
CHIRP_SECONDS, FADE_SECONDS, PEAK = 0.5, 0.05, 0.2
SETTLING = 4 * FRAME  # samples in which a card may crackle
LEAD = 12 * FRAME  # samples before the first chirp, for the noise floor
EVERY = 15 * FRAME  # samples from one chirp to the next: 1.2 s
BEGINS = range(LEAD, LEAD + CHIRPS * EVERY, EVERY)
TAIL = 8 * FRAME  # samples that the last one may be late
MIN_PEAK = 10.0  # times the median of the correlation; the highest peak of noise alone is about 7 times
MAX_SPREAD = 0.03  # seconds by which the delays of chirps may differ from their median: a choice, not a measurement


class ChirpMatch(NamedTuple):
    """A chirp in a recording: where it begins, in samples, and its amplitude there relative to the one played."""

    place: int
    gain: float


@dataclass(frozen=True)
class LoopbackResult:
    """What came back of the chirps: for each one that was heard its delay and level, and the noise of the room.

    `delays` are milliseconds from giving a sound to the card until it is heard back, `levels` are dB relative to what
    was played, `noise` is dBFS; a microphone that delivers nothing at all is `silent`. `reported` is the same delay in
    milliseconds according to the system, without the air; `glitches` counts what went wrong meanwhile.
    """

    delays: tuple[float, ...]
    levels: tuple[float, ...]
    noise: float
    silent: bool = False
    reported: float = 0.0
    glitches: dict[str, int] = field(default_factory=dict)
    card: str = ""

    @property
    def heard(self) -> bool:
        """Most chirps came back, all after about the same time: it was no other sound in the room."""
        return len(self.delays) > CHIRPS / 2

    @property
    def delay(self) -> float:
        """The median delay in milliseconds; there must be one."""
        return float(np.median(self.delays))

    @property
    def spread(self) -> float:
        """From the shortest delay to the longest, in milliseconds."""
        return round(max(self.delays) - min(self.delays), 1)

    @property
    def level(self) -> float:
        """The median level in dB relative to what was played."""
        return float(np.median(self.levels))


def chirp() -> Samples:
    """An exponential sweep of half a second, faded in and out; [12000] samples."""
    from scipy import signal

    time = np.arange(round(CHIRP_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    sweep = signal.chirp(time, LOW_HERTZ, CHIRP_SECONDS, HIGH_HERTZ, method="logarithmic", phi=-90)
    window = signal.windows.tukey(len(time), 2 * FADE_SECONDS / CHIRP_SECONDS)
    return np.asarray(PEAK * window * sweep, dtype=np.float32)


def chirps() -> Samples:
    """All that is played: silence, the chirps with pauses between them, silence."""
    one = chirp()
    return np.pad(np.tile(np.pad(one, (0, EVERY - len(one))), CHIRPS), (LEAD, TAIL))


def find(recorded: Samples, sent: Samples) -> ChirpMatch | None:
    """Where `sent` [n] correlates best with `recorded` [m], either way up; None if it stands out nowhere.

    White noise may be 6 dB louder than what comes back of a chirp.
    """
    from scipy import signal

    if len(recorded) < len(sent):
        return None
    sent = sent.astype(np.float64)
    correlation = np.abs(signal.correlate(recorded.astype(np.float64), sent, mode="valid", method="fft"))
    place = int(np.argmax(correlation))
    if correlation[place] <= MIN_PEAK * np.median(correlation):
        return None
    return ChirpMatch(place, float(correlation[place] / np.dot(sent, sent)))


def loopback_result(recorded: Samples) -> LoopbackResult:
    """What came back of `chirps()`, given what was heard meanwhile [n].

    What is played in answer to a frame starts when that frame has ended: this 80 ms is not counted as delay.
    """
    sent, quiet = chirp(), recorded[SETTLING:LEAD]
    echoes = []  # (delay, level)
    for begin in BEGINS:
        answer = recorded[begin + FRAME : begin + EVERY + len(sent)]
        if match := find(answer, sent):
            came = answer[match.place :][: len(sent)]
            echoes.append((round(1000 * match.place / SAMPLE_RATE, 1), round(_level(came, quiet, match, sent), 1)))
    median = np.median([delay for delay, _ in echoes] or [0.0])
    agreeing = [echo for echo in echoes if abs(echo[0] - median) <= 1000 * MAX_SPREAD]
    return LoopbackResult(
        delays=tuple(delay for delay, _ in agreeing),
        levels=tuple(loudness for _, loudness in agreeing),
        noise=round(level(quiet), 1),
        silent=not recorded.any(),
    )


def measure_loopback(options: SoundCardOptions) -> LoopbackResult:
    """Play the chirps and listen for them the way a conversation does: the same card, jitter buffer and frames.

    Takes eight seconds. Raises UsageError or AudioError like SoundCard.
    """
    sound, events = chirps(), list[Event]()
    heard, reported = list[Samples](), list[float]()
    with SoundCard(options, events.append) as card:
        for index, frame in zip(range(frames_for(len(sound))), waited(card), strict=False):
            heard.append(frame)
            card.play(frame_at(sound, index))
            reported.append(sum(astuple(card.latency())))
    return replace(
        loopback_result(np.concatenate(heard)),
        reported=round(float(np.median(reported)), 1),
        glitches={event.kind: event.total for event in events if isinstance(event, Glitch)},
        card=next(
            f"Microphone: {event.microphone}. Speaker: {event.speaker}."
            for event in events
            if isinstance(event, Devices)
        ),
    )


def _level(came: Samples, quiet: Samples, match: ChirpMatch, sent: Samples) -> float:
    """dB of what came back, reverberation included and noise subtracted, relative to what was sent."""
    power, noise, played = (float(np.mean(np.square(each, dtype=np.float64))) for each in (came, quiet, sent))
    return float(10 * np.log10(max(power - noise, match.gain**2 * played) / played))
