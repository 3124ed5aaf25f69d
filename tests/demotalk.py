"""Talks with the demo model through the real loop, and what can be known of them: its codes tell what it says.

Frame by frame: who is heard, which unit of which sentence sounds, which words are printed. See `sentences.json` in the
demo's archive: each code of the first codebook is a frame (a unit) of one sentence, or none.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from personaplex_cli.audio.recording import Recording, read_recording
from personaplex_cli.character import Character
from personaplex_cli.conversation import NO_ONE, Conversation, Reply, converse_all
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.events import Ended, Step
from personaplex_cli.hush import SPEECH_LEVEL
from personaplex_cli.samples import FRAME, FRAME_SECONDS, SAMPLE_RATE, Samples
from personaplex_cli.transcript import Transcript

AUDIBLE = -50.0  # dBFS
EARLY = 4  # frames before its sound in which the first word of a sentence may be printed
ENDING = 7  # frames after its last unit in which a sentence dies away
TURN_FRAMES = 7  # of silence, which do not end the user's turn


def silence(frames: int) -> Samples:
    return np.zeros(frames * FRAME, dtype=np.float32)


def noise(frames: int, level: float, seed: int) -> Samples:
    """The noise of a room: louder where it is lower."""
    brown = np.cumsum(np.random.default_rng(seed).normal(size=frames * FRAME))
    kernel = np.hanning(SAMPLE_RATE // 50)
    brown -= np.convolve(brown, kernel / kernel.sum(), "same")
    return np.asarray(brown / brown.std() * 10 ** (level / 20), dtype=np.float32)


def question() -> Samples:
    """What is asked in examples/question.wav, in whole frames, without the pause after it."""
    sound = read_recording(Path(__file__).parents[1] / "examples/question.wav")
    heard = np.flatnonzero(np.abs(sound) > 0.01)
    return sound[: -(-(heard[-1] + 1) // FRAME) * FRAME]


@dataclass(frozen=True)
class Utterance:
    """Units without a gap, from frame `first` up to `end`; the sentence of the first one, the words printed for it."""

    first: int
    end: int
    sentence: Mapping[str, Any]
    in_order: bool  # each unit follows the one before, from the sentence's first one on
    words: tuple[tuple[int, str], ...]  # each with the frame in which it was printed

    @property
    def whole(self) -> bool:
        return self.in_order and self.end - self.first == len(self.sentence["units"])

    @property
    def printed(self) -> str:
        return " ".join(word for _, word in self.words)

    @property
    def leads(self) -> list[int]:
        """By how many frames each word is printed before it sounds."""
        begins = zip(self.words, self.sentence["words_begin"], strict=True)
        return [self.first + begin - frame for (frame, _), begin in begins]


@dataclass(frozen=True)
class Talk:
    """What came of a talk, frame by frame; `turns` are the user's: the first frame, the one after the last."""

    steps: Sequence[Step]
    replies: Sequence[Reply]
    utterances: Sequence[Utterance]

    @property
    def audible(self) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        return np.array([step.said > AUDIBLE for step in self.steps])

    @property
    def turns(self) -> list[tuple[int, int]]:
        spoken = [step.index for step in self.steps if step.heard > SPEECH_LEVEL]
        ends = [at for at, (one, next_one) in enumerate(pairwise(spoken), 1) if next_one - one > TURN_FRAMES]
        edges = [0, *ends, len(spoken)] if spoken else []
        return [(spoken[start], spoken[end - 1] + 1) for start, end in pairwise(edges)]

    @property
    def idle(self) -> Samples:
        """The sound of all frames in which nothing is being said."""
        said = np.zeros(len(self.steps), dtype=bool)
        for each in self.utterances:
            said[each.first : each.end + ENDING] = True
        return np.concatenate([reply.pcm for reply, busy in zip(self.replies, said, strict=True) if not busy])


class Demo:
    """The demo model, loaded, and what it can say."""

    def __init__(self, engine: LocalEngine, folder: Path) -> None:
        about = json.loads((folder / "sentences.json").read_text("utf-8"))
        self.sentences: list[dict[str, Any]] = about["sentences"]
        self.texts = [sentence["text"] for sentence in self.sentences]
        self.voices: dict[str, dict[str, Any]] = about["voices"]
        self.leads_by: int = about["text_leads_by"]
        self._engine = engine
        self._places = {
            code: (number, place)
            for number, sentence in enumerate(self.sentences)
            for place, code in enumerate(sentence["units"])
        }

    def greeting(self, persona: str | None) -> str:
        """Of a persona; the neutral one comes after those of all personas."""
        own = (each["text"] for each in self.sentences if each["persona"] == persona)
        return next(own)

    def talk(self, character: Character, *sound: Samples, hush_at: int | None = None) -> Talk:
        """A talk in which the user is heard like that, and wants silence in a frame."""
        (talk,) = self.talks([character], *sound, hush_at=hush_at)
        return talk

    def talks(self, characters: Sequence[Character], *sound: Samples, hush_at: int | None = None) -> list[Talk]:
        """The same with each of them, at once, which costs less: what one says does not depend on the others."""
        watched = Watched(self._engine)
        heard = np.concatenate(sound)
        conversations = [Conversation(character, Recording(heard)) for character in characters]
        steps: dict[Conversation, list[Step]] = {each: [] for each in conversations}
        for conversation, event in converse_all(watched, conversations):
            if isinstance(event, Ended) and event.error:
                raise event.error
            if isinstance(event, Step):
                steps[conversation].append(event)
                if event.index == hush_at:
                    conversation.hush()
        return [self._talk(*both) for both in zip(steps.values(), watched.replies, strict=True)]

    def _talk(self, steps: Sequence[Step], replies: Sequence[Reply]) -> Talk:
        texts, codes = [step.text for step in steps], [reply.tokens[1] for reply in replies]
        return Talk(steps, replies, list(self._utterances(texts, codes)))

    def _utterances(self, texts: Sequence[str], codes: Sequence[int]) -> Iterator[Utterance]:
        before, first = 0, None
        for frame, code in enumerate([*codes, None]):
            if code in self._places:
                first = frame if first is None else first
            elif first is not None:
                places = [self._places[each] for each in codes[first:frame]]
                (number, _), length = places[0], len(places)
                in_order = places == [(number, place) for place in range(length)]
                words = tuple(_words(texts, max(before, first - EARLY), frame))
                yield Utterance(first, frame, self.sentences[number], in_order, words)
                before, first = frame, None


class Watched:
    """An engine of which all replies are kept, talk by talk as they were begun."""

    def __init__(self, engine: LocalEngine) -> None:
        self.replies: list[list[Reply]] = []
        self.slots = engine.slots
        self.prefill, self.end, self.close = engine.prefill, engine.end, engine.close
        self._engine = engine
        self._now: dict[int, list[Reply]] = {}

    def begin(self, slot: int, character: Character) -> int:
        self._now[slot] = []
        self.replies.append(self._now[slot])
        return self._engine.begin(slot, character)

    def step(
        self, frames: Mapping[int, Samples], silent: Mapping[int, int] = NO_ONE
    ) -> Mapping[int, Reply | Exception]:
        replies = self._engine.step(frames, silent)
        for slot, reply in replies.items():
            if isinstance(reply, Reply):
                self._now[slot].append(reply)
        return replies


def _words(texts: Sequence[str], first: int, end: int) -> Iterator[tuple[int, str]]:
    transcript = Transcript()
    for frame in range(first, end):
        transcript.add(frame, texts[frame])
    for word in transcript.words():
        yield round(word.start / FRAME_SECONDS), word.word
