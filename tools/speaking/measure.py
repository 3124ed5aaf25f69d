"""Holds talks with a model through the project's own engine, and counts.

Usage: measure.py FOLDER OUT all|PART,... [RECORDING.wav...]

FOLDER is the model, unpacked. The users took no part in the training: other synthetic voices (espeak-ng), other
sentences, noises of other seeds; a RECORDING is of real people. OUT gets every whole utterance, for heard.py.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import noises
import numpy as np
import pyworld
import soundfile
import soxr
import torch
from codec import FRAME, RATE
from sentences import COMMON, PERSONAS
from speech import VOICES
from users import trimmed

from personaplex_cli import CharacterOptions, ModelOptions, Sampling, find_character, load
from personaplex_cli.hush import Hush

ASKED = [
    "Good evening, may I ask you something?",
    "I need your advice about a present for my sister.",
    "What would you do in my place?",
    "That does not sound right to me.",
    "How long does it usually take?",
    "Tell me more about that.",
]
ASKERS = ["en-gb+f2", "en-us+m3", "en-gb-scotland", "en-us+f4"]
tell = partial(print, flush=True)
LOUD = 10 ** (-50 / 20)  # louder than that is heard
SHARED = [*COMMON, "Sorry, go ahead."]


@dataclass
class Talk:
    """What came of a talk, by frame: the agent's sound, its words, its first code; and where sentences lie."""

    sound: np.ndarray
    text: list[str]
    codes: list[int]
    milliseconds: list[float]
    utterances: list["Utterance"] = field(default_factory=list)

    @property
    def loud(self) -> np.ndarray:
        return np.sqrt(np.square(self.sound).mean(1)) > LOUD


@dataclass
class Utterance:
    """A run of units: its first frame and the one after the last, the sentence of the first, and what is odd."""

    start: int
    end: int
    sentence: dict
    whole: bool  # from its first unit to its last, one after the other
    skips: int  # units that do not follow the one before
    printed: str
    leads: list[int]  # of each word: frames from its text to its sound


class Tester:
    """A model, and what is known of its sentences."""

    def __init__(self, folder: Path, out: Path) -> None:
        torch.set_num_threads(1)
        begun = time.perf_counter()
        self.engine = load(ModelOptions(str(folder)))
        tell(f"loaded in {time.perf_counter() - begun:.1f} s")
        self.sentences = json.loads((folder / "sentences.json").read_text())["sentences"]
        self.place = {
            code: (number, at) for number, each in enumerate(self.sentences) for at, code in enumerate(each["units"])
        }
        self.out, self.texts, self.steps = out, [], []
        out.mkdir(parents=True, exist_ok=True)

    def hold(self, sound, persona: str | None, voice: str, sampling: Sampling, hush_at: int | None = None) -> Talk:
        """A talk with this sound as the user's."""
        options = CharacterOptions(voice=voice, persona=persona or "teacher", prompt=None if persona else "")
        self.engine.begin(0, find_character(options, sampling))
        for _ in self.engine.prefill():
            pass
        frames = np.pad(sound, (0, -len(sound) % FRAME)).astype(np.float32).reshape(-1, FRAME)
        hush, said, text, codes, took = Hush(), [], [], [], []
        for f, frame in enumerate(frames):
            if f == hush_at:
                hush.begin()
            silent = {0: hush.left} if hush.holds(frame) else {}
            begun = time.perf_counter()
            reply = self.engine.step({0: frame}, silent)[0]
            took.append(1000 * (time.perf_counter() - begun))
            said.append(reply.pcm)
            text.append(reply.text)
            codes.append(reply.tokens[1])
        self.steps += took
        talk = Talk(np.stack(said), text, codes, took)
        talk.utterances = self._utterances(talk)
        return talk

    def _utterances(self, talk: Talk) -> list[Utterance]:
        found, f, n = [], 0, len(talk.codes)
        before = 0
        while f < n:
            if talk.codes[f] not in self.place:
                f += 1
                continue
            end = f
            while end < n and talk.codes[end] in self.place:
                end += 1
            places = [self.place[code] for code in talk.codes[f:end]]
            about = self.sentences[Counter(number for number, _ in places).most_common(1)[0][0]]
            skips = sum(b != (a[0], a[1] + 1) for a, b in pairwise(places))
            whole = skips == 0 and places[0][1] == 0 and len(places) == len(about["units"])
            printed = "".join(talk.text[max(before, f - 4) : end]).strip()
            found.append(Utterance(f, end, about, whole, skips, printed, self._leads(talk, f, about)))
            before = f = end
        return found

    @staticmethod
    def _leads(talk: Talk, start: int, about: dict) -> list[int]:
        leads = []
        for word, begins in zip(about["text"].split(), about["words_begin"], strict=True):
            for ahead in range(6):
                at = start + begins - ahead
                piece = talk.text[at].strip() if 0 <= at < len(talk.text) else ""
                if piece and word.startswith(piece):
                    leads.append(ahead)
                    break
        return leads

    def keep(self, kind: str, talk: Talk) -> None:
        """Write the whole utterances of a talk, with what was printed."""
        for each in talk.utterances:
            if each.end - each.start >= len(each.sentence["units"]):
                name = f"{len(self.texts):03d}.wav"
                sound = np.pad(talk.sound[each.start : each.end].ravel(), 4800).clip(-1, 1)
                soundfile.write(self.out / name, sound, RATE, subtype="PCM_16")
                self.texts.append({"file": name, "text": each.printed, "kind": kind})

    def finish(self) -> None:
        """Write the list for heard.py, and the time that frames took."""
        (self.out / "texts.json").write_text(json.dumps(self.texts, indent=1))
        tell(f"ms a frame: median {np.median(self.steps):.1f}, p95 {np.percentile(self.steps, 95):.1f}, "
              f"least {np.min(self.steps):.1f}")  # fmt: skip


