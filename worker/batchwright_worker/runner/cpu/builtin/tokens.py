"""Built-in tokenize: rows for language models, by a BERT model's vocab.txt or by any tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.runner.cpu.builtin import wordpiece
from batchwright_worker.runner.cpu.builtin.source import value_of
from batchwright_worker.tokenization.tokenizer_file import TokenizerError, shared_tokenizer


class _Tokens(NamedTuple):
    ids: list[int]
    types: list[int]
    filler: int


def tokenize(  # noqa: PLR0913 - the arguments of a manifest
    inputs: Mapping[str, Any],
    *,
    vocabulary: str | None = None,
    tokenizer: str | None = None,
    of: str | None = None,
    max_length: int = 256,
    multiple: int | None = None,
    lower: bool = True,
    names: Mapping[str, str] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """A row for a language model: input_ids, attention_mask, token_type_ids (int64), at most `max_length` tokens with
    the special ones, padded so that sentences of like length share batches: to a multiple of `multiple`, or where that
    is unset by at most an eighth.

    `vocabulary`: path of a BERT model's vocab.txt (WordPiece, [CLS] .. [SEP], `lower`: uncased). `tokenizer`: path of a
    tokenizer.json (BPE, Unigram, WordPiece ..), whose own normalisation and special tokens apply. `names` renames
    inputs; an empty name leaves one out. Raises ValueError.
    """
    text = value_of(inputs, of)
    if not isinstance(text, str):
        raise ValueError(f"wanted text, given {type(text).__name__}; take it out of a record with json-fields, single")  # noqa: TRY004
    if (vocabulary is None) == (tokenizer is None):
        raise ValueError("give either args.vocabulary, a vocab.txt, or args.tokenizer, a tokenizer.json")
    tokens = _by_file(text, tokenizer, max_length) if tokenizer else _by_words(text, str(vocabulary), max_length, lower)
    padded = _padded_length(len(tokens.ids), max_length) if multiple is None else _rounded(len(tokens.ids), multiple)
    row = {
        "input_ids": _padded(tokens.ids, padded, tokens.filler),
        "attention_mask": _padded([1] * len(tokens.ids), padded, 0),
        "token_type_ids": _padded(tokens.types, padded, 0),
    }
    renamed = names or {}
    return {renamed.get(name, name): array for name, array in row.items() if renamed.get(name, name)}


def prepare(*, vocabulary: str | None = None, tokenizer: str | None = None, max_length: int = 256, **_: object) -> None:
    """Read the file of these arguments, which then stays. Raises ValueError."""
    if tokenizer:
        shared_tokenizer(tokenizer, max_length)
    if vocabulary:
        wordpiece.load(vocabulary)


def _by_words(text: str, vocabulary: str, max_length: int, lower: bool) -> _Tokens:
    known = wordpiece.load(vocabulary)
    tokens = known.encode(text, lower=lower)[: max_length - 2]
    return _Tokens([known.numbers["[CLS]"], *tokens, known.numbers["[SEP]"]], [], known.numbers["[PAD]"])


def _by_file(text: str, path: str, max_length: int) -> _Tokens:
    try:
        tokenizer, filler = shared_tokenizer(path, max_length)
    except TokenizerError as error:
        raise ValueError(f"args.tokenizer {error}") from error
    encoding = tokenizer.encode(text)
    return _Tokens(encoding.ids, encoding.type_ids, filler)


def _padded_length(count: int, most: int) -> int:
    """Eight lengths from each power of two to the next: few enough for rows to meet, and a row is filled up by a
    sixteenth on average. (A network computes what is filled up like everything else.)"""
    return max(count, min(most, _rounded(count, 1 << max(0, count.bit_length() - 4))))


def _rounded(count: int, multiple: int) -> int:
    if multiple < 1:
        raise ValueError(f"args.multiple is {multiple}: it must be at least 1")
    return -(-count // multiple) * multiple


def _padded(values: list[int], length: int, filler: int) -> NDArray[np.int64]:
    return np.asarray(values + [filler] * (length - len(values)), dtype=np.int64)
