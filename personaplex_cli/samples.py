"""The sound of the conversation: 24 kHz, mono, float32 in [-1, 1], cut into frames of 80 ms.

These figures are the model's (Mimi's) and hold everywhere; anything else is converted at the edges.
"""

import math

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

SAMPLE_RATE = 24_000
FRAME = 1_920  # samples in one frame
FRAME_SECONDS = FRAME / SAMPLE_RATE  # 0.08 s
FRAME_MS = 1000 * FRAME_SECONDS  # 80 ms: the time that a frame may take
# Names of files that hold sound, for recordings and voices alike. What a file is, its bytes say; this is what is looked
# for in folders.
SOUND_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aac", ".aiff", ".aif", ".caf", ".mp2", ".mka"),
    # through ffmpeg:
    *(".m4a", ".mp4", ".mov", ".3gp", ".webm", ".mkv", ".wma", ".amr", ".w64", ".au", ".wv"),
)
FULL_SCALE, CLIPPED_SAMPLES = 0.99, 3  # a frame with so many samples at full scale is clipped
SILENT_FRAME: Samples = np.zeros(FRAME, dtype=np.float32)


def frames_for(samples: int) -> int:
    """How many frames hold this many samples, the last one perhaps not full."""
    return -(-samples // FRAME)


def frame_at(samples: Samples, index: int) -> Samples:
    """Frame `index` of `samples` [n]: [FRAME] samples, with silence where the sound has ended."""
    part = samples[index * FRAME : (index + 1) * FRAME]
    return np.pad(part, (0, FRAME - len(part)))


def level(samples: Samples) -> float:
    """Loudness of some samples in dBFS (root mean square): 0 for a full-scale square wave, -100 for silence."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0
    return max(-100.0, 10.0 * math.log10(power)) if power > 0 else -100.0


def clips(samples: Samples) -> bool:
    """Whether they reach full scale several times: a microphone that is too loud, not a single click."""
    return int(np.count_nonzero(np.abs(samples) >= FULL_SCALE)) >= CLIPPED_SAMPLES


def pcm16(*channels: Samples) -> bytes:
    """Channels [n] as interleaved 16-bit samples; those beyond full scale are clipped."""
    return np.clip(np.round(np.stack(channels, axis=1) * 32768.0), -32768, 32767).astype("<i2").tobytes()


def from_pcm16(pcm: bytes) -> Samples:
    """16-bit samples as [n]; `pcm16` makes the same bytes of it again."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)
