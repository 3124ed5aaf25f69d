"""Text comes out piece by piece as it would come out whole."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from personaplex_cli.engine.slot import TextStream
from personaplex_cli.library.spec import PERSONAPLEX

SILENT_TOKENS = PERSONAPLEX.silent_tokens


@pytest.fixture(scope="module")
def tokenizer(random_folder: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(random_folder / PERSONAPLEX.tokenizer_file))


@given(text=st.text(max_size=40), pauses=st.integers(0, 5))
def test_pieces_join_to_the_decoded_text(tokenizer: SentencePieceProcessor, text: str, pauses: int) -> None:
    """Also letters, Chinese and emoji that the tokenizer spells in bytes, with silence between any two tokens."""
    tokens = tokenizer.encode(text)
    stream = TextStream(tokenizer, SILENT_TOKENS)
    joined = "".join(stream.piece(token) + "".join(map(stream.piece, SILENT_TOKENS)) * pauses for token in tokens)
    assert joined.removeprefix(" ") == tokenizer.decode(tokens).removeprefix(" ")


@given(st.lists(st.integers(0, 450), max_size=60))
def test_no_sequence_of_tokens_fails(tokenizer: SentencePieceProcessor, tokens: list[int]) -> None:
    stream = TextStream(tokenizer, SILENT_TOKENS)
    "".join(map(stream.piece, tokens)).encode()  # text that can be written, whatever was said


def test_bytes_wait_for_their_character(tokenizer: SentencePieceProcessor) -> None:
    stream = TextStream(tokenizer, SILENT_TOKENS)
    spelled = [tokenizer.piece_to_id(f"<0x{byte:02X}>") for byte in "é".encode()]
    assert [stream.piece(token) for token in spelled] == ["", "é"]
    # Cut short by another piece, the lost character is marked and the next ones are whole.
    assert stream.piece(spelled[0]) == ""
    assert stream.piece(tokenizer.encode("the")[0]).startswith("\N{REPLACEMENT CHARACTER}")
    assert [stream.piece(token) for token in spelled] == ["", "é"]
