"""The language model on simulated talks.

Usage: train_lm.py UNITS.pt TRACKS.pt OUT.pt

Only the codes that occur take part: every table has one row for each, one for all others, one for "not begun".
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from codec import CLASS_CODES, PAD, SILENCE, TONE, UNIT_CODES, VOICE_CODES
from moshi.models import LMModel
from speech import VOICES
from talks import Habit, Talks, new_tokenizer
from torch.nn import functional as F
from training import train

from personaplex_cli.library.spec import spec_with


@dataclass(frozen=True)
class Lesson:
    """A part of the training: steps, the highest rate, how alike talks are, how much it matters to stop in time."""

    steps: int
    peak: float
    habit: Habit
    stops_weigh: float = 1.0


SEED = 41
LESSONS = [  # each from where the one before ended
    Lesson(1800, 3e-3, Habit(usual=0.75, strange=0.04)),
    Lesson(1200, 1.5e-3, Habit(usual=0.6, strange=0.12, late=0.05, yields=0.6, misheard=0.25)),
    Lesson(500, 1e-3, Habit(usual=0.6, strange=0.12, late=0.05, yields=0.8, misheard=0.2), stops_weigh=5.0),
]
CHOSEN = 2  # codes that differ from silence: the unit and the voice
SHORT, LONG, LONGEST = 300, 1400, 3000  # frames of a talk
BATCH = 4  # short talks
LONG_FROM, LONGEST_FROM = 0.3, 0.85  # of all steps: from when on every fifth talk is long, every third the longest
HINT, LOUD, QUIET = 2.0, 6.0, 0.02  # before training: how surely, how strong units are, how little layers add
WRONG_UNITS, DROPPED_TEXT = 0.03, 0.01  # what was sampled is not always what was meant


def lm_sizes(pieces: int) -> dict:
    """What differs from the 7B's language model, as `personaplex.json` has it."""
    return {
        "dim": 128,
        "text_card": pieces,
        "num_heads": 4,
        "num_layers": 4,
        "depformer_dim": 64,
        "depformer_dim_feedforward": 264,
        "depformer_num_heads": 4,
        "depformer_num_layers": 1,
    }


def used_codes(data) -> list[list[int]]:
    """The codes of each codebook that occur."""
    units, voices = UNIT_CODES[: len(data["start"])], VOICE_CODES[: len(VOICES)]
    own = [[*CLASS_CODES, *units], voices, *[[]] * 6]
    return [[SILENCE[k], TONE[k], *codes] for k, codes in enumerate(own)]


class Tables:
    """From codes to the rows of the small tables, and which rows there are."""

    def __init__(self, data) -> None:
        used = used_codes(data)
        self.card = max(map(len, used)) + 1  # the last is for all codes that do not occur
        self.rows = torch.full((8, 2049), self.card - 1)
        self.rows[:, 2048] = self.card
        for k, codes in enumerate(used):
            self.rows[k, torch.tensor(codes)] = torch.arange(len(codes))
        # That row's logit stands for all codes that do not occur; rows without a code are never meant.
        self.bias = torch.zeros(CHOSEN, self.card)
        self.bias[:, -1] = math.log(2048 - self.card + 1)
        for k in range(CHOSEN):
            self.bias[k, len(used[k]) : self.card - 1] = -1e4

    def small(self, columns: torch.Tensor) -> torch.Tensor:
        """Columns [17, n] of tokens -> of rows."""
        parts = [self.rows.gather(1, columns[start : start + 8]) for start in (1, 9)]
        return torch.cat([columns[:1], *parts])


def new_lm(pieces: int, card: int) -> LMModel:
    """An untrained language model with tables of `card` codes and as many steps as there are codes to choose."""
    torch.manual_seed(SEED)
    sizes = spec_with({"lm": lm_sizes(pieces)}).lm
    lm = LMModel(device="cpu", **{**sizes, "card": card, "dep_q": CHOSEN})
    with torch.no_grad():
        for name, tensor in lm.named_parameters():
            if "emb" in name:
                tensor.mul_(0.15)
    for k in (*range(2, 8), *range(9, 16)):  # these rows never say anything: their vectors are zero
        lm.emb[k].weight.requires_grad_(False).zero_()
    return lm.train()


