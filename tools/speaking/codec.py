"""A tiny Mimi for a closed set of sentences: its sizes, its codes, and what sound is to the ear.

Codebook 1 holds two kinds of codes. A *unit* is one frame (80 ms) of one sentence: what the agent says. A *sound class*
is what the agent hears: one of a few dozen kinds of speech. Codebook 2 says which voice speaks. Codes 3-8 never differ
from silence. Silence is the zero vector, and the decoder has no biases, so silence decodes to exact zeros.
"""

import os

os.environ["NO_TORCH_COMPILE"] = "1"

import numpy as np
import torch
from moshi.models.compression import MimiModel
from moshi.models.loaders import get_mimi

from personaplex_cli.library.spec import PERSONAPLEX, spec_with

FRAME, RATE = 1920, 24_000
FILTERS, WIDTH, INNER = 16, 96, 64  # of the decoder; the width of a latent frame; of a code's vector
HEARD = 12  # the last entries of a vector of codebook 1 are for hearing, the others for speaking
EAR_FILTERS = 12  # that the encoder really uses
CLASSES = 32
FAR = 100.0  # where units lie for the ear: never the nearest
PAD, SILENCE, TONE = PERSONAPLEX.padding, list(PERSONAPLEX.silence), list(PERSONAPLEX.tone)
_FREE = [code for code in range(2048) if code not in (SILENCE[0], TONE[0])]
CLASS_CODES, UNIT_CODES = _FREE[:CLASSES], _FREE[CLASSES:]
VOICE_CODES = [code for code in range(2048) if code not in (SILENCE[1], TONE[1])]
FLOOR = 0.3  # magnitudes below are silence: there all features are zero
BANDS = 40


def mimi_sizes(filters=FILTERS):
    """What differs from the 7B's codec, as `personaplex.json` has it."""
    return {
        "seanet": {"n_filters": filters, "dimension": WIDTH},
        "quantizer": {"dimension": INNER, "input_dimension": WIDTH, "output_dimension": WIDTH},
        "transformer": {
            "d_model": WIDTH,
            "num_heads": 4,
            "num_layers": 1,
            "dim_feedforward": 2 * WIDTH,
            "input_dimension": WIDTH,
            "output_dimensions": [WIDTH],
        },
    }


def new_mimi(filters=FILTERS) -> MimiModel:
    """An untrained codec of these sizes."""
    spec = spec_with({"mimi": mimi_sizes(filters)})
    return get_mimi(None, dict(spec.mimi), device="cpu", num_codebooks=8)


def mel_bank(n_fft: int, bands: int, low=60.0, high=11_000.0):
    """Triangles [n_fft / 2 + 1, bands] that are evenly spaced in mel."""
    frequencies = np.linspace(0, RATE / 2, n_fft // 2 + 1)
    mel = 2595 * np.log10(1 + frequencies / 700)
    ends = 2595 * np.log10(1 + np.array([low, high]) / 700)
    edges = np.interp(np.linspace(*ends, bands + 2), mel, frequencies)
    up = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(up, down)).astype(np.float32)


_EAR_BANK = mel_bank(1024, BANDS, high=9000)
_WINDOW = np.hanning(1024).astype(np.float32)


def framed(sound):
    """The sound filled up to whole frames."""
    return np.pad(sound, (0, -len(sound) % FRAME)).astype(np.float32)


def features(sound):
    """Whole frames of sound -> [frames, 4 * BANDS]: log mel every 20 ms; zero where it is silent."""
    n = len(sound) // FRAME
    padded = np.pad(sound[: n * FRAME].astype(np.float32), (512, 512))
    windows = padded[(np.arange(n * 4) * 480 + 240)[:, None] + np.arange(1024)] * _WINDOW
    magnitude = np.abs(np.fft.rfft(windows)).astype(np.float32) @ _EAR_BANK
    return (np.log10(FLOOR + magnitude) - np.log10(FLOOR)).reshape(n, -1).astype(np.float32)


def spectrum(sound):
    """Whole frames of sound -> [frames, BANDS]: the coarse spectrum of each."""
    return features(sound).reshape(-1, 4, BANDS).mean(1)


def activity(sound):
    """Which frames of a clean recording are speech."""
    n = len(sound) // FRAME
    power = np.sqrt((sound[: n * FRAME].reshape(n, 4, -1) ** 2).mean(2).max(1))
    return power > max(0.004, 0.06 * power.max(initial=0))


def kmeans(points: torch.Tensor, k: int, rounds=20, seed=0) -> torch.Tensor:
    """The centres [k, width] of `k` groups of points."""
    random = torch.Generator().manual_seed(seed)
    centres = points[torch.randperm(len(points), generator=random)[:k]].clone()
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        count = torch.bincount(nearest, minlength=k)[:, None]
        mean = torch.zeros_like(centres).index_add_(0, nearest, points) / count.clamp(min=1)
        centres = torch.where(count > 0, mean, centres)
    return centres


_BANKS = {n: torch.from_numpy(mel_bank(n, bands)) for n, bands in ((512, 40), (1024, 80), (2048, 120))}
_PHASE_BINS = int(1200 / RATE * 1024)  # the phase is heard in the low harmonics


def sound_loss(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """How far sounds [b, n] are apart: magnitudes at four resolutions, mel bands at three, the phase below 1.2 kHz."""
    total = torch.zeros(())
    for n in (256, 512, 1024, 2048):
        window = torch.hann_window(n)
        a, b = (torch.stft(sound, n, n // 4, window=window, return_complex=True) for sound in (made, true))
        ma, mb, scale = a.abs(), b.abs(), n**0.5
        total = total + (ma - mb).norm() / (mb.norm() + 1e-3)
        total = total + 1.5 * (torch.log10(ma / scale + 1e-3) - torch.log10(mb / scale + 1e-3)).abs().mean()
        if n in _BANKS:
            la, lb = (torch.log10(m.transpose(1, 2) @ _BANKS[n] / scale + 2e-3) for m in (ma, mb))
            total = total + 2 * (la - lb).abs().mean()
        if n == 1024:
            low = torch.view_as_real(a - b)[:, :_PHASE_BINS].norm()
            total = total + low / (mb[:, :_PHASE_BINS].norm() + 1e-3)
    return total / 4
