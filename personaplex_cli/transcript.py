"""What is said, by both: as words with times, as turns, as subtitles.

A text token of the agent's belongs to the frame it came with, so words are placed within 80 ms. The user's words come
from a recogniser, some time after they were spoken, if there is one.
"""

import math
import re
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple
from unicodedata import category

from personaplex_cli.samples import FRAME_SECONDS

AGENT, USER = "agent", "user"  # the speakers
NAMES = {AGENT: "Agent", USER: "You"}  # in what people read, where both speak
TURN_PAUSE = 1.5  # seconds without text that end a turn
TURN_LENGTH = 400  # characters; after so many, the next end of a sentence ends the turn too
TURN_LIMIT = 2_000  # characters; no turn is longer
SUBTITLE_LENGTH = 42  # characters on a line of subtitles
SUBTITLE_PAUSE = 0.8  # seconds of silence that begin a new subtitle
SUBTITLE_LINGER = 1.0  # seconds that a subtitle stays after its last word, unless the next one comes
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # characters that change the direction of text
SENTENCE_END = (".", "!", "?", "…")
_FRAME, _START = attrgetter("frame"), attrgetter("start")
_PAUSE_FRAMES = math.ceil(TURN_PAUSE / FRAME_SECONDS)


@dataclass(frozen=True)
class Word:
    """A word and when it was spoken, in seconds from the beginning of the answer."""

    word: str
    start: float
    end: float
    speaker: str = AGENT

    @property
    def frames(self) -> tuple[int, int]:
        """Its first frame, and the one after its last."""
        start, end = (round(time / FRAME_SECONDS, 3) for time in (self.start, self.end))
        return math.floor(start), max(math.floor(start) + 1, math.ceil(end))


@dataclass(frozen=True)
class Turn:
    """What one speaker said without a pause; `start` in seconds from the beginning of the answer."""

    start: float
    text: str
    speaker: str = AGENT


@dataclass(frozen=True)
class Mark:
    """What happened beside the words: a sentence; `time` in seconds from the beginning of the answer."""

    time: float
    text: str


class Turns:
    """The one rule of turns, frame by frame; server/page/transcript.js follows it too.

    A turn ends after TURN_PAUSE without text, at the first end of a sentence after TURN_LENGTH characters, and before
    a piece that would make it longer than TURN_LIMIT. A pause in the middle of a word ends it as well: by then the
    turn is on the screen and cannot be changed, so the rest of the word begins the next one.
    """

    def __init__(self, speaker: str = AGENT) -> None:
        self.text = ""  # of the turn that is going on
        self.start = 0.0  # seconds
        self._speaker = speaker
        self._newest = 0  # the frame of its last piece

    def add(self, frame: int, piece: str) -> list[Turn]:
        """The turns that end here. A frame without text has an empty piece; such frames may also be left out."""
        pause = frame - self._newest - bool(piece)  # frames without text
        ended = self.end() if pause >= _PAUSE_FRAMES or len(self.text) + len(piece) > TURN_LIMIT else []
        if piece:
            self.start = self.start if self.text else round(frame * FRAME_SECONDS, 2)
            self.text = (self.text + piece)[:TURN_LIMIT]
            self._newest = frame
            if len(self.text) >= TURN_LENGTH and self.text.endswith(SENTENCE_END):
                ended += self.end()
        return ended

    def end(self) -> list[Turn]:
        """The turn that is going on, which is over now; none if it has no words."""
        text, self.text = " ".join(self.text.split()), ""
        return [Turn(self.start, text, self._speaker)] if text else []


class _Piece(NamedTuple):
    frame: int
    end: int  # the frame after its last one
    text: str


