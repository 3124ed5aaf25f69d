"""The program of the process that writes down speech: `recogniser.py` starts it, with a model's folder and a number of
threads.

In, for each stretch of sound: the number of its samples (32 bits), then as many of 16 bits, mono, at 16 kHz. Out: a
JSON line once the model is there, then one for each stretch, with its words and their times in seconds, or the error.

    {"words": []}   {"words": [["Hello,", 0.32, 0.6], ["there.", 0.6, 1.0]]}   {"error": "..."}
"""

import json
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

POLITENESS = 10  # of 19: who talks comes first
BEAMS = 5  # as Whisper's own


def main() -> None:
    folder, threads = sys.argv[1:]
    if hasattr(os, "nice"):
        os.nice(POLITENESS)
    heard, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # for libraries that print
    try:
        from faster_whisper import WhisperModel

        model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=int(threads))
        answer: dict[str, Any] = {"words": []}
        while True:
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()
            if not (head := heard.read(4)):  # the other side has gone
                return
            (samples,) = struct.unpack("<I", head)
            answer = _answer(model, np.frombuffer(heard.read(2 * samples), "<i2").astype(np.float32) / 32768)
    except BrokenPipeError:
        return
    except Exception as error:
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")


def _answer(model: Any, sound: Any) -> dict[str, Any]:
    try:
        # English, as PersonaPlex speaks. Where there is no voice Whisper would make up words: that is left out before.
        # What was misheard does not lead astray what follows, and without chance the same sound has the same words.
        segments, _ = model.transcribe(
            sound,
            language="en",
            beam_size=BEAMS,
            temperature=0.0,
            word_timestamps=True,
            vad_filter=True,
            condition_on_previous_text=False,
        )
        return {"words": list(_whole(word for segment in segments for word in segment.words or ()))}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _whole(pieces: Iterable[Any]) -> Iterator[tuple[str, float, float]]:
    """Words with their times; a piece that begins without a space belongs to the word before it."""
    text, start, end = "", 0.0, 0.0
    for piece in pieces:
        if text and piece.word.startswith(" "):
            yield text, start, end
            text = ""
        start = start if text else piece.start
        text, end = text + piece.word.strip(), piece.end
    if text:
        yield text, start, end


if __name__ == "__main__":
    main()
