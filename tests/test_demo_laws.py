"""What the demo must do in a talk, with the weights that are shipped. Its codes tell what it says; no ear is asked.

The user is examples/question.wav between pauses, silence, or the noise of a room.
"""

import time
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demotalk import Demo, Talk, Utterance, noise, question, silence

from personaplex_cli.character import Character, Sampling
from personaplex_cli.library.catalog import personas, voices
from personaplex_cli.loader import demo as shipped
from personaplex_cli.loader.load import load
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions, ModelOptions
from personaplex_cli.samples import FRAME_SECONDS, SAMPLE_RATE, Samples

GREETED_BY, ANSWERED_WITHIN, QUIET_WITHIN, HUSHED_WITHIN = 12, 16, 8, 5  # frames
GREETING, PAUSE = 70, 66  # frames that a greeting, an answer, and what comes before them need
GREEDY = Sampling(greedy=True, seed=1)
PERSONAS = [persona.name for persona in personas()]
WHO = {
    "greedy": ("teacher", "NATF2", GREEDY),
    "sampled": ("chef", "NATM1", Sampling(seed=2)),
    "sampled otherwise": ("customer_service", "VARF1", Sampling(seed=3)),
}
everyone = pytest.mark.parametrize("name", WHO)


@pytest.fixture(scope="module")
def demo(demo_folder: Path) -> Demo:
    return Demo(load(ModelOptions(str(demo_folder), device="cpu"), slots=6), demo_folder)


def character(persona: str = "teacher", voice: str = "NATF2", sampling: Sampling = GREEDY) -> Character:
    return find_character(CharacterOptions(voice, persona), sampling)


def with_everyone(demo: Demo, *sound: Samples) -> dict[str, Talk]:
    """Everyone hears the same."""
    return dict(zip(WHO, demo.talks([character(*who) for who in WHO.values()], *sound), strict=True))


@cache
def asked(demo: Demo) -> dict[str, Talk]:
    """Somebody who waits for the greeting, asks, waits for the answer, and asks again."""
    pause = silence(PAUSE)
    return with_everyone(demo, silence(GREETING), question(), pause, question(), pause)


def answers(talk: Talk) -> list[list[Utterance]]:
    """What was said after each of the user's turns, up to the next one."""
    starts = [start for start, _ in talk.turns[1:]]
    spans = zip([end for _, end in talk.turns], [*starts, len(talk.steps)], strict=True)
    return [[each for each in talk.utterances if end <= each.first < until] for end, until in spans]


@pytest.mark.slow
@everyone
def test_it_speaks_whole_sentences(demo: Demo, name: str) -> None:
    talk = asked(demo)[name]
    assert len(talk.utterances) == 3
    for each in talk.utterances:
        assert each.whole, each
        heard = talk.audible[each.first : each.end]
        assert heard.mean() > 0.5, each  # there are pauses between words


@pytest.mark.slow
@everyone
def test_its_words_are_those_that_sound_and_come_a_little_before(demo: Demo, name: str) -> None:
    leads = []
    for each in asked(demo)[name].utterances:
        assert each.printed == each.sentence["text"]
        leads += each.leads
    assert max(leads) <= demo.leads_by + 1
    # A word that follows a short one at once finds the frame taken, and is printed a few later.
    assert np.median(leads) == demo.leads_by and min(leads) >= -1


@everyone
def test_it_greets_if_nobody_speaks(demo: Demo, name: str) -> None:
    persona, *_ = WHO[name]
    talk = demo.talk(character(*WHO[name]), silence(GREETED_BY + 3))
    assert np.flatnonzero(talk.audible)[0] <= GREETED_BY
    assert [each.sentence["text"] for each in talk.utterances] == [demo.greeting(persona)]


@pytest.mark.slow
@everyone
def test_it_listens_and_answers_once(demo: Demo, name: str) -> None:
    talk = asked(demo)[name]
    assert len(talk.turns) == 2
    for (start, end), said in zip(talk.turns, answers(talk), strict=True):
        assert not talk.audible[start + QUIET_WITHIN : end].any()
        assert len(said) == 1 and talk.audible[end : end + ANSWERED_WITHIN].any()


@pytest.mark.slow
def test_it_does_not_greet_who_speaks_first(demo: Demo) -> None:
    """As when a recording is answered that begins with the first word."""
    for name, talk in with_everyone(demo, question(), silence(ANSWERED_WITHIN + 4)).items():
        ((start, end),) = talk.turns
        assert not talk.audible[start + QUIET_WITHIN : end].any(), name
        assert talk.audible[end : end + ANSWERED_WITHIN].any(), name
        assert [each.first >= end for each in talk.utterances] == [True], name


@pytest.mark.slow
def test_it_can_be_interrupted(demo: Demo) -> None:
    for name, talk in with_everyone(demo, silence(24), question(), silence(ANSWERED_WITHIN + 4)).items():
        ((start, end),) = talk.turns
        assert talk.audible[start - 2 : start].any(), f"{name} was speaking"
        assert not talk.audible[start + QUIET_WITHIN : end].any(), name
        assert not talk.utterances[0].whole and talk.utterances[0].in_order, name
        assert talk.audible[end : end + ANSWERED_WITHIN].any(), name


