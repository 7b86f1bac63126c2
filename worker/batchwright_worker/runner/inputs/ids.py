"""The ids of items: from a field of their records, else from the place where they stand."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Any


class BadId(ValueError):  # noqa: N818
    """A record's id cannot be used; the message says why."""


def id_of(value: Any, place: str) -> str:
    """The id that this value of a record's id field stands for; `place` where there is none (absent, null, NaN).

    Whole numbers are the same id whatever type a tool gave them (7, 7.0); bytes are text where they are UTF-8, else
    escaped. Raises BadId.
    """
    if value is None:
        return place
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        if not value:
            raise BadId("its id is an empty text: leave the field out, or set input.idField to another field")
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return place
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, bool | list | dict):
        raise BadId(f"its id is {type(value).__name__}, not text or a number: set input.idField to another field")
    return str(value)


def ids_in_place(values: Iterable[Any], name: str, first: int = 0) -> Iterator[str]:
    """The ids of neighbouring records of a file by the values of their id field, from record `first` on; of one whose
    value cannot be used its place."""
    for number, value in enumerate(values, first):
        place = f"{name}:{number}"
        try:
            yield id_of(value, place)
        except BadId:
            yield place


def id_hash(name: str) -> int:
    """63 bits that are the same in every process: ids are compared by it, so that the plan of many millions of items
    fits a small pod."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()) >> 1
