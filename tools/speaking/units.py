"""The agent's sentences as units on a timeline, and the classes of what it hears.

Usage: units.py VOICES USERS OUT.pt
"""

import json
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from codec import CLASSES, FRAME, HEARD, INNER, activity, features, framed, kmeans, spectrum
from sentences import SENTENCES
from speech import VOICES

GAP = 6  # silent frames between sentences on the timeline
SEEN = ["NATF0", "NATM1", "VARF1", "VARM2"]  # whose spectra the units' vectors begin with
PLACES = 5  # entries of a unit's vector that begin as its pitch and phase


def timeline(folder: Path):
    """One voice's sentences after one another with gaps -> sound, [(first frame, last + 1)]"""
    gap = np.zeros(GAP * FRAME, np.float32)
    pieces, spans, at = [gap], [], GAP
    for number in range(len(SENTENCES)):
        sound = framed(soundfile.read(folder / f"{number:02d}.wav", dtype="float32")[0])
        spans.append((at, at + len(sound) // FRAME))
        at = spans[-1][1] + GAP
        pieces += [sound, gap]
    return np.concatenate(pieces), spans


def beginnings(timelines, spoken, phases) -> torch.Tensor:
    """The units' vectors before training: principal components of the spectra, and where the period is."""
    seen = np.concatenate([features(timelines[name]) for name in SEEN], 1)[spoken]
    u, s, _ = np.linalg.svd(seen - seen.mean(0), full_matrices=False)
    width = INNER - HEARD - PLACES
    parts = u[:, :width] * s[:width]
    half, phase = phases.T
    places = [np.cos(phase), np.sin(phase), np.cos(2 * phase), np.sin(2 * phase), (half - half.mean()) / half.std()]
    vectors = np.concatenate([parts / parts.std(), 1.5 * np.stack(places, 1)], 1)
    return torch.from_numpy(vectors.astype(np.float32))


def ears(users: Path):
    """What is heard of speech: the projection [BANDS, HEARD - 2] of spectra, and the classes [CLASSES, HEARD]."""
    clips = [framed(soundfile.read(path, dtype="float32")[0]) for path in sorted(users.glob("*.wav"))]
    heard = np.concatenate([spectrum(clip) for clip in clips])
    active = np.concatenate([activity(clip) for clip in clips])
    _, _, v = np.linalg.svd(heard[active], full_matrices=False)
    ear = v[: HEARD - 2].T / (heard[active] @ v[: HEARD - 2].T).std()
    count = len(heard)
    vectors = np.concatenate([np.full((count, 1), 4.0), heard @ ear, np.zeros((count, 1))], 1).astype(np.float32)
    return ear, kmeans(torch.from_numpy(vectors[active]), CLASSES)


def main(voices: Path, users: Path, out: Path) -> None:
    """Gather what the trainings need to know of the sounds."""
    timelines, spans = {}, []
    for name in VOICES:
        timelines[name], spans = timeline(voices / name)
    spoken = np.zeros(spans[-1][1] + GAP, bool)
    for start, end in spans:
        spoken[start:end] = True
    unit = np.where(spoken, np.cumsum(spoken) - 1, -1)
    about = json.loads((voices / "words.json").read_text())
    start = beginnings(timelines, spoken, np.concatenate(about["phases"]))
    ear, classes = ears(users)
    data = {
        "timelines": torch.from_numpy(np.stack(list(timelines.values()))),
        "spans": spans,
        "unit": torch.from_numpy(unit),
        "start": start,
        "ear": torch.from_numpy(ear.astype(np.float32)),
        "classes": classes,
        "words": about["words"],
    }
    torch.save(data, out)
    print(len(start), "units in", len(spans), "sentences;", len(classes), "classes of what is heard")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