def espeak(text: str, voice: str):
    """A line as a voice of espeak-ng says it."""
    with tempfile.TemporaryDirectory() as folder:
        wav = f"{folder}/said.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", "150", "-w", wav, text], check=True)
        sound, rate = soundfile.read(wav, dtype="float64")
    return trimmed(soxr.resample(sound, rate, RATE))


def questions(random: np.random.Generator, count: int, gap, before: float):
    """A user's side of a talk: sound, [(first frame, last + 1) in which the user speaks]"""
    voice = str(random.choice(ASKERS))
    pieces, spans, at = [np.zeros(int(before * RATE))], [], int(before * RATE)
    for _ in range(count):
        clip = espeak(ASKED[random.integers(len(ASKED))], voice) * 10 ** random.uniform(-0.4, 0.2)
        heard = np.flatnonzero(np.abs(clip) > 0.02)
        spans.append(((at + heard[0]) // FRAME, (at + heard[-1]) // FRAME + 1))
        pieces += [clip, np.zeros(int(random.uniform(*gap) * RATE))]
        at += len(clip) + len(pieces[-1])
    sound = np.concatenate(pieces)
    quiet = noises.rustle(len(sound), random)
    return sound + quiet / quiet.std() * 10 ** random.uniform(-4, -2.7), spans


def answers(tester: Tester, talks: int) -> None:
    """Questions with room for an answer."""
    for kind, sampling in (("greedy", Sampling(greedy=True)), ("sampled", Sampling())):
        random, count = np.random.default_rng(11), Count()
        for t in range(talks):
            persona, voice = list(PERSONAS)[t % len(PERSONAS)], list(VOICES)[(7 * t) % len(VOICES)]
            sound, spans = questions(random, 4, (5, 7), 6.5)
            talk = tester.hold(sound, persona, voice, replace(sampling, seed=t))
            tester.keep(kind, talk)
            count.add(talk, spans, persona)
            tell(kind, persona, voice, [each.printed for each in talk.utterances])
        count.report(kind)


class Count:
    """What was found in talks in which the user spoke in known frames."""

    def __init__(self) -> None:
        self.greeted: list[int | None] = []
        self.waits: list[int] = []
        self.found: Counter[str] = Counter()
        self.leads: Counter[int] = Counter()
        self.idle, self.zero = 0, 0

    def add(self, talk: Talk, spans, persona: str) -> None:
        """Look at one more talk."""
        loud, found = talk.loud, self.found
        first = np.flatnonzero(loud[: spans[0][0]])
        self.greeted.append(int(first[0]) if len(first) else None)
        for (a, b), end in zip(spans, [*[a for a, _ in spans[1:]], len(loud)], strict=True):
            begins = np.flatnonzero(loud[b:end])
            self.waits += [int(begins[0])] if len(begins) else []
            found["questions"] += 1
            found["spoke over the user"] += int(loud[a + 8 : b].any())
            found["answers"] += sum(b <= each.start < end for each in talk.utterances)
        for each in talk.utterances:
            own, text = each.sentence["persona"] == persona, each.sentence["text"]
            found["own" if own else "common" if text in SHARED else "another's"] += 1
            found["units out of order"] += each.skips
            self.leads.update(each.leads)
            if each.end < len(loud) and not any(a <= each.end <= b + 3 for a, b in spans):
                found["not interrupted"] += 1
                found["whole"] += each.whole
                found["printed as said"] += each.printed == text
        idle = np.ones(len(loud), bool)
        for each in talk.utterances:
            idle[each.start : each.end + 7] = False
        self.idle += int(idle.sum())
        self.zero += int((talk.sound[idle] == 0).all(1).sum())

    def report(self, kind: str) -> None:
        """Print it."""
        tell(f"{kind}: greeted after frames {self.greeted}; {dict(self.found)}")
        waits = self.waits or [-1]
        tell(
            f"    answered {len(waits)}, frames after the user: {min(waits)} to {max(waits)}, median {np.median(waits)}"
        )
        tell(f"    words lead by {dict(self.leads)}; idle frames that are zero: {self.zero} of {self.idle}", flush=True)


def interruptions(tester: Tester, talks: int) -> None:
    """The user speaks into the agent's sentences."""
    random, waits = np.random.default_rng(12), []
    for t in range(talks):
        sound, spans = questions(random, 4, (1.9, 2.4), 1.6)
        talk = tester.hold(sound, list(PERSONAS)[t % 5], "NATF0", Sampling(seed=t))
        loud = talk.loud
        for a, _ in spans:
            if loud[a - 1 : a + 1].any():
                still = np.flatnonzero(~loud[a:] & ~np.append(loud[a + 1 :], False))
                waits.append(int(still[0]) if len(still) else 99)
    tell(f"interrupted {len(waits)} times: frames until it is silent {sorted(waits)}")


def noise_alone(tester: Tester, seconds: int) -> None:
    """Into silence and noises it says its greeting and no more; coughs and murmurs neither start nor stop it."""
    n = seconds * RATE
    for make in (None, *noises.NOISES):
        for level in (-50, -35, -22) if make else (-120,):
            random = np.random.default_rng(1000 - level)
            sound = np.zeros(n)
            if make:
                sound = make(n, random)
                sound = (sound / sound.std() * 10 ** (level / 20)).clip(-1, 1)
            more, whole = 0, 0
            for t in range(3):
                talk = tester.hold(sound, list(PERSONAS)[t], "NATM1", Sampling(seed=t))
                whole += bool(talk.utterances) and talk.utterances[0].whole and talk.utterances[0].start < 12
                more += len(talk.utterances) - bool(talk.utterances)
            name = make.__name__ if make else "silence"
            tell(f"{name} at {level} dBFS, 3 x {seconds} s: greeting whole {whole}, more utterances {more}", flush=True)


def events(tester: Tester, times: int) -> None:
    """Coughs and murmurs: into a greeting, and into silence."""
    for make in (noises.cough, noises.murmur):
        random = np.random.default_rng(77)
        stopped, answered = 0, 0
        for t in range(times):
            sound = np.zeros(16 * RATE)
            for at in (1.6, 8.5, 12.0):
                event = make(random) * 10 ** random.uniform(-0.5, 0.3)
                start = int(at * RATE)
                sound[start : start + len(event)] += event
            talk = tester.hold(sound, list(PERSONAS)[t % 5], "VARM1", Sampling(seed=t))
            stopped += not (talk.utterances and talk.utterances[0].whole)
            answered += len(talk.utterances) - bool(talk.utterances)
        name = make.__name__
        tell(f"{name}: stopped {stopped} of {times} greetings, answered {answered} of {3 * times}")


def hushes(tester: Tester, times: int) -> None:
    """`s` in the greeting, into silence."""
    after, later = [], 0
    for t in range(times):
        talk = tester.hold(np.zeros(20 * RATE), list(PERSONAS)[t % 5], "NATF1", Sampling(seed=t), hush_at=22)
        heard = np.flatnonzero(talk.loud[22:])
        after.append(int(heard[heard < 30].max(initial=-1)) + 1)
        later += int((heard >= 30).any())
    tell(f"hushed {times} times: frames until it is silent {after}; spoke later {later} times")


def long_talk(tester: Tester, count: int) -> None:
    """More than four minutes."""
    for sampling in (Sampling(seed=5), Sampling(greedy=True)):
        sound, spans = questions(np.random.default_rng(13), count, (6, 9), 6.5)
        talk = tester.hold(sound, "chef", "NATM3", sampling)
        tester.keep("long", talk)
        loud = talk.loud
        ends = [*[a for a, _ in spans[1:]], len(loud)]
        answered = sum(bool(loud[b:end].any()) for (_, b), end in zip(spans, ends, strict=True))
        whole = sum(each.whole and each.printed == each.sentence["text"] for each in talk.utterances)
        owners = Counter(each.sentence["persona"] for each in talk.utterances)
        tell(f"long talk of {len(loud) * 0.08:.0f} s: answered {answered} of {len(spans)}, whole {whole} of", end=" ")
        tell(len(talk.utterances), dict(owners), [each.printed for each in talk.utterances])


def pitches(tester: Tester) -> None:
    """How high each voice speaks, and where its spectrum lies."""
    for name in VOICES:
        talk = tester.hold(np.zeros(7 * RATE), None, name, Sampling(greedy=True))
        tester.keep("voices", talk)
        sound = talk.sound.ravel().astype(np.float64)
        pitch, _ = pyworld.harvest(sound, RATE, f0_floor=50, f0_ceil=420)
        power = np.abs(np.fft.rfft(sound)) ** 2
        frequencies = np.fft.rfftfreq(len(sound), 1 / RATE)
        centre = np.exp((np.log(frequencies[1:]) * power[1:]).sum() / power[1:].sum())
        tell(f"{name}: median pitch {np.median(pitch[pitch > 0]):.0f} Hz, centre {centre:.0f} Hz")


def recordings(tester: Tester, paths: list[str]) -> None:
    """Real people."""
    for path in paths:
        sound, rate = soundfile.read(path, dtype="float64")
        sound = soxr.resample(sound if sound.ndim == 1 else sound.mean(1), rate, RATE)
        sound = np.concatenate([np.zeros(6 * RATE), sound, np.zeros(5 * RATE)])
        frames = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME)
        speaks = np.flatnonzero(np.sqrt(np.square(frames).mean(1)) > 0.01)
        runs = np.split(speaks, np.flatnonzero(np.diff(speaks) > 7) + 1)
        for kind, sampling in (("greedy", Sampling(greedy=True)), ("sampled", Sampling(seed=1))):
            talk = tester.hold(sound, "teacher", "NATF2", sampling)
            tell(Path(path).name, kind, "user", [(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)])
            for each in talk.utterances:
                tell(
                    f"    agent {each.start}-{each.end} {'whole' if each.whole else 'cut'}: {each.printed}", flush=True
                )


PARTS = {
    "answers": partial(answers, talks=10),
    "interruptions": partial(interruptions, talks=10),
    "hushes": partial(hushes, times=8),
    "events": partial(events, times=12),
    "noises": partial(noise_alone, seconds=20),
    "voices": pitches,
    "long": partial(long_talk, count=26),
}


def main(folder: Path, out: Path, parts: str, paths: list[str]) -> None:
    """Measure `parts`, in commas, or all."""
    tester = Tester(folder, out)
    for name in PARTS if parts == "all" else parts.split(","):
        PARTS[name](tester)
    recordings(tester, paths)
    tester.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
