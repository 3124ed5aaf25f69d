"""Words, turns and subtitles from pieces of text."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from personaplex_cli.samples import FRAME_SECONDS
from personaplex_cli.transcript import (
    AGENT,
    NAMES,
    SUBTITLE_LENGTH,
    TURN_LIMIT,
    USER,
    Transcript,
    Turn,
    Turns,
    Word,
    as_bytes,
)

TURNS = json.loads((Path(__file__).parent / "data" / "turns.json").read_text(encoding="utf-8"))

pieces = st.lists(
    st.tuples(st.integers(0, 20), st.text(alphabet=" abé.?", max_size=5)),
    max_size=40,
)


def spoken(steps: list[tuple[int, str]]) -> Transcript:
    """A transcript from (frames of pause before, piece)."""
    transcript, frame = Transcript(), 0
    for pause, piece in steps:
        frame += pause
        transcript.add(frame, piece)
        frame += 1
    return transcript


def test_pieces_make_words_with_times() -> None:
    transcript = spoken([(10, " Hel"), (0, "lo"), (5, " there"), (0, "."), (3, "")])
    assert transcript.text == "Hello there."
    assert transcript.words() == [Word("Hello", 0.8, 0.96), Word("there.", 1.36, 1.52)]


@given(pieces)
def test_words_are_the_text_in_order(steps: list[tuple[int, str]]) -> None:
    transcript = spoken(steps)
    words = transcript.words()
    assert [word.word for word in words] == transcript.text.split()
    times = [time for word in words for time in (word.start, word.end)]
    assert all(word.start < word.end for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert all(abs(time / FRAME_SECONDS - round(time / FRAME_SECONDS)) < 1e-6 for time in times)


@pytest.mark.parametrize("case", TURNS, ids=lambda case: case["name"])
def test_the_rule_of_turns_as_the_panel_and_the_page_follow_it(case: dict[str, Any]) -> None:
    transcript = Transcript()
    for frame, piece in case["pieces"]:
        transcript.add(frame, piece)
    assert transcript.turns() == [Turn(*turn) for turn in case["turns"]]


@given(pieces)
def test_turns_hold_every_word_and_do_not_need_the_frames_without_text(steps: list[tuple[int, str]]) -> None:
    transcript, rule, turns, frame = spoken(steps), Turns(), list[Turn](), 0
    for pause, piece in steps:
        for silence in range(pause):
            turns += rule.add(frame + silence, "")
        frame += pause + 1
        turns += rule.add(frame - 1, piece)
    turns += rule.end()
    assert turns == transcript.turns()
    assert "".join("".join(turn.text.split()) for turn in turns) == "".join(transcript.text.split())
    assert [turn.start for turn in turns] == sorted(turn.start for turn in turns)


@given(st.lists(st.text(max_size=1500), max_size=20))
def test_no_turn_is_longer_than_the_limit(texts: list[str]) -> None:
    rule = Turns()
    turns = [turn for frame, piece in enumerate(texts) for turn in rule.add(frame, piece)]
    assert all(len(turn.text) <= TURN_LIMIT for turn in turns)
    assert len(rule.text) <= TURN_LIMIT


def test_words_and_turns_have_a_speaker() -> None:
    transcript = Transcript()
    transcript.add(0, " Good bye", USER, 3)
    transcript.add(3, "!", USER)
    transcript.add(2, " Hello")
    assert transcript.words() == [
        Word("Good", 0.0, 0.24, USER),
        Word("bye!", 0.0, 0.32, USER),
        Word("Hello", 0.16, 0.24, AGENT),
    ]
    assert transcript.turns() == [Turn(0.0, "Good bye!", USER), Turn(0.16, "Hello", AGENT)]
    assert transcript.text == "Hello"


both_speak = st.lists(
    st.tuples(
        st.sampled_from([AGENT, USER]), st.integers(0, 200), st.integers(1, 9), st.text("abc.", min_size=1, max_size=4)
    ),
    max_size=40,
)


@given(both_speak, st.randoms())
def test_words_of_both_are_in_order_however_late_they_come(
    said: list[tuple[str, int, int, str]], random: Random
) -> None:
    said = sorted({(speaker, start): (speaker, start, length, word) for speaker, start, length, word in said}.values())
    late = list(said)
    random.shuffle(late)
    transcript = Transcript()
    for speaker, start, length, word in late:
        transcript.add(start, f" {word}", speaker, start + length)
    words = transcript.words()
    assert [word.start for word in words] == sorted(word.start for word in words)
    for speaker in (AGENT, USER):
        own = [each for each in said if each[0] == speaker]
        assert [word.word for word in words if word.speaker == speaker] == [word for *_, word in own]
        turns = " ".join(turn.text for turn in transcript.turns() if turn.speaker == speaker)
        assert turns == " ".join(word for *_, word in own)
    assert [turn.start for turn in transcript.turns()] == sorted(turn.start for turn in transcript.turns())
    srt = transcript.srt()
    for speaker, name in NAMES.items():
        own = [word for who, *_, word in said if who == speaker]
        named = bool(srt) and len({who for who, *_ in said}) == 2
        lines = re.findall(rf"(?m)^{name}: (.*)$" if named else r"(?m)^([abc.].*)$", srt) if own else []
        assert " ".join(lines) == " ".join(own)


def test_subtitles_of_one_speaker_never_overlap_and_those_of_both_may() -> None:
    transcript = spoken([(0, " One"), (0, " two."), (0, " Three")])
    transcript.add(1, " Uh", USER, 12)
    transcript.add(12, " huh.", USER, 14)
    assert transcript.srt() == (
        "1\n00:00:00,000 --> 00:00:00,160\nAgent: One two.\n\n"
        "2\n00:00:00,080 --> 00:00:02,120\nYou: Uh huh.\n\n"
        "3\n00:00:00,160 --> 00:00:01,240\nAgent: Three\n"
    )


def test_markdown_names_both_where_both_speak() -> None:
    transcript = spoken([(0, " Good"), (0, " day."), (1000, " Bye.")])
    transcript.add(20, " Hello?", USER)
    transcript.restart(900)
    assert transcript.markdown() == (
        "**0:00** Agent: Good day.\n\n**0:01** You: Hello?\n\n"
        "*1:12 The conversation begins again.*\n\n**1:20** Agent: Bye."
    )


def test_markdown_has_a_paragraph_for_each_turn() -> None:
    assert spoken([(0, " Good"), (0, " day."), (1000, " Well,"), (3, " bye.")]).markdown() == (
        "**0:00** Good day.\n\n**1:20** Well, bye."
    )


@given(pieces)
def test_subtitles_hold_every_word_once_and_never_overlap(steps: list[tuple[int, str]]) -> None:
    transcript = spoken(steps)
    blocks = transcript.srt().strip().split("\n\n") if transcript.srt() else []
    lines = [block.split("\n") for block in blocks]
    assert " ".join(line[2] for line in lines) == " ".join(transcript.text.split())
    assert [line[0] for line in lines] == [str(number + 1) for number in range(len(lines))]
    assert all(len(line[2]) <= SUBTITLE_LENGTH or " " not in line[2] for line in lines)
    times = [time for line in lines for time in line[1].split(" --> ")]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d,\d{3}", time) for time in times)


def test_subtitles_break_at_pauses_and_sentences_and_stay_a_moment() -> None:
    srt = spoken([(0, " One"), (0, " two."), (0, " Three"), (20, " four")]).srt()
    assert srt == (
        "1\n00:00:00,000 --> 00:00:00,160\nOne two.\n\n"
        "2\n00:00:00,160 --> 00:00:01,240\nThree\n\n"
        "3\n00:00:01,840 --> 00:00:02,920\nfour\n"
    )


def test_nothing_said_is_no_subtitle() -> None:
    assert Transcript().srt() == "" and Transcript().words() == [] and Transcript().text == ""


@given(st.lists(st.text(alphabet="ab \n\r\x0b\x85\u2028\u2029\x1b\x00\u202e\u2066->123:,", max_size=12), max_size=20))
@example(["--", "->"])
def test_words_cannot_forge_lines_nor_steer_a_terminal(texts: list[str]) -> None:
    transcript = spoken([(0, text) for text in texts])
    assert not {*"\x1b\x00\x85\u2028\u202e\u2066"} & set(transcript.srt() + transcript.markdown() + transcript.text)
    blocks = transcript.srt().split("\n\n") if transcript.srt() else []
    assert all(re.fullmatch(r"\d+\n[\d:,]+ --> [\d:,]+\n[^\n]+\n?", block) for block in blocks)
    assert transcript.srt().count("-->") == len(blocks)
    assert all(part.startswith("**") for part in transcript.markdown().split("\n") if part)


@given(st.text(alphabet=st.characters()))
def test_every_text_can_be_written_and_json_reads_it_again(text: str) -> None:
    as_bytes(text).decode()
    assert json.loads(as_bytes(json.dumps(text, ensure_ascii=False))) == text