def foreseen(lm: LMModel, tables: Tables, units: int) -> None:
    """Begin with what is known already: that one unit of a sentence follows the other."""
    rows = tables.rows[0, torch.tensor(UNIT_CODES[:units])]
    with torch.no_grad():
        for name, tensor in lm.named_parameters():
            if "out_projs" in name or "linear_out" in name:
                tensor.mul_(QUIET)
        lm.emb[0].weight[rows] *= LOUD
        carried = F.normalize(lm.emb[0].weight[rows[:-1]] @ lm.depformer_in[0].weight.T, dim=1)
        lm.linears[0].weight[rows[1:]] = HINT * carried


class Batches:
    """Batches of talks, as the model reads them."""

    def __init__(self, talks: Talks, tables: Tables, tracks, units: int) -> None:
        self.talks, self.tables, self.units = talks, tables, tables.rows[0, torch.tensor(UNIT_CODES[:units])]
        self.heard, self.active = tracks["heard"], tracks["active"].numpy()
        self.codes = torch.tensor([SILENCE[0], *CLASS_CODES])

    def batch(self, count: int, length: int, random: np.random.Generator):
        """-> rows [count, 17, n], text [count, n] (-1: not judged), where the agent has a sentence [count, n]"""
        examples = [self._example(length, random) for _ in range(count)]
        longest = max(columns.shape[1] for columns, *_ in examples)
        rows = torch.zeros(count, 17, longest, dtype=torch.long)
        text, saying = torch.full((count, longest), -1), torch.zeros(count, longest, dtype=torch.bool)
        for b, (columns, start, speaking, unknown) in enumerate(examples):
            n = columns.shape[1]
            rows[b, :, :n] = self.tables.small(columns)
            text[b, start:n] = torch.where(torch.from_numpy(unknown), -1, columns[0, start:])
            saying[b, start:n] = torch.from_numpy(speaking | np.roll(speaking, 1))
        return rows, text, saying

    def _example(self, length: int, random: np.random.Generator):
        picks = random.integers(0, len(self.heard), 1 + length // self.heard.shape[1])
        heard, active = self.heard[picks].flatten(), self.active[picks].flatten()
        at = random.integers(0, len(heard) - length + 1)
        if share := self.talks.habit.misheard:
            heard = misheard(heard, share, random)
        return self.talks.example(self.codes[heard[at : at + length]], active[at : at + length], random)

    def mistaken(self, rows: torch.Tensor, text: torch.Tensor, saying: torch.Tensor) -> torch.Tensor:
        """The same with some wrong units, and some words left out where a sentence is under way."""
        seen, shape = rows.clone(), text.shape
        wrong = (torch.rand(shape) < WRONG_UNITS) & (text >= 0)
        seen[:, 1] = torch.where(wrong, self.units[torch.randint(len(self.units), shape)], seen[:, 1])
        # Not where a sentence begins: there one word tells which.
        left_out = (torch.rand(shape) < DROPPED_TEXT) & F.pad(saying[:, :-4], (4, 0))
        seen[:, 0] = torch.where(left_out, PAD, seen[:, 0])
        return seen


def misheard(heard: torch.Tensor, share: float, random: np.random.Generator) -> torch.Tensor:
    """The same classes with some others in between, and some not heard at all (0)."""
    chance = torch.from_numpy(random.random(len(heard)))
    other = torch.from_numpy(random.integers(1, len(CLASS_CODES) + 1, len(heard)))
    changed = torch.where(chance < share, torch.where(chance < share / 3, 0, other), heard)
    return torch.where(heard > 0, changed, heard)


def losses(lm: LMModel, seen: torch.Tensor, batch: tuple[torch.Tensor, ...], bias: torch.Tensor, stops_weigh: float):
    """-> the loss of the text, of the codes, the share of units that is right"""
    rows, text, saying = batch
    hidden, logits = lm.forward_text(seen[:, :, :-1])
    wanted, judged = text[:, 1:], text[:, 1:] >= 0
    word_loss = F.cross_entropy(logits[:, 0][judged], wanted[judged], reduction="none")
    said = (wanted[judged] != PAD).float()
    begins = (saying[:, 1:] & ~F.pad(saying[:, 1:-4], (4, 0)))[judged].float()  # which sentence is decided there
    weight = 1 + 3 * said + 6 * said * begins
    speak = saying[:, 1:]
    picked = judged & (speak | (torch.rand(judged.shape) < 0.15))
    target = rows[:, :, 1:].transpose(1, 2)[picked].T[None]
    codes = lm.forward_depformer_training(target, hidden[picked][None])[0] + bias[:, None]
    code_loss = F.cross_entropy(codes.flatten(0, 1), target[0, 1 : 1 + CHOSEN].flatten(), reduction="none")
    right = (codes[0].argmax(-1) == target[0, 1])[speak[picked]].float().mean().item()
    stops = (rows[:, 1, :-1][picked] >= 2 + len(CLASS_CODES)) & (target[0, 1] == 0)  # a unit, then silence
    matters = torch.where(stops, stops_weigh, 1.0)
    code_loss = (code_loss.view(CHOSEN, -1).sum(0) * matters).sum() / matters.sum()
    return (word_loss * weight).sum() / weight.sum(), code_loss, right


def main(units: Path, tracks: Path, out: Path) -> None:
    """Train on talks that become longer."""
    data = torch.load(units, weights_only=False)
    tokenizer = new_tokenizer()
    out.with_suffix(".model").write_bytes(tokenizer)
    talks = Talks(data, tokenizer, lambda pieces: spec_with({"lm": lm_sizes(pieces)}))
    pieces = talks.pieces.get_piece_size()
    tables = Tables(data)
    lm = new_lm(pieces, tables.card)
    foreseen(lm, tables, len(data["start"]))
    batches = Batches(talks, tables, torch.load(tracks, weights_only=True), len(data["start"]))
    print(pieces, "pieces of text,", tables.card, "codes,", sum(map(torch.numel, lm.parameters())), "parameters")
    for number, lesson in enumerate(LESSONS):
        result = out if lesson is LESSONS[-1] else out.with_name(f"{out.stem}-{number}.pt")
        if result.exists():
            lm.load_state_dict(torch.load(result, weights_only=True))
        else:
            learn(lm, lesson, batches, SEED + number, result)


def learn(lm: LMModel, lesson: Lesson, batches: Batches, seed: int, out: Path) -> None:
    """Train for one lesson."""
    batches.talks.habit, bias = lesson.habit, batches.tables.bias
    trained = [tensor for tensor in lm.parameters() if tensor.requires_grad]
    group = {"params": trained, "peak": lesson.peak}
    optimiser = torch.optim.AdamW([group], lr=lesson.peak, betas=(0.9, 0.98), weight_decay=0.01)

    def loss_of(step, random):
        batch = batches.batch(*size_of(step, lesson.steps), random)
        words, codes, right = losses(lm, batches.mistaken(*batch), batch, bias, lesson.stops_weigh)
        about = f"text {words.item():.3f}, codes {codes.item():.3f}, units right {100 * right:.1f} %"
        return words + 2 * codes, about

    train(lm, optimiser, lesson.steps, seed, out, loss_of, clip=1.0)


def size_of(step: int, steps: int) -> tuple[int, int]:
    """How many talks of how many frames a step learns from."""
    done = step / steps
    if done >= LONGEST_FROM and step % 3 == 0:
        return 1, LONGEST
    if LONG_FROM <= done < LONGEST_FROM and step % 5 == 0:
        return 1, LONG
    return BATCH, SHORT


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
