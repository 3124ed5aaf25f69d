"""A tiny data set in the benchmark's layout, to try `personaplex eval` without the benchmark's recordings.

    python tools/small_benchmark.py FOLDER

All of it is the question in examples/question.wav, cut and repeated, so the annotations are known: FOLDER/TASK/SAMPLE.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from personaplex_cli.audio.recording import read_recording, write_wav
from personaplex_cli.samples import SAMPLE_RATE, Samples, level

QUESTION = Path(__file__).parents[1] / "examples/question.wav"
AUDIBLE = -45.0  # dBFS
PAUSE = 0.1  # seconds added between the two sentences of the question: too few to end a turn
ANSWER = 4.0  # seconds for an answer


def make(root: Path, samples: int = 2) -> None:
    """Write so many samples of each task; no two begin with the same silence."""
    question = _question()
    half = len(question) // 2
    spoken = len(question) / SAMPLE_RATE
    for number in range(1, samples + 1):
        lead = 0.1 * number  # seconds before the user speaks: no time to be greeted
        ends = lead + spoken
        asked = [_silence(lead), question]
        first_half = lead + half / SAMPLE_RATE
        halves = [_silence(lead), question[:half], _silence(PAUSE), question[half:]]
        _write(root / f"pause_handling/{number}", halves, {"pause": _at("[PAUSE]", first_half, first_half + PAUSE)})
        turn = {"turn_taking": _at("[TURN-TAKING]", ends, ends + 0.4)}
        _write(root / f"smooth_turn_taking/{number}", [*asked, _silence(ANSWER)], turn)
        again = ends + ANSWER / 2
        interruption = _at("", again, again + spoken, context="A question.", interrupt="It again.")
        twice = [*asked, _silence(ANSWER / 2), question, _silence(ANSWER)]
        _write(root / f"user_interruption/{number}", twice, {"interrupt": interruption})
        _write(root / f"backchannel/{number}", [_silence(lead), *[question, _silence(0.3)] * 3], {})
        about = {"context_text": "", "current_turn_text": "", "timestamps": [again, again + spoken]}
        folder = root / f"talking_to_other/{number}"
        _write(folder, twice, {"metadata": about})
        with (folder / "clean_input.wav").open("wb") as file:
            write_wav(file, np.concatenate([*asked, _silence(ANSWER)]))


def _question() -> Samples:
    """What is asked, without the silence around it."""
    sound = read_recording(QUESTION)
    step = SAMPLE_RATE // 100
    loud = [index for index in range(0, len(sound), step) if level(sound[index : index + step]) > AUDIBLE]
    return sound[loud[0] : loud[-1] + step]


def _silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)


def _at(text: str, start: float, end: float, **more: str) -> list[dict[str, Any]]:
    return [{"text": text, "timestamp": [start, end], **more}]


def _write(folder: Path, sound: list[Samples], annotations: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "input.wav").open("wb") as file:
        write_wav(file, np.concatenate(sound))
    for name, content in annotations.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
