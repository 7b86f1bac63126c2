"""The WordPiece tokenizer of BERT models, from the model's own vocab.txt; see `tokens`.

Text is cleaned, lower-cased and stripped of accents (uncased models), cut at white space and punctuation, Chinese
characters singly; each word is then cut greedily into the longest pieces of the vocabulary ("##" continues a word).
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator

from batchwright_worker.runner.cpu.builtin.source import lines

MAX_WORD_CHARACTERS = 100
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class Vocabulary:
    """Pieces and their numbers."""

    def __init__(self, pieces: list[str]) -> None:
        self.numbers = {piece: number for number, piece in enumerate(pieces)}
        missing = [piece for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if piece not in self.numbers]
        if missing:
            raise ValueError(f"the vocabulary has no {', '.join(missing)}: it must be the vocab.txt of a BERT model")

    def encode(self, text: str, *, lower: bool = True) -> list[int]:
        """Numbers of the text's pieces, without [CLS] and [SEP]."""
        return [number for word in words(text, lower=lower) for number in self._pieces(word)]

    def _pieces(self, word: str) -> list[int]:
        unknown = [self.numbers["[UNK]"]]
        if len(word) > MAX_WORD_CHARACTERS:
            return unknown
        found: list[int] = []
        start = 0
        while start < len(word):
            end = next((end for end in range(len(word), start, -1) if self._number(word, start, end) is not None), None)
            if end is None:
                return unknown
            found.append(self.numbers[_piece(word, start, end)])
            start = end
        return found

    def _number(self, word: str, start: int, end: int) -> int | None:
        return self.numbers.get(_piece(word, start, end))


def _piece(word: str, start: int, end: int) -> str:
    return f"##{word[start:end]}" if start else word[:end]


@functools.lru_cache(maxsize=4)
def load(path: str) -> Vocabulary:
    """The vocabulary in a vocab.txt, one piece a line. Raises ValueError."""
    try:
        return Vocabulary(lines(path))
    except OSError as error:
        raise ValueError(f"args.vocabulary {path!r} cannot be read: {error}") from error


def words(text: str, *, lower: bool = True) -> Iterator[str]:
    """Words and punctuation signs of a text."""
    word = ""
    for character in _cleaned(text, lower=lower):
        if character.isspace():
            yield from (word,) if word else ()
            word = ""
        elif _stands_alone(character):
            yield from (word, character) if word else (character,)
            word = ""
        else:
            word += character
    if word:
        yield word


def _cleaned(text: str, *, lower: bool) -> Iterator[str]:
    if lower:
        text = unicodedata.normalize("NFD", text.lower())
    for character in text:
        category = unicodedata.category(character)
        if character in "\t\n\r" or category == "Zs":
            yield " "
        elif character in "\0\ufffd" or category.startswith("C") or (lower and category == "Mn"):
            continue
        else:
            yield character


def _stands_alone(character: str) -> bool:
    point = ord(character)
    ascii_sign = 33 <= point <= 47 or 58 <= point <= 64 or 91 <= point <= 96 or 123 <= point <= 126
    chinese = any(first <= point <= last for first, last in _CJK)
    return ascii_sign or chinese or unicodedata.category(character).startswith("P")
