"""What Whisper hears in recordings whose words are known: the share of words that it understands.

Usage: heard.py WHISPER FOLDER...

WHISPER is a folder with tiny.en for faster-whisper. A FOLDER holds recordings and `texts.json`, a list of
{"file": "...", "text": "...", "kind": "..."}. Needs an environment with faster-whisper, jiwer and soundfile only.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import jiwer
from faster_whisper import WhisperModel

SPELT = {
    "16": "sixteen", "45": "forty five", "$45": "forty five dollars", "4": "four", "let's": "let us", "i'm": "i am",
    "don't": "do not", "it's": "it is", "that's": "that is", "okay": "ok", "cannot": "can not", "what's": "what is",
    "bye": "by",
}  # fmt: skip


def plain(text: str) -> str:
    """The words alone, spelt in one way."""
    text = re.sub(r"[^a-z0-9$' ]", " ", text.lower().replace("forty-five", "forty five"))
    return " ".join(SPELT.get(word, word) for word in text.split()).replace("dollars dollars", "dollars")


def main(whisper: str, folders: list[str]) -> None:
    """Print word accuracy by kind, and what was heard otherwise."""
    model = WhisperModel(whisper, device="cpu", compute_type="int8", cpu_threads=1)
    how = {"language": "en", "beam_size": 1, "temperature": 0, "without_timestamps": True,
           "condition_on_previous_text": False}  # fmt: skip
    for folder in map(Path, folders):
        pairs = defaultdict(list)
        for each in json.loads((folder / "texts.json").read_text()):
            segments, _ = model.transcribe(str(folder / each["file"]), **how)
            heard = plain(" ".join(segment.text for segment in segments)) or "-"
            pairs[each["kind"]].append((plain(each["text"]) or "-", heard))
        for kind, both in pairs.items():
            wrong = jiwer.wer([text for text, _ in both], [heard for _, heard in both])
            exact = sum(text == heard for text, heard in both)
            print(f"{folder.name} {kind}: {100 * (1 - wrong):.1f} % of words; {exact} of {len(both)} exactly")
            for text, heard in both:
                if text != heard:
                    print(f"    {text}  ->  {heard}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