class Transcript:
    """Collects what both say, in pieces. A piece that begins with a space begins a new word of its speaker's.

    The pieces of a speaker may come in any order, but those of one word from its beginning to its end.
    """

    def __init__(self) -> None:
        self._pieces: dict[str, list[_Piece]] = {AGENT: [], USER: []}  # each in the order of time
        self.names = dict(NAMES)
        self._restarts: list[int] = []  # frames
        self._marks: list[tuple[int, str]] = []  # frames, and what happened there

    def add(self, frame: int, piece: str, speaker: str = AGENT, end: int | None = None) -> None:
        """Take what was said from this frame on, until `end`: in this frame alone if there is none."""
        if piece:
            insort(self._pieces[speaker], _Piece(frame, end or frame + 1, one_line(piece)), key=_FRAME)

    @property
    def text(self) -> str:
        """All that the agent has said."""
        return "".join(piece.text for piece in self._pieces[AGENT]).strip()

    def words(self) -> list[Word]:
        """All words so far, of both, in the order in which they began."""
        return sorted((word for speaker in self._pieces for word in self._words(speaker)), key=_START)

    def _words(self, speaker: str) -> list[Word]:
        words: list[Word] = []
        for frame, after, piece in list(self._pieces[speaker]):  # another thread may add to them
            start, end = (round(each * FRAME_SECONDS, 2) for each in (frame, after))
            # A piece may hold several words: all of them begin with it.
            first, *others = piece.split(" ")
            if first and words:
                words[-1] = replace(words[-1], word=words[-1].word + first, end=end)
            elif first:
                words.append(Word(first, start, end, speaker))
            words += [Word(other, start, end, speaker) for other in others]
        return [word for word in words if word.word]

    def restart(self, frame: int, what: str = "The conversation begins again.") -> None:
        """The conversation begins again with this frame."""
        self._restarts.append(frame)
        self.mark(frame, what)

    def mark(self, frame: int, what: str) -> None:
        """Before this frame something happened that readers should know of: a sentence."""
        insort(self._marks, (frame, one_line(what)), key=itemgetter(0))

    @property
    def marks(self) -> list[Mark]:
        return [Mark(round(frame * FRAME_SECONDS, 2), text) for frame, text in self._marks]

    @property
    def restarts(self) -> list[float]:
        """Where it began again, in seconds."""
        return [round(frame * FRAME_SECONDS, 2) for frame in self._restarts]

    def turns(self) -> list[Turn]:
        """All turns so far, of both, in the order in which they began; the last ones may be going on."""
        return sorted((turn for speaker in self._pieces for turn in self._turns(speaker)), key=_START)

    def _turns(self, speaker: str) -> Iterator[Turn]:
        """None reaches over a restart."""
        rule, ahead = Turns(speaker), list(self._restarts)
        for frame, _, piece in list(self._pieces[speaker]):
            while ahead and frame >= ahead[0]:
                del ahead[0]
                yield from rule.end()
            yield from rule.add(frame, piece)
        yield from rule.end()

    def markdown(self) -> str:
        """One paragraph per turn, each with the time at which it began and who spoke, and one for each mark."""
        said = [
            (turn.start, f"**{clock(turn.start)}** {self._named(turn.speaker)}{turn.text}") for turn in self.turns()
        ]
        marks = [(mark.time, f"*{clock(mark.time)} {mark.text}*") for mark in self.marks]
        return "\n\n".join(text for _, text in sorted(marks + said, key=itemgetter(0)))

    def srt(self) -> str:
        """The words as SubRip subtitles, broken at pauses, ends of sentences and full lines.

        Those of one speaker never overlap; where both speak at once, theirs do, as players show them.
        """
        shown = sorted((each for speaker in self._pieces for each in _subtitles(self._words(speaker))), key=_START)
        return "\n".join(
            f"{number}\n{_clock(start)} --> {_clock(end)}\n{self._named(speaker)}{text}\n"
            for number, (start, end, speaker, text) in enumerate(shown, 1)
        )

    def _named(self, speaker: str) -> str:
        both_speak = all(self._pieces.values())
        return f"{self.names[speaker]}: " if both_speak else ""


def one_line(text: str) -> str:
    """Text that cannot make lines of its own, steer a terminal or turn what follows: ends of lines are spaces."""
    return "".join(
        " " if each.isspace() else "\N{REPLACEMENT CHARACTER}" if category(each) == "Cc" or each in TURNING else each
        for each in text
    )


def chunks(words: Iterable[Word]) -> list[dict[str, Any]]:
    """Words as speech recognisers and Full-Duplex-Bench write them in JSON."""
    return [{"text": word.word, "timestamp": [word.start, word.end]} for word in words]


def as_bytes(text: str) -> bytes:
    """UTF-8; what that cannot carry, as half of a pair or a byte of an odd file name, as an escape that JSON knows."""
    return text.encode("utf-8", "backslashreplace")


def clock(seconds: float) -> str:
    """Minutes and seconds, as 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class _Subtitle(NamedTuple):
    start: float
    end: float
    speaker: str
    text: str


def _subtitles(words: list[Word]) -> Iterator[_Subtitle]:
    """Those of one speaker."""
    lines: list[list[Word]] = []
    for word in words:
        if not lines or _breaks(lines[-1], word):
            lines.append([])
        lines[-1].append(word)
    for line, after in zip_longest(lines, lines[1:]):
        text = re.sub("--+>", "->", " ".join(each.word for each in line))  # an arrow of three belongs to the times
        end = line[-1].end + SUBTITLE_LINGER
        yield _Subtitle(line[0].start, min(end, after[0].start) if after else end, line[0].speaker, text)


def _breaks(line: list[Word], word: Word) -> bool:
    full = len(" ".join(each.word for each in (*line, word))) > SUBTITLE_LENGTH
    return full or word.start - line[-1].end > SUBTITLE_PAUSE or line[-1].word.endswith(SENTENCE_END)


def _clock(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{milliseconds:03}"
