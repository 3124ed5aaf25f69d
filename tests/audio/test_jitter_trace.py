"""The jitter buffer of the sound card and that of the page do the same: both replay tests/data/jitter_trace.json.

Here is the Python side; tests/server/test_page.mjs has the other. PERSONAPLEX_TRACE=1 records the trace anew.
"""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from personaplex_cli.audio.jitter_buffer import JitterBuffer
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples

TRACE = Path(__file__).parents[1] / "data" / "jitter_trace.json"
RECORD_ANEW = "PERSONAPLEX_TRACE" in os.environ  # read before a test's own environment begins
SPEECH, QUIET = 0.4, 0.001  # amplitudes
HERTZ = 213  # no two stretches of it are equally loud, so that rounding does not choose which of them is cut
STRIDE = 487  # samples: of what is played, one of so many is kept
BLOCK = 600  # samples that a card takes: no divisor of a frame


def script() -> Iterator[tuple[str, float]]:
    """What happens: "put" a frame of a tone of this amplitude, or "take" so many samples.

    Less waits than the limit, beyond which the two drop at different moments: one must not lock, the other need not.
    """
    chance = random.Random(8)
    for _ in range(40):  # frames come early and late: the sound runs dry now and then
        yield "put", SPEECH
        yield from (("take", BLOCK) for _ in range(chance.choice((3, 3, 3, 3, 4, 8))))
    for level, burst in ((SPEECH, 4), (SPEECH, 6), (QUIET, 4), (0.0, 7)):  # a stall; then all comes at once
        yield from (("put", level) for _ in range(burst))
        for _ in range(25):
            yield "take", FRAME
            yield "put", level
    for _ in range(100):  # half a minute in which all goes well: the cushion gets thinner
        yield from (("put", QUIET) for _ in range(4))
        yield "take", 4 * FRAME


def tone(begin: int, amplitude: float) -> Samples:
    """A frame [FRAME] of a tone that goes on from sample `begin`."""
    times = np.arange(begin, begin + FRAME) / SAMPLE_RATE
    return (amplitude * np.sin(2 * np.pi * HERTZ * times)).astype(np.float32)


def replay() -> Iterator[dict[str, Any]]:
    """Each step, some samples of what is played in it, and `after` it: underruns, shed, dropped, thickness."""
    buffer, put = JitterBuffer(SAMPLE_RATE), 0
    for step, amount in script():
        played: list[float] = []
        if step == "put":
            buffer.put(tone(put, amount))
            put += FRAME
        else:
            played = [round(float(sample), 5) for sample in buffer.take(int(amount))[::STRIDE]]
        after = [buffer.underruns, buffer.shed, buffer.dropped, buffer.thickness]
        yield {step: amount, "played": played, "after": after}


def test_the_trace_is_what_the_buffer_does() -> None:
    steps = list(replay())
    if RECORD_ANEW:
        TRACE.write_text("[\n" + ",\n".join(map(json.dumps, steps)) + "\n]\n", encoding="utf-8")
    recorded = json.loads(TRACE.read_text(encoding="utf-8"))
    assert [{**step, "played": None} for step in steps] == [{**step, "played": None} for step in recorded]
    for step, old in zip(steps, recorded, strict=True):
        assert np.allclose(step["played"], old["played"], rtol=0, atol=1e-4)


def test_the_trace_holds_all_that_can_happen() -> None:
    underruns, shed, dropped, thickness = np.transpose([step["after"] for step in replay()])
    assert underruns[-1] > 0 and shed[-1] > 0 and not dropped.any()
    assert (np.diff(thickness) > 0).any() and (np.diff(thickness) < 0).any()
