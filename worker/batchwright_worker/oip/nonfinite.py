"""NaN and infinities in JSON, both ways: the tokens NaN, Infinity and -Infinity.

RFC 8259 has none of them, yet Python's json, rapidjson and so Triton and its clients write and read these. An answer
with null in their place would be read as NaN by some and as nothing by others; these tokens are exact, and a reader
that lacks them fails where it reads them.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

import msgspec

_TOKENS: Final = (b"NaN", b"Infinity", b"\\ud", b"\\uD")
"""And escapes of surrogates: of one alone a strict parser says that the data were truncated."""
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def has_tokens(text: memoryview) -> bool:
    """May it hold one, or a text that is no Unicode? Asked only of what a strict parser has refused."""
    data = bytes(text)
    return any(token in data for token in _TOKENS)


def loads(text: memoryview) -> Any:
    """The value of JSON with tokens; numbers as exact as elsewhere. Raises ValueError: no JSON, a number that no float
    holds, which must not become an infinity, or a text that is no Unicode."""
    data = bytes(text)
    value = json.loads(data, parse_float=_finite)
    if _SURROGATE.search(data):
        json.dumps(value, ensure_ascii=False).encode()  # halves of pairs fail here, not in whoever writes them later
    return value


def with_tokens(value: Any) -> msgspec.Raw:
    """A value of `json` as JSON with tokens."""
    return msgspec.Raw(json.dumps(value, separators=(",", ":")).encode())


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"number out of range: {text[:40]}")
    return value
