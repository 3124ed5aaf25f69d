"""What the agent said: as words with times, as turns, as subtitles.

A text token belongs to the frame it came with, so words are placed within 80 ms.
"""

from dataclasses import dataclass

from personaplex_cli.samples import FRAME_SECONDS

TURN_PAUSE = 1.5  # seconds without text that end a turn; within one, words come closer together
SUBTITLE_LENGTH = 42  # characters on a line of subtitles
SUBTITLE_PAUSE = 0.8  # seconds of silence that begin a new subtitle
SUBTITLE_LINGER = 1.0  # seconds that a subtitle stays after its last word, unless the next one comes
SENTENCE_END = (".", "!", "?", "…")


@dataclass(frozen=True)
class Word:
    """A word and when it was spoken, in seconds from the beginning of the answer."""

    word: str
    start: float
    end: float


class Transcript:
    """Collects text pieces frame by frame. A piece that begins with a space begins a new word."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, str]] = []

    def add(self, frame: int, piece: str) -> None:
        if piece:
            self._pieces.append((frame, piece))

    @property
    def text(self) -> str:
        return "".join(piece for _, piece in self._pieces).strip()

    def words(self) -> list[Word]:
        """All words so far, in order."""
        words: list[Word] = []
        for frame, piece in self._pieces:
            start, end = (round(each * FRAME_SECONDS, 2) for each in (frame, frame + 1))
            # A piece may hold several words: all of them begin with it.
            first, *others = piece.split(" ")
            if first and words:
                words[-1] = Word(words[-1].word + first, words[-1].start, end)
            elif first:
                words.append(Word(first, start, end))
            words += [Word(other, start, end) for other in others]
        return [word for word in words if word.word]

    def turns(self) -> list[list[Word]]:
        """The words, grouped in turns."""
        turns: list[list[Word]] = []
        for word in self.words():
            if not turns or word.start - turns[-1][-1].end >= TURN_PAUSE:
                turns.append([])
            turns[-1].append(word)
        return turns

    def markdown(self) -> str:
        """One paragraph per turn, each with the time at which it began."""
        return "\n\n".join(
            f"**{int(turn[0].start) // 60}:{int(turn[0].start) % 60:02}** {' '.join(word.word for word in turn)}"
            for turn in self.turns()
        )

    def srt(self) -> str:
        """The words as SubRip subtitles, broken at pauses, ends of sentences and full lines."""
        lines: list[list[Word]] = []
        for word in self.words():
            if not lines or _breaks(lines[-1], word):
                lines.append([])
            lines[-1].append(word)
        ends = [line[-1].end + SUBTITLE_LINGER for line in lines]
        ends = [min(end, line[0].start) for end, line in zip(ends, lines[1:], strict=False)] + ends[-1:]
        return "\n".join(
            f"{number}\n{_clock(line[0].start)} --> {_clock(end)}\n{' '.join(each.word for each in line)}\n"
            for number, (line, end) in enumerate(zip(lines, ends, strict=True), 1)
        )


def _breaks(line: list[Word], word: Word) -> bool:
    length = sum(len(each.word) + 1 for each in line) + len(word.word)
    paused = word.start - line[-1].end > SUBTITLE_PAUSE
    return paused or length > SUBTITLE_LENGTH or line[-1].word.endswith(SENTENCE_END)


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    return (
        f"{milliseconds // 3_600_000:02}:{milliseconds // 60_000 % 60:02}:"
        f"{milliseconds // 1000 % 60:02},{milliseconds % 1000:03}"
    )
