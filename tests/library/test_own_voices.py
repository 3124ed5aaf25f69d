"""Voices that the user has added: whole or absent, closed to others, and told when they are damaged."""

import json
import stat
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.errors import UsageError
from personaplex_cli.library import catalog, own_voices
from personaplex_cli.library.own_voices import ABOUT, SAMPLE, Provenance, check_name, keep, provenance, remove

CONTENT = b"RIFF, sound"
ABOUT_ADA = Provenance(
    sample_digest=sha256(CONTENT).hexdigest(),
    source="/home/ada/\N{GRINNING FACE} talk.m4a",
    source_digest="0" * 64,
    kept="1.0 to 12.0 of 60.0 s",
    warnings="",
    consent="the speaker agrees",
    added="2026-11-28T06:54:32+00:00",
)


def test_what_was_kept_is_found_by_its_name_and_only_its_owner_can_read_it() -> None:
    place = keep("ada", CONTENT, ABOUT_ADA)
    voice = catalog.find_voice("Ada")
    assert voice == catalog.find_named_voice("ada")
    assert (voice.name, voice.added, voice.path) == ("ada", ABOUT_ADA, place / SAMPLE)
    assert voice.path and voice.path.read_bytes() == CONTENT
    assert catalog.is_own_voice(voice) and not catalog.is_own_voice(catalog.find_voice("NATF2"))
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in place.iterdir()} == {0o600}


def test_nothing_is_there_after_a_write_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="No space left on device"):
        keep("ada", CONTENT, ABOUT_ADA)
    assert list(own_voices.folder().iterdir()) == []


def test_who_comes_second_does_not_replace_the_first() -> None:
    keep("ada", CONTENT, ABOUT_ADA)
    with pytest.raises(UsageError, match="a voice named ada already"):
        keep("ada", b"other", replace(ABOUT_ADA, sample_digest=sha256(b"other").hexdigest()))
    assert catalog.find_voice("ada").added == ABOUT_ADA
    (own_voices.folder() / "bob").mkdir()
    (own_voices.folder() / "bob" / "letter.txt").touch()
    with pytest.raises(UsageError, match="in the way"):
        keep("bob", CONTENT, ABOUT_ADA)


def test_a_voice_is_removed_with_all_that_was_made_of_it() -> None:
    place = keep("ada", CONTENT, ABOUT_ADA)
    (place / "model.pt").touch()
    remove(place)
    assert list(own_voices.folder().iterdir()) == []
    with pytest.raises(UsageError, match="no voice named 'ada'"):
        catalog.find_voice("ada")


def without(field: str) -> str:
    return json.dumps({key: value for key, value in asdict(ABOUT_ADA).items() if key != field})


DAMAGE = {
    "another sample": (SAMPLE, b"RIFF, other"),
    "half a sample": (SAMPLE, CONTENT[:5]),
    "an empty sample": (SAMPLE, b""),
    "no text": (ABOUT, b"\xff\xfe\x00"),
    "no json": (ABOUT, b"{"),
    "no object": (ABOUT, b"[1, 2]"),
    "a depth": (ABOUT, b"[" * 100_000),
    "no consent": (ABOUT, without("consent").encode()),
    "no sample": (SAMPLE, None),
    "nothing known": (ABOUT, None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_voice_is_told_with_its_remedy_and_spoils_no_other(damage: str) -> None:
    keep("bob", CONTENT, ABOUT_ADA)
    place = keep("ada", CONTENT, ABOUT_ADA)
    name, content = DAMAGE[damage]
    (place / name).unlink()
    if content is not None:
        (place / name).write_bytes(content)
    for ask in (lambda: catalog.find_voice("ada"), lambda: catalog.find_named_voice("ada"), catalog.voices):
        with pytest.raises(UsageError, match="The voice ada is damaged") as caught:
            ask()
        assert "personaplex voices remove ada" in caught.value.hint
    left_out: list[UsageError] = []
    assert "bob" in {each.name for each in catalog.voices(left_out.append)} and len(left_out) == 1
    remove(place)
    assert len(catalog.voices()) == 19


def test_a_sample_that_is_no_regular_file_is_not_waited_for() -> None:
    place = keep("ada", CONTENT, ABOUT_ADA)
    (place / SAMPLE).unlink()
    (place / SAMPLE).symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="damaged"):
        provenance(place)


def test_a_folder_of_another_kind_is_no_voice() -> None:
    (own_voices.folder() / "old").mkdir(parents=True)
    assert len(catalog.voices()) == 18


@pytest.mark.parametrize("name", ["ada", "Zo\u00e9", "a", "9", "my-own_voice", "x" * 40])
def test_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "a.pt", ".a", "-a", "_", "a b", "a\n", "a\0"])
def test_what_could_be_a_path_an_option_or_a_word_of_the_command_is_no_name(name: str) -> None:
    for each in (name, "x" * 41, "add", "Play", "REMOVE", "show"):
        with pytest.raises(UsageError):
            check_name(each)


@given(st.text(max_size=50))
def test_whatever_is_a_name_is_the_name_of_a_file_in_its_folder(name: str) -> None:
    try:
        check_name(name)
    except UsageError as error:
        assert error.hint
        return
    assert Path("voices", name).name == name and not name.startswith((".", "-"))
