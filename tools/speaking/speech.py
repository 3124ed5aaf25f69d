"""The agent's sentences as sound, in 18 voices with the same timing: festival's HTS voice, spoken anew by WORLD.

Every voice says a sentence in the same frames, so one sequence of units serves them all.

A voice's pitch is `octave * g + 12.5 Hz * shift`, with g half the pitch of the original. 12.5 Hz is one period a frame:
where a frame begins, all voices that differ in `shift` alone are at the same place of their period, and those of the
higher octave at twice the place of the lower. So one number per unit (`phase`) tells a decoder where every voice is.
Where there is no voice, the pitch goes on (without being heard), so that this stays true after a consonant.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyworld
import soundfile
import soxr
from codec import FRAME, RATE
from sentences import SENTENCES

HERTZ = 12.5  # frames a second
STEP = 0.005  # seconds between WORLD's frames
SCRIPT = """(voice_cmu_us_slt_arctic_hts)
(define (begins w) (item.feat w "R:SylStructure.daughter1.daughter1.R:Segment.segment_start"))
(define (ends w) (item.feat w "R:SylStructure.daughtern.daughtern.R:Segment.end"))
(set! utt (SynthText "{text}"))
(utt.save.wave utt "{wav}" 'riff)
(mapcar (lambda (w) (format t "%s %f %f\\n" (item.name w) (begins w) (ends w))) (utt.relation.items utt 'Word))
"""


@dataclass(frozen=True)
class Voice:
    """Pitch: see above. `formants` is how much shorter the vocal tract is than the original's."""

    octave: int
    shift: int
    formants: float


VOICES = {
    "NATF0": Voice(2, 0, 1.00),
    "NATF1": Voice(2, 2, 1.07),
    "NATF2": Voice(2, 1, 0.95),
    "NATF3": Voice(2, -1, 0.90),
    "NATM0": Voice(1, 1, 0.86),
    "NATM1": Voice(1, 0, 0.81),
    "NATM2": Voice(1, 2, 0.91),
    "NATM3": Voice(1, 1, 0.77),
    "VARF0": Voice(2, 4, 1.11),
    "VARF1": Voice(2, 6, 1.16),
    "VARF2": Voice(2, 3, 1.01),
    "VARF3": Voice(2, 8, 1.21),
    "VARF4": Voice(2, 5, 1.06),
    "VARM0": Voice(1, 3, 0.93),
    "VARM1": Voice(1, 4, 0.87),
    "VARM2": Voice(1, 5, 0.92),
    "VARM3": Voice(1, 3, 0.80),
    "VARM4": Voice(1, 4, 0.97),
}


def say(text: str):
    """-> sound at 24 kHz, [(word, seconds where it begins, where it ends)]"""
    with tempfile.TemporaryDirectory() as folder:
        wav, script = f"{folder}/said.wav", Path(folder, "say.scm")
        script.write_text(SCRIPT.format(text=text, wav=wav))
        done = subprocess.run(["festival", "-b", str(script)], check=True, capture_output=True, text=True)
        sound, rate = soundfile.read(wav, dtype="float64")
    words = [(word, float(a), float(b)) for word, a, b in (line.split() for line in done.stdout.splitlines() if line)]
    sound = soxr.resample(sound, rate, RATE)
    start, end = max(0.0, words[0][1] - 0.04), words[-1][2] + 0.10
    sound = sound[int(start * RATE) : int(end * RATE)]
    fade = np.linspace(0, 1, 240)
    sound[:240] *= fade
    sound[-240:] *= fade[::-1]
    sound = np.pad(sound, (0, -len(sound) % FRAME))
    return sound, [(word, a - start, b - start) for word, a, b in words]


class Analysis:
    """A sentence taken apart by WORLD: how its pitch moves, its spectrum, and how breathy it is."""

    def __init__(self, sound) -> None:
        pitch, self.times = pyworld.harvest(sound, RATE, f0_floor=90, f0_ceil=320, frame_period=1000 * STEP)
        pitch = pyworld.stonemask(sound, pitch, self.times, RATE)
        self.spectrum = pyworld.cheaptrick(sound, pitch, self.times, RATE)
        self.breath = pyworld.d4c(sound, pitch, self.times, RATE)
        voiced = pitch > 0
        self.breath[~voiced] = 1.0
        self.half = np.exp(np.interp(self.times, self.times[voiced], np.log(pitch[voiced]))) / 2
        self.length = len(sound)

    def said_by(self, voice: Voice):
        """The sentence in a voice."""
        bins = np.arange(self.spectrum.shape[1])
        moved = [np.exp(np.interp(bins / voice.formants, bins, row)) for row in np.log(self.spectrum + 1e-12)]
        pitch = np.maximum(50.0, voice.octave * self.half + HERTZ * voice.shift)
        sound = pyworld.synthesize(pitch, np.stack(moved), self.breath, RATE, 1000 * STEP)
        return np.pad(sound, (0, max(0, self.length - len(sound))))[: self.length]

    def phases(self):
        """Per frame: half the original pitch, and where its period is as the frame begins, in radians."""
        half = np.interp(np.arange(self.length) / RATE, self.times, self.half)
        phase = 2 * np.pi * np.cumsum(half) / RATE
        return np.stack([half[::FRAME], phase[::FRAME]], 1)


def loud(sound, target=0.09):
    """The sound at the usual loudness."""
    return (sound * target / np.sqrt(np.mean(sound[np.abs(sound) > 0.005] ** 2))).clip(-0.99, 0.99)


def main(folder: Path) -> None:
    """Write NAME/00.wav, ... of every voice, the times of words, and the phases."""
    words, phases, seconds = [], [], 0.0
    for name in VOICES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, sentence in enumerate(SENTENCES):
        sound, times = say(sentence)
        if len(times) != len(sentence.split()):
            raise ValueError(f"festival says other words than {sentence!r}: {times}")
        analysis = Analysis(sound)
        words.append(times)
        phases.append(analysis.phases().tolist())
        seconds += len(sound) / RATE
        for name, voice in VOICES.items():
            soundfile.write(folder / name / f"{number:02d}.wav", loud(analysis.said_by(voice)), RATE)
    (folder / "words.json").write_text(json.dumps({"words": words, "phases": phases}))
    print(len(SENTENCES), "sentences,", round(seconds, 1), "s in each voice")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
