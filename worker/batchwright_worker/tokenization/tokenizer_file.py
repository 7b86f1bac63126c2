"""A tokenizer.json, by the `tokenizers` library."""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple


class TokenizerError(ValueError):
    """The file is no tokenizer, or the library is not here."""


class LoadedTokenizer(NamedTuple):
    """`tokenizer` is the library's, without padding; `filler` the number of its padding token."""

    tokenizer: Any
    filler: int


@functools.lru_cache(maxsize=4)
def shared_tokenizer(path: str, max_tokens: int) -> LoadedTokenizer:
    """As `load_tokenizer`, once per process."""
    return load_tokenizer(path, max_tokens)


def load_tokenizer(path: str, max_tokens: int | None) -> LoadedTokenizer:
    """The tokenizer of a tokenizer.json; texts are cut to `max_tokens` with their special tokens (None: not at all).
    Raises TokenizerError."""
    try:
        library: Any = importlib.import_module("tokenizers")
    except ImportError as error:
        raise TokenizerError(f"{path!r} needs the package tokenizers: add it to the image") from error
    try:
        tokenizer = library.Tokenizer.from_file(path)
    except Exception as error:  # the library raises Exception itself
        raise TokenizerError(f"{path!r} cannot be read: {error}") from error
    numbers = (tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>", "<|endoftext|>"))
    padding = tokenizer.padding or {}
    filler = padding.get("pad_id", next((number for number in numbers if number is not None), 0))
    tokenizer.no_padding()
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_tokens)
    return LoadedTokenizer(tokenizer, int(filler))
