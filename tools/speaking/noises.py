"""What else a microphone hears: rooms, noise, hum, keyboards, music; coughs and the "mm" of someone who listens.

All made by formulas. Every function takes a random generator and gives sound at 24 kHz.
"""

import numpy as np
from codec import RATE
from scipy import signal

SCALES = [[0, 2, 4, 5, 7, 9, 11], [0, 2, 3, 5, 7, 8, 10], [0, 2, 4, 7, 9], [0, 3, 5, 7, 10]]


def room(sound, random: np.random.Generator):
    """The sound in a room that echoes."""
    n = int(RATE * random.uniform(0.05, 0.3))
    answer = random.standard_normal(n) * np.exp(-np.arange(n) / (n / 6)) * random.uniform(0.02, 0.15)
    answer[0] = 1
    return signal.fftconvolve(sound, answer)[: len(sound)].astype(np.float32)


def resonant(sound, frequency: float, width: float):
    """The sound through a resonator."""
    radius, angle = np.exp(-np.pi * width / RATE), 2 * np.pi * frequency / RATE
    return signal.lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], sound)


def rustle(n: int, random: np.random.Generator):
    """Noise of some colour: rooms, fans, streets far away."""
    white = random.standard_normal(n)
    colour = random.choice([0.0, 0.8, 0.95, 0.995])
    sound = signal.lfilter([1], [1, -colour], white)
    if random.random() < 0.4:
        sound = resonant(sound, random.uniform(100, 4000), random.uniform(100, 1500))
    slow = np.interp(np.arange(n), np.linspace(0, n, 2 + n // 12000), random.uniform(0.5, 1.5, 2 + n // 12000))
    return sound * slow


def hum(n: int, random: np.random.Generator):
    """Mains and motors: a steady tone with harmonics, and a little noise."""
    base = random.choice([50.0, 60.0, 100.0, 120.0, random.uniform(40, 400)])
    time = np.arange(n) / RATE
    count = random.integers(1, 12)
    sound = np.zeros(n)
    for k in range(1, count + 1):
        sound += np.sin(2 * np.pi * base * k * time + random.uniform(0, 6)) * random.random() / k
    return sound + 0.03 * rustle(n, random)


def typing(n: int, random: np.random.Generator):
    """Keys that are pressed and released, the mouse, knocks on the table."""
    sound = signal.lfilter([1], [1, -0.8], random.standard_normal(n)) * 0.01
    at, pace = 0, random.uniform(0.06, 0.35)
    while (at := at + int(RATE * random.exponential(pace))) < n:
        length = min(n - at, int(random.integers(150, 2000)))
        decay = np.exp(-np.arange(length) / random.uniform(20, 350))
        click = random.standard_normal(length) * decay
        click = resonant(click, random.uniform(150, 6000), random.uniform(200, 3000)) * 4 + 0.3 * click
        sound[at : at + length] += click * random.uniform(0.3, 1.5)
    return sound


def _timbre(random: np.random.Generator):
    """An instrument: roll-off, attack, decay, vibrato, share of even harmonics."""
    roll, attack, decay = random.uniform(0.6, 2.5), random.uniform(0.003, 0.12), random.uniform(0.15, 3)
    return roll, attack, decay, random.choice([0, 0.3, 1.0]), random.uniform(0, 1)


def _note(pitch: float, length: int, timbre, random: np.random.Generator):
    """One note of an instrument."""
    roll, attack, decay, vibrato, even = timbre
    time = np.arange(length) / RATE
    phase = 2 * np.pi * pitch * time + vibrato * np.sin(2 * np.pi * 5.5 * time)
    count = int(max(1, min(14, 9000 // pitch)))
    tone = sum(
        np.sin(k * phase + random.uniform(0, 6)) * k**-roll * (even if k % 2 == 0 else 1.0) for k in range(1, count + 1)
    )
    shape = np.minimum(1, time / attack) * np.exp(-time / decay) * np.minimum(1, (length - np.arange(length)) / 480)
    return tone * shape


def music(n: int, random: np.random.Generator):
    """A tune with chords, a bass and drums, or some of them."""
    sound = np.zeros(n)
    beat = int(RATE * random.uniform(0.22, 0.75))
    scale, root = SCALES[random.integers(len(SCALES))], random.uniform(55, 110)
    timbre = [_timbre(random) for _ in range(3)]
    parts = random.random(4) < [0.85, 0.7, 0.6, 0.5]
    if not parts.any():
        parts[0] = True

    def pitch(place: int, octave: int) -> float:
        return root * 2 ** (octave + scale[place % len(scale)] / 12 + place // len(scale))

    degree = random.integers(3)
    chord = 0
    for step, at in enumerate(range(0, n, beat)):
        if step % 4 == 0:
            chord = random.integers(len(scale))
        if parts[0] and random.random() < 0.85:
            degree = int(np.clip(degree + random.integers(-3, 4), -4, 12))
            _add(sound, at, _note(pitch(degree, 2), int(beat * random.choice([1, 1, 2, 4])), timbre[0], random), 1.0)
            if random.random() < 0.3:
                _add(sound, at + beat // 2, _note(pitch(degree + 1, 2), beat, timbre[0], random), 0.8)
        if parts[1] and step % 2 == 0:
            for each in (0, 2, 4):
                _add(sound, at, _note(pitch(chord + each, 1), 2 * beat, timbre[1], random), 0.5)
        if parts[2]:
            _add(sound, at, _note(pitch(chord, 0), beat, timbre[2], random), 1.0)
        if parts[3]:
            length = int(RATE * 0.15)
            fall = np.exp(-np.arange(length) / random.uniform(300, 1500))
            drum = random.standard_normal(length) if step % 2 else np.sin(2 * np.pi * 60 * np.arange(length) / RATE)
            _add(sound, at, drum * fall, 1.5)
    return sound


def _add(sound, at: int, part, gain: float) -> None:
    end = min(len(sound), at + len(part))
    if at < end:
        sound[at:end] += gain * part[: end - at]


NOISES = [rustle, hum, typing, music]


def cough(random: np.random.Generator):
    """A cough or several, a cleared throat, a sniff, a breath."""
    kind = random.choice(["cough", "cough", "throat", "breath"])
    pieces = []
    for _ in range(random.integers(1, 4) if kind == "cough" else 1):
        length = int(RATE * random.uniform(0.12, 0.4))
        time = np.arange(length) / RATE
        air = random.standard_normal(length)
        if kind == "cough":
            air *= np.exp(-time / random.uniform(0.03, 0.08)) + 0.15 * np.exp(-time / 0.15)
        elif kind == "throat":
            rattle = 1 + np.sin(2 * np.pi * random.uniform(25, 60) * time)
            air *= rattle * np.sqrt(np.sin(np.pi * time / time[-1]).clip(0))
        else:
            air *= np.sin(np.pi * time / time[-1]) ** 2
        size = random.uniform(0.8, 1.3)
        spread = [resonant(air, size * f * random.uniform(0.85, 1.15), 250) for f in (700, 1500, 2800)]
        sound = sum(spread) + 0.1 * air
        if kind == "cough" and random.random() < 0.4:
            sound += 0.4 * sound.std() * _voiced(length, random, (700, 1200, 2600)) * np.sin(np.pi * time / time[-1])
        pieces += [sound, np.zeros(int(RATE * random.uniform(0.05, 0.3)))]
    return _even(np.concatenate(pieces))


def murmur(random: np.random.Generator):
    """A short "mm" or "mm-hm" with closed lips."""
    pieces = []
    for _ in range(random.choice([1, 1, 2])):
        length = int(RATE * random.uniform(0.15, 0.4))
        shape = np.minimum(1, np.sin(np.pi * np.arange(length) / length) * random.uniform(1.2, 3))
        pieces += [_voiced(length, random, (random.uniform(200, 320), 1000, 2200), (1, 0.06, 0.03)) * shape]
        pieces += [np.zeros(int(RATE * random.uniform(0.02, 0.1)))]
    return _even(np.concatenate(pieces))


def _voiced(length: int, random: np.random.Generator, formants, gains=(1, 0.5, 0.2)):
    """A voice with these formants whose pitch glides."""
    base = np.exp(random.uniform(np.log(85), np.log(300)))
    pitch = base * np.linspace(random.uniform(0.85, 1.2), random.uniform(0.8, 1.3), length)
    phase = np.cumsum(pitch) / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0) + 0.003 * random.standard_normal(length)
    source = signal.lfilter([1], [1, -0.97], pulses)
    sound = sum(g * resonant(source, f * random.uniform(0.9, 1.1), 90) for f, g in zip(formants, gains, strict=True))
    return sound / (sound.std() + 1e-9)


def _even(sound):
    """At the loudness of the speech of the trainings."""
    return (0.09 * sound / (np.abs(sound).max() / 4 + 1e-9)).astype(np.float32)


class Surroundings:
    """A store of noises, from which trainings take pieces at random."""

    def __init__(self, seed: int, seconds: int = 12, count: int = 60) -> None:
        random = np.random.default_rng([seed, 77])
        n = seconds * RATE
        self.noises = [[self._made(make, n, random) for _ in range(count)] for make in NOISES]
        self.events = [[make(random) for _ in range(3 * count)] for make in (cough, murmur)]

    @staticmethod
    def _made(make, n, random):
        sound = make(n, random)
        return (sound / (sound.std() + 1e-9)).astype(np.float32)

    def background(self, n: int, random: np.random.Generator, loudest: float):
        """[n] of some noise, or none, or two kinds; `loudest` is its greatest rms."""
        total = np.zeros(n, np.float32)
        for _ in range(random.choice([0, 1, 1, 1, 2])):
            kind = self.noises[random.integers(len(self.noises))]
            sound = kind[random.integers(len(kind))]
            at = random.integers(len(sound))
            total += np.resize(np.roll(sound, -at), n) * np.float32(10 ** random.uniform(-4, np.log10(loudest)))
        return total

    def event(self, random: np.random.Generator):
        """A cough or an "mm"."""
        kind = self.events[random.integers(len(self.events))]
        return kind[random.integers(len(kind))] * np.float32(10 ** random.uniform(-0.8, 0.4))
