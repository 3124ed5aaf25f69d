"""What users say, in many synthetic voices: only the model's ears learn from them.

flite's voices, and what WORLD makes of them: deeper and higher, of larger and smaller people.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyworld
import soundfile
import soxr
from codec import RATE
from speech import loud

LINES = [
    "Hello, can you hear me?",
    "Hi there.",
    "What is the weather like today?",
    "I have a question about my bicycle.",
    "How much does it cost?",
    "Tell me something about yourself.",
    "I would like to cook dinner tonight but I only have eggs and some old bread.",
    "Why is the sky blue?",
    "Wait, stop.",
    "No, that is not what I meant.",
    "Could you repeat that please?",
    "Thank you very much.",
    "Yes.",
    "No.",
    "Okay, and what about tomorrow?",
    "My flight leaves at seven in the morning and I still have to pack my suitcase.",
    "Where do you live?",
    "That is interesting.",
    "How do I learn to play the piano?",
    "I think we should meet at the station.",
    "Let me think about it.",
    "Can I bring it in on Saturday?",
    "What do you eat up there?",
    "Goodbye.",
    "Should he choose the yellow one, or rather the smooth brown leather?",
    "Excuse me, who is joking about Europe again?",
]
SPEAKERS = ["kal16", "awb", "rms", "slt"]
VARIANTS = 4  # of each line by each speaker: the first is the speaker's own voice
SEED = 1


def flite(text: str, speaker: str):
    """A line as a speaker of flite says it, at 24 kHz, with little silence around it."""
    with tempfile.TemporaryDirectory() as folder:
        wav = f"{folder}/said.wav"
        subprocess.run(["flite", "-voice", speaker, "-t", text, "-o", wav], check=True)
        sound, rate = soundfile.read(wav, dtype="float64")
    return trimmed(soxr.resample(sound, rate, RATE))


def trimmed(sound):
    """The sound at the usual loudness, with little silence around it."""
    heard = np.flatnonzero(np.abs(sound) > 0.01)
    return loud(sound[max(0, heard[0] - 960) : heard[-1] + 1440])


def disguised(sound, random: np.random.Generator):
    """The same said by someone else: another pitch, other formants, another melody."""
    pitch, times = pyworld.dio(sound, RATE)
    pitch = pyworld.stonemask(sound, pitch, times, RATE)
    spectrum = pyworld.cheaptrick(sound, pitch, times, RATE)
    breath = pyworld.d4c(sound, pitch, times, RATE)
    voiced = pitch > 0
    if not voiced.any():
        return sound
    mean = np.exp(np.log(pitch[voiced]).mean())
    wanted, melody = np.exp(random.uniform(np.log(85), np.log(330))), random.uniform(0.5, 1.5)
    formants = np.clip((wanted / mean) ** 0.3 * random.uniform(0.9, 1.1), 0.75, 1.35)
    bins = np.arange(spectrum.shape[1])
    moved = np.stack([np.exp(np.interp(bins / formants, bins, row)) for row in np.log(spectrum + 1e-12)])
    other = np.where(voiced, wanted * (np.where(voiced, pitch, mean) / mean) ** melody, 0.0)
    return loud(pyworld.synthesize(other, moved, breath, RATE))


def main(folder: Path) -> None:
    """Write every line of every speaker and variant."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED)
    for s, speaker in enumerate(SPEAKERS):
        for i, line in enumerate(LINES):
            own = flite(line, speaker)
            for v in range(VARIANTS):
                sound = disguised(own, random) if v else own
                soundfile.write(folder / f"{s}_{i:02d}_{v}.wav", sound, RATE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
