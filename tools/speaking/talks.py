"""Simulated talks: what the agent says and when, as a reaction to who speaks. The rules that the model shall learn.

It greets if nobody speaks first; is silent while the user speaks; answers when the user has been quiet for REPLY
frames or a few more; stops when the user speaks for STOP frames into its sentence; says nothing into silence. Text is
LEAD frames ahead of sound. A cough or a short "mm" is not speech.
"""

import io
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from codec import CLASS_CODES, PAD, SILENCE, UNIT_CODES, VOICE_CODES
from sentences import PERSONAS, SENTENCES, SORRY, chain_of, own_of
from speech import VOICES

from personaplex_cli.engine.prompting import lay_out, system_text
from personaplex_cli.library.spec import AGENT, USER, ModelSpec

GREET, REPLY, STOP, LEAD = 6, 7, 3, 2
HESITATION = 3  # frames, at most, less one: nothing but the first word foretells when the sound begins
SHORTEST = 3  # frames of speech that are worth an answer
PERSONA_FILES = Path(__file__).parents[2] / "personas"
OTHERS = [
    "",
    "You enjoy having a good conversation.",
    "You are a pirate who talks about the sea.",
    "You work for SwiftPlex Appliances which is an appliance repair company and your name is Farhod.",
    "You are a doctor. Ask what hurts.",
    "Be short and kind.",
    "You sell shoes in a small shop.",
    "You are Ada, a librarian. You know every book.",
    "Talk about music.",
    "Help people with questions about trains.",
]
PIECES = 1000


def prompts() -> dict[str, str]:
    """The project's personas: name -> prompt."""
    return {path.stem: tomllib.loads(path.read_text())["prompt"] for path in sorted(PERSONA_FILES.glob("*.toml"))}


def new_tokenizer() -> bytes:
    """A SentencePiece model in which every word of the sentences is one piece."""
    model = io.BytesIO()
    begun = [sentence.split()[0] for sentence in SENTENCES]
    texts = SENTENCES * 20 + begun * 20 + [system_text(text) for text in [*prompts().values()] * 3 + OTHERS if text]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=PIECES,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        normalization_rule_name="identity",
        minloglevel=2,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
    )
    return model.getvalue()


