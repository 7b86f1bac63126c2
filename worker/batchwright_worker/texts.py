"""Texts that foreign code has made (a model, a function, a server, a file name), on their way out of a process.

A socket, a header, a JSON body, an Event or a termination message each takes some texts only and fails over others, at
the worst moment: while an error is reported. So a text is made presentable once, where it comes from; the whole of it
goes to the log there.
"""

from __future__ import annotations

import re
from typing import Final

ERROR_BYTES: Final = 1000
"""Of an error's text: gRPC clients refuse more than 8 KiB of trailing metadata in all, the API server Events of more
than 1 KiB."""

_CUT: Final = "…"
_UNFIT: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters but tab and line feed, and lone surrogates, which no encoding has."""


def presentable(text: str, most_bytes: int = ERROR_BYTES) -> str:
    """The text with what is unfit escaped, at most `most_bytes` long as UTF-8; one that was cut ends in an ellipsis.

    A byte that was not UTF-8 where the text was read (`os.fsdecode`) appears as that byte: `caf\\xe9`.
    """
    if len(text) <= most_bytes and text.isascii() and text.isprintable():
        return text
    # A character has a byte at least, so nothing behind so many is needed: an error's text may have megabytes.
    escaped = _UNFIT.sub(_escape, text[: most_bytes + 1])
    encoded = escaped.encode()
    if len(encoded) <= most_bytes:
        return escaped
    return encoded[: max(0, most_bytes - len(_CUT.encode()))].decode(errors="ignore") + _CUT


def text_of(error: BaseException) -> str:
    """What the error says of itself, whole; a class whose own text raises is one more fault of foreign code."""
    try:
        return str(error)
    except Exception as trouble:
        return f"its text cannot be made: {type(trouble).__name__}"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
