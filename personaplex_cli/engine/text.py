"""Tokens to text, one at a time, as they are spoken."""

from codecs import getincrementaldecoder

from sentencepiece import SentencePieceProcessor

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's mark of a word's beginning
SILENT_TOKENS = range(4)  # EPAD 0, 1, 2 and PAD 3 print nothing


class TextStream:
    """Admission text tokens into pieces of text. A word's first piece begins with a space.

    Characters that the tokenizer spells in several bytes come out whole, with their last byte.
    """

    def __init__(self, tokenizer: SentencePieceProcessor) -> None:
        self._tokenizer = tokenizer
        self._bytes = getincrementaldecoder("utf-8")(errors="replace")

    def piece(self, token: int) -> str:
        """The text that this token adds, often empty."""
        if token in SILENT_TOKENS or token >= self._tokenizer.get_piece_size():
            return ""
        piece: str = self._tokenizer.id_to_piece(token)
        if self._tokenizer.is_byte(token):
            return self._bytes.decode(bytes([int(piece[3:-1], 16)]))  # <0xE2>
        cut_short = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return cut_short + piece.replace(SPACE, " ")