def delayed(frames: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
    """Frames [17, n] as columns [17, n + 1]: rows of delay 1 one later. What is outside is -1."""
    columns = torch.full((len(frames), frames.shape[1] + 1), -1)
    for row, delay in enumerate(spec.delays):
        columns[row, delay : delay + frames.shape[1]] = frames[row]
    return columns


def lines_of(data, pieces) -> list[torch.Tensor]:
    """Of each sentence: [text, unit code], with LEAD frames of silence first."""
    lines, codes = [], torch.tensor(UNIT_CODES)
    for (start, end), words, sentence in zip(data["spans"], data["words"], SENTENCES, strict=True):
        line = torch.full((2, LEAD + end - start), PAD)
        line[1, :LEAD] = SILENCE[0]
        line[1, LEAD:] = codes[data["unit"][start:end]]
        at = 0
        for (_, begins, _), word in zip(words, sentence.split(), strict=True):
            at = max(at, int(begins / 0.08))
            for piece in pieces.encode(word):
                line[0, at] = piece
                at += 1
        if pieces.decode([piece for piece in line[0].tolist() if piece != PAD]) != sentence:
            raise ValueError(f"{sentence!r} has no room for its words")
        lines.append(line)
    return lines


@dataclass(frozen=True)
class Habit:
    """How alike talks are, in shares.

    Of answers: how many follow the persona's `usual` order; how many are `strange`, any sentence at all, so that every
    first word is followed by its own sentence; how many come `late`. Of frames: in how many the agent `yields` to who
    speaks for long enough. A model that never saw it late would not know what to do when it is. Of what is heard: how
    many frames are `misheard`, so that other people are understood, too.
    """

    usual: float
    strange: float
    late: float = 0.0
    yields: float = 1.0
    misheard: float = 0.0


class Talks:
    """Makes one talk after another, by the present `habit`."""

    habit = Habit(0.75, 0.04)

    def __init__(self, data, tokenizer: bytes, spec_of: Callable[[int], ModelSpec]) -> None:
        """`spec_of(pieces)` is the model with so many pieces of text."""
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
        self.spec = spec_of(self.pieces.get_piece_size())
        self.prompts = prompts()
        self.words = " ".join([*self.prompts.values(), *OTHERS]).split()
        self.lines = lines_of(data, self.pieces)
        first = [line[0][line[0] != PAD][0].item() for line in self.lines]
        if len(set(first)) < len(first):
            raise ValueError("two sentences begin with the same piece")

    def said_by(self, line: torch.Tensor, voice: int) -> torch.Tensor:
        """[text, unit] -> rows [9, n] of text and the agent's codes."""
        rows = silence(line.shape[1])
        rows[:2] = line
        rows[2] = torch.where(line[1] == SILENCE[0], SILENCE[1], VOICE_CODES[voice])
        return rows

    def example(self, heard: torch.Tensor, active, random: np.random.Generator):
        """What the user's first row holds, and when the user speaks [T]; -> columns [17, P + T], P, speaking, unknown.

        `speaking` and `unknown` [T] say where the agent has a sentence, and what nobody can foretell.
        """
        voice = int(random.integers(len(VOICES)))
        persona, text = self._prompt(random)
        agent, speaking, unknown = self.talk(active, persona, voice, random)
        frames = torch.cat([agent, torch.tensor(SILENCE)[:, None].repeat(1, len(heard))])
        frames[USER.start] = heard
        tokens = self.pieces.encode(text) if text else []
        prompt = lay_out(self._sample(voice, random), tokens, self.spec).columns
        talk = delayed(frames, self.spec)
        met = torch.where(talk[:, :1] < 0, prompt[:, -1:], talk[:, :1])
        columns = torch.cat([prompt[:, :-1], met, talk[:, 1:-1]], 1)
        return columns, prompt.shape[1] - 1, speaking, unknown

    def talk(self, active, persona: str | None, voice: int, random: np.random.Generator):
        """-> the agent's rows [9, T], which frames are in a sentence, which nobody can foretell."""
        length = len(active)
        rows, speaking, unknown = silence(length), np.zeros(length, bool), np.zeros(length, bool)
        choice = Choice(persona, self.habit, random)
        wait = self._wait(random)
        saying, at, quiet, heard, stopped = None, 0, 0, 0, False
        for t in range(length):
            spoke = t > 0 and active[t - 1]
            quiet = 0 if spoke else quiet + 1
            heard += int(spoke)
            if saying is not None:
                if t >= STOP and active[t - STOP : t].all() and self._yields(random):
                    saying, stopped = None, True
                elif at == saying.shape[1]:
                    saying = None
                elif random.random() < 0.003:  # told to be silent: it stays so
                    saying, heard = None, 0
                    unknown[t : t + 2] = True
            if saying is None:
                pick = None
                if t == GREET + wait % HESITATION and quiet >= 3 and heard == 0:
                    pick = choice.greeting
                elif heard >= SHORTEST and quiet >= REPLY + wait:
                    pick = choice.answer(stopped)
                if pick is not None:
                    saying, at, heard, stopped = self.said_by(self.lines[pick], voice), 0, 0, False
                    wait = self._wait(random)
            elif quiet >= REPLY:
                heard = 0  # said into its sentence, too short to stop it: forgotten
            if saying is not None:
                rows[:, t] = saying[:, at]
                at += 1
                speaking[t] = True
        return rows, speaking, unknown

    def _wait(self, random) -> int:
        if self.habit.late and random.random() < self.habit.late:
            return int(random.integers(HESITATION, 3 * HESITATION))
        return int(random.integers(HESITATION))

    def _yields(self, random) -> bool:
        return self.habit.yields == 1 or random.random() < self.habit.yields

    def _prompt(self, random):
        if random.random() < 0.8:
            persona = str(random.choice(list(PERSONAS)))
            return persona, system_text(self.prompts[persona])
        if random.random() < 0.5:
            return None, system_text(OTHERS[random.integers(len(OTHERS))])
        return None, system_text(" ".join(random.choice(self.words, random.integers(1, 40))))

    def _sample(self, voice: int, random) -> torch.Tensor:
        """The codes [8, n] of the voice's sample; a voice of the user's own is heard in classes only."""
        n = int(random.integers(8, 22))
        if random.random() < 0.1:
            rows = silence(n)[AGENT]
            rows[0] = torch.from_numpy(random.choice([*CLASS_CODES, SILENCE[0]], n))
            return rows
        line = self.lines[random.integers(len(self.lines))][:, LEAD:][:, :n]
        return self.said_by(line, voice)[AGENT]


class Choice:
    """What a persona says next: mostly what follows its last answer in its chain, sometimes another sentence."""

    def __init__(self, persona: str | None, habit: Habit, random: np.random.Generator) -> None:
        self.habit = habit
        self.greeting = own_of(persona)[0]
        self.chain = chain_of(persona)
        self.common = chain_of(None)
        self.random = random
        self.last: int | None = None
        self.recent: list[int] = []

    def answer(self, stopped: bool) -> int:
        """The next answer; after being interrupted it may be an excuse."""
        random = self.random
        if stopped and random.random() < 0.4:
            return SENTENCES.index(SORRY)
        if random.random() < self.habit.strange:
            return int(random.integers(len(SENTENCES)))
        place = self.chain.index(self.last) + 1 if self.last in self.chain else 0
        follows = self.chain[place % len(self.chain)]
        pool = self.chain if random.random() < 0.8 else self.common
        free = [number for number in pool if number not in self.recent]
        usual = self.habit.usual * (2 / 3 if self.last is None else 1)
        self.last = follows if random.random() < usual else int(random.choice(free))
        self.recent = [*self.recent, self.last][-4:]
        return self.last


def silence(n: int) -> torch.Tensor:
    """Rows [9, n] of an agent that says nothing."""
    return torch.tensor([PAD, *SILENCE])[:, None].repeat(1, n)
