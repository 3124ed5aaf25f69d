"""How long sound takes from this program through the speaker, the air and the microphone, and how loud it comes back.

Short sweeps are played and looked for in what is heard. All of it but `measure_loopback` is arithmetic on samples, and
knows no sound card.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from personaplex_cli.audio.devices import CardChoice
from personaplex_cli.audio.soundcard import SoundCard
from personaplex_cli.events import Event, Glitch, Note
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples, frame_at, frames_for, level

CHIRPS = 5
LOW_HERTZ, HIGH_HERTZ = 300.0, 6000.0  # what small loudspeakers play, and most of what headsets hear
CHIRP_SECONDS, FADE_SECONDS, PEAK = 0.5, 0.05, 0.2
SETTLING = 4 * FRAME  # samples in which a card may crackle
LEAD = 12 * FRAME  # samples before the first chirp, for the noise floor
EVERY = 15 * FRAME  # samples from one chirp to the next: 1.2 s
TAIL = 8 * FRAME  # samples that the last one may be late
CLEAR = 10.0  # times the median of the correlation; noise alone reaches 7
ALIKE = 0.03  # seconds by which chirps that were really heard may differ in delay


@dataclass(frozen=True)
class ChirpMatch:
    """A chirp in a recording: where it begins, in samples, and how much of it came back (1: all of it)."""

    place: int
    gain: float


@dataclass(frozen=True)
class LoopbackResult:
    """What came back of the chirps: for each one that was heard its delay and level, beside the noise of the room.

    `delays` are milliseconds from giving a sound to the card until it is heard back, `levels` are dB relative to what
    was played, `noise` is dBFS; a microphone that delivers nothing at all is `silent`. `reported` is the same way in
    milliseconds as the system tells it, without the air; `glitches` counts what went wrong meanwhile.
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
        """Most chirps came back, all after about the same time: not something else in the room."""
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
    """Half a second that rises by the same interval in every moment, faded in and out."""
    time = np.arange(round(CHIRP_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    octaves = np.log(HIGH_HERTZ / LOW_HERTZ) / CHIRP_SECONDS
    phase = 2 * np.pi * LOW_HERTZ * np.expm1(time * octaves) / octaves
    ends = np.minimum(1.0, np.minimum(time, time[::-1]) / FADE_SECONDS)
    return np.asarray(PEAK * np.sin(np.pi / 2 * ends) ** 2 * np.sin(phase), dtype=np.float32)


def chirps() -> Samples:
    """All that is played: silence, the chirps with pauses between them, silence."""
    sound = np.zeros(LEAD + CHIRPS * EVERY + TAIL, dtype=np.float32)
    one = chirp()
    for begin in _begins():
        sound[begin : begin + len(one)] = one
    return sound


def find(recorded: Samples, sent: Samples) -> ChirpMatch | None:
    """The place where `sent` [n] stands out most in `recorded` [m], perhaps upside down; None if it does nowhere.

    White noise may be 6 dB louder than what comes back of a chirp.
    """
    places = len(recorded) - len(sent) + 1
    if places < 1:
        return None
    size = 1 << (len(recorded) + len(sent)).bit_length()
    spectrum = np.fft.rfft(recorded.astype(np.float64), size) * np.conj(np.fft.rfft(sent.astype(np.float64), size))
    alike = np.abs(np.fft.irfft(spectrum, size)[:places])
    place = int(np.argmax(alike))
    if alike[place] <= CLEAR * np.median(alike):
        return None
    return ChirpMatch(place, float(alike[place] / np.sum(np.square(sent, dtype=np.float64))))


def loopback_result(recorded: Samples) -> LoopbackResult:
    """What came back of `chirps()`, given what was heard meanwhile [n].

    A frame is answered when it has been heard to its end, so that all that is played is a frame late by nature: that
    one is not counted.
    """
    sent, quiet = chirp(), recorded[SETTLING:LEAD]
    echoes = []
    for begin in _begins():
        answered = begin + FRAME
        echo = find(recorded[answered : begin + EVERY + len(sent)], sent)
        if echo is not None:
            came = recorded[answered + echo.place :][: len(sent)]
            echoes.append((round(1000 * echo.place / SAMPLE_RATE, 1), round(_level(came, quiet, echo, sent), 1)))
    middle = float(np.median([delay for delay, _ in echoes])) if echoes else 0.0
    alike = [(delay, loud) for delay, loud in echoes if abs(delay - middle) <= 1000 * ALIKE]
    return LoopbackResult(
        delays=tuple(delay for delay, _ in alike),
        levels=tuple(loud for _, loud in alike),
        noise=round(level(quiet), 1),
        silent=not recorded.any(),
    )


def measure_loopback(choice: CardChoice) -> LoopbackResult:
    """Play the chirps and hear what comes back, on a conversation's own way: its card, its cushion, its frames.

    Takes eight seconds. Raises UsageError or AudioError like SoundCard.
    """
    sound, told = chirps(), list[Event]()
    heard: list[Samples] = []
    around: list[float] = []
    with SoundCard(choice, told.append) as card:
        for index, frame in zip(range(frames_for(len(sound))), card.frames(), strict=False):
            heard.append(frame)
            card.play(frame_at(sound, index))
            latency = card.latency()
            around.append(latency.device_in + latency.queue + latency.cushion + latency.device_out)
    return replace(
        loopback_result(np.concatenate(heard)),
        reported=round(float(np.median(around)), 1),
        glitches={event.kind: event.total for event in told if isinstance(event, Glitch)},
        card=next(event.text for event in told if isinstance(event, Note)),
    )


def _begins() -> range:
    return range(LEAD, LEAD + CHIRPS * EVERY, EVERY)


def _level(came: Samples, quiet: Samples, echo: ChirpMatch, sent: Samples) -> float:
    """dB of what came back, the room's answer included and its noise taken off, relative to what was sent."""
    power, noise, played = (float(np.mean(np.square(each, dtype=np.float64))) for each in (came, quiet, sent))
    return float(10 * np.log10(max(power - noise, echo.gain**2 * played) / played))
