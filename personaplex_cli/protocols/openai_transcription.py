"""The user's words for OpenAI's Realtime, where the server writes them down: they belong to the user's items."""

from collections.abc import Iterator
from dataclasses import dataclass

from personaplex_cli.events import UserWords
from personaplex_cli.protocols.openai_items import Told
from personaplex_cli.samples import FRAME_SECONDS

MAX_ITEMS = 20  # whose words may still come: those of the last minute, at most


@dataclass
class _Spoken:
    item_id: str
    frame: int  # the first
    ended: bool = False
    told: bool = True  # all of the words
    words: str = ""
    frames: int = 0  # that the words took


class Transcription:
    """Words come some time after they were spoken, all of a stretch of speech before the next step."""

    def __init__(self) -> None:
        self._items: list[_Spoken] = []

    def begin(self, item_id: str, frame: int) -> None:
        self._items = [*self._items, _Spoken(item_id, frame)][-MAX_ITEMS:]

    def end(self, item_id: str) -> None:
        for item in self._items:
            item.ended = item.ended or item.item_id == item_id

    def hear(self, words: UserWords) -> None:
        """Words, for the item in which they were spoken; lost where nothing was taken for speech."""
        if begun := [item for item in self._items if item.frame <= words.end]:
            begun[-1].words += words.text
            begun[-1].told = False
            begun[-1].frames += words.end - words.start

    def completed(self) -> Iterator[Told]:
        """Items that have ended and got words; asked with each step. Those that get more are told again, whole."""
        for item in [each for each in self._items if each.ended and not each.told]:
            item.told = True
            usage = {"type": "duration", "seconds": round(item.frames * FRAME_SECONDS, 2)}
            told = {"item_id": item.item_id, "content_index": 0, "transcript": item.words.strip(), "usage": usage}
            yield "conversation.item.input_audio_transcription.completed", told