@pytest.mark.slow
@pytest.mark.parametrize("room", [silence(200), noise(200, -52, 1), noise(200, -42, 2)], ids=["none", "quiet", "loud"])
def test_into_silence_and_noise_it_greets_and_says_no_more(demo: Demo, room: Samples) -> None:
    who = [character("astronaut", "VARM2", sampling) for sampling in (GREEDY, Sampling(seed=4))]
    for talk in demo.talks(who, room):
        assert [each.sentence["text"] for each in talk.utterances if each.whole] == [demo.greeting("astronaut")]
        assert len(talk.utterances) == 1
        assert not talk.idle.any(), "its silence is digital"


@pytest.mark.slow
@everyone
def test_its_silence_is_digital_zero_in_a_talk(demo: Demo, name: str) -> None:
    idle = asked(demo)[name].idle
    assert len(idle) > SAMPLE_RATE and not idle.any()


@pytest.mark.slow
def test_told_to_stop_it_stops_and_does_not_resume(demo: Demo) -> None:
    at, asked_at = 24, 60
    who = [character(sampling=sampling) for sampling in (GREEDY, Sampling(seed=5))]
    for talk in demo.talks(who, silence(asked_at), question(), silence(ANSWERED_WITHIN + 20), hush_at=at):
        ((_, end),) = talk.turns
        stopped, *others = talk.utterances
        assert stopped.first < at and not stopped.whole
        assert not talk.audible[at + HUSHED_WITHIN : end].any()
        assert len(others) == 1 and others[0].first >= end and others[0].in_order


@pytest.mark.slow
def test_told_to_stop_and_left_alone_it_stays_silent(demo: Demo) -> None:
    talk = demo.talk(character(), silence(220), hush_at=24)  # longer than it is made to be silent
    assert len(talk.utterances) == 1 and not talk.audible[24 + HUSHED_WITHIN :].any()


def greetings(demo: Demo, who: list[Character]) -> list[dict[str, Any]]:
    """The sentence that each begins with."""
    talks = demo.talks(who, silence(GREETED_BY + 3))
    return [dict(said.sentence) for talk in talks for said in talk.utterances]


def test_personas_differ_and_other_prompts_get_the_neutral_greeting(demo: Demo) -> None:
    own = greetings(demo, [character(persona) for persona in PERSONAS])
    assert [(each["persona"], each["kind"]) for each in own] == [(persona, "greeting") for persona in PERSONAS]
    prompts = ("", "You are a pirate who talks about the sea.")
    others = greetings(demo, [replace(character(), prompt=prompt) for prompt in prompts])
    assert [each["text"] for each in others] == [demo.greeting(None)] * 2


@pytest.mark.slow
def test_answers_are_the_personas_own_or_common_ones(demo: Demo) -> None:
    for name, (persona, *_) in WHO.items():
        for each in asked(demo)[name].utterances:
            assert each.sentence["persona"] in (persona, None)
    anyone = demo.talk(replace(character(), prompt=""), question(), silence(ANSWERED_WITHIN + 4))
    assert [each.sentence["persona"] for each in anyone.utterances] == [None]


@pytest.mark.slow
def test_each_voice_is_its_own(demo: Demo) -> None:
    """By its code, which is what the decoder makes a voice of."""
    assert set(demo.voices) == {voice.name for voice in voices()}
    talks = demo.talks([character(voice=name) for name in demo.voices], silence(GREETED_BY + 3))
    for (name, about), talk in zip(demo.voices.items(), talks, strict=True):
        (said,) = talk.utterances
        assert {reply.tokens[2] for reply in talk.replies[said.first : said.end]} == {about["code"]}, name


def pitch(sound: Samples) -> float:
    """The median pitch in Hz of what is voiced, by autocorrelation."""
    window, found = round(0.04 * SAMPLE_RATE), []
    shortest, longest = SAMPLE_RATE // 350, SAMPLE_RATE // 60
    for start in range(0, len(sound) - 2 * window, window):
        part, later = sound[start : start + window], sound[start : start + window + longest]
        alike = np.correlate(later, part, "valid")[shortest:]
        energy = float(part @ part)
        if energy > 0.05 and alike.max() > 0.6 * energy:
            found.append(SAMPLE_RATE / (shortest + int(alike.argmax())))
    return float(np.median(found))


@pytest.mark.slow
def test_women_and_men_sound_like_that_and_no_two_kinds_alike(demo: Demo) -> None:
    names = ("NATF2", "NATM1", "VARF1", "VARM2")
    talks = demo.talks([character(voice=name) for name in names], silence(45))
    sounds = {
        name: np.concatenate([each.pcm for each in talk.replies]) for name, talk in zip(names, talks, strict=True)
    }
    pitches = {name: pitch(sound) for name, sound in sounds.items()}
    assert pitches["NATM1"] < 0.8 * pitches["NATF2"] and pitches["VARM2"] < 0.8 * pitches["VARF1"], pitches
    for one, other in combinations(sounds.values(), 2):
        assert not np.allclose(one, other, atol=0.01)


def test_same_seed_same_talk(demo: Demo) -> None:
    first, _, again = (demo.talk(character(sampling=Sampling(seed=seed)), silence(30)) for seed in (6, 7, 6))
    assert [step.text for step in first.steps] == [step.text for step in again.steps]
    assert all(np.array_equal(a.pcm, b.pcm) for a, b in zip(first.replies, again.replies, strict=True))


def test_it_is_small_and_faster_than_real_time_on_one_core(demo: Demo) -> None:
    assert shipped.ARCHIVE.stat().st_size < 4_000_000
    began = time.process_time()  # of all cores together, whatever else they do
    talk = demo.talk(character(), silence(40))
    assert time.process_time() - began < len(talk.steps) * FRAME_SECONDS
