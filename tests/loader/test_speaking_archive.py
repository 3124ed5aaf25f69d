"""The archive of the demo model that speaks: small, whole, and true to what is said of it."""

import io
import json
import lzma
import tarfile
from itertools import chain
from pathlib import Path

import pytest

from personaplex_cli.library.spec import PERSONAPLEX, SPEC_FILE

ARCHIVE = Path(__file__).parents[2] / "personaplex_cli" / "loader" / "speaking.tar.xz"


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(ARCHIVE.read_bytes()))) as archive:
        return {each.name: archive.extractfile(each).read() for each in archive}


@pytest.fixture(scope="module")
def about(files):
    return json.loads(files["sentences.json"])


def test_it_is_small_and_holds_a_model_with_all_voices(files, about):
    assert ARCHIVE.stat().st_size < 4_000_000
    needed = {PERSONAPLEX.weights_file, PERSONAPLEX.mimi_file, PERSONAPLEX.tokenizer_file, SPEC_FILE, "NOTICE.txt"}
    assert needed <= set(files)
    named = {path.stem for path in (ARCHIVE.parents[2] / "voices").glob("*.toml")}
    assert {f"voices/{name}.pt" for name in named} == {name for name in files if name.startswith("voices/")}
    assert set(about["voices"]) == named


def test_each_code_has_one_place_in_one_sentence(about):
    units = list(chain.from_iterable(each["units"] for each in about["sentences"]))
    assert len(set(units)) == len(units)
    assert about["silence"][0] not in units


def test_the_first_word_tells_the_sentence(about):
    words = [each["text"].split() for each in about["sentences"]]
    assert len({first for first, *_ in words}) == len(words)
    assert all(len(each["words_begin"]) == len(said) for each, said in zip(about["sentences"], words, strict=True))


def test_every_persona_has_a_greeting_and_answers(about):
    personas = {path.stem for path in (ARCHIVE.parents[2] / "personas").glob("*.toml")}
    for kind in ("greeting", "answer"):
        assert {each["persona"] for each in about["sentences"] if each["kind"] == kind} - {None} == personas
