"""What a block of items leaves in the output: a record for each item that worked, an error record for each other."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from batchwright_worker.runner.errors import TaskFailed
from batchwright_worker.runner.graph.block_values import BlockValues, plain_list


class NotFiniteError(TaskFailed):
    """The result holds NaN or infinity, and is to be written as JSON."""


@dataclass(slots=True, kw_only=True)
class BlockResults:
    """Consecutive items of a shard, of which the first is at `first`. `columns`: the values of each sink and of the
    input's columns that are passed on, by name. `failures`: item -> (task, message); an encoder adds what cannot be
    written. Items are numbers within the block."""

    first: int
    ids: Sequence[str]
    columns: Mapping[str, BlockValues]
    failures: dict[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def good(self) -> list[int]:
        """Items that did not fail."""
        return [item for item in range(len(self.ids)) if item not in self.failures]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBlock:
    """`records` as the part's format wants them, `errors` as lines of JSON."""

    count: int
    nbytes: int
    records: Any
    errors: Sequence[bytes]


def error_lines(block: BlockResults) -> list[bytes]:
    """`{"id": .., "position": .., "error": {"task": .., "message": ..}}`; `position` counts a shard's items from 0."""
    return [
        _ENCODER.encode(
            {
                "id": block.ids[item],
                "position": block.first + item,
                "error": {"task": task, "message": message},
            }
        )
        for item, (task, message) in sorted(block.failures.items())
    ]


class JsonRecords:
    """Lines of JSON: the same values give the same bytes; numpy values become lists, bytes base64."""

    def encode(self, block: BlockResults) -> EncodedBlock:
        """`{"id": .., NAME: value, ..}`; what has no JSON form (NaN, infinities, objects) is that item's error."""
        columns = {name: _spread(len(block.ids), values) for name, values in block.columns.items()}
        records = _records(block.ids, columns)
        if block.failures:
            records = [records[item] for item in block.good]
        lines = _at_once(records)
        lines = _one_by_one(block, records) if lines is None else lines
        errors = error_lines(block)
        size = len(lines) + sum(map(len, errors))
        return EncodedBlock(count=len(block.ids), nbytes=size, records=lines, errors=errors)


def _records(ids: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    if len(columns) == 1:  # most jobs have one sink, and this takes a third of the time
        ((name, values),) = columns.items()
        return [{"id": item, name: value} for item, value in zip(ids, values, strict=True)]
    names, rows = ("id", *columns), zip(ids, *columns.values(), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _at_once(records: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Lines, if none of them needs a look (see `plain_json`)."""
    try:
        lines = _ENCODER.encode_lines(records)
    except _UNSPEAKABLE:
        return None
    return None if b"null" in lines else lines


def _one_by_one(block: BlockResults, records: Sequence[Mapping[str, Any]]) -> bytes:
    """Lines of those that have a JSON form; the others become failures of the block."""
    lines = []
    for item, record in zip(block.good, records, strict=True):
        try:
            lines.append(plain_json(record))
        except TaskFailed as failure:
            block.failures[item] = (_culprit(record), str(failure))
    return b"\n".join((*lines, b""))


def plain_json(value: Any) -> bytes:
    """The value as JSON. Raises TaskFailed for what has no JSON form."""
    try:
        raw = _ENCODER.encode(value)
        # what is not finite is encoded as null: only then is it worth a look
        not_finite = b"null" in raw and _is_nonfinite(value)
    except RecursionError as error:
        raise TaskFailed("the result cannot be written as JSON: it is nested too deeply, or holds itself") from error
    except _UNSPEAKABLE as error:
        raise TaskFailed(
            f"the result cannot be written as JSON: {error}; return numbers, text, lists, dicts"
        ) from error
    if not_finite:
        raise NotFiniteError(
            "the result holds NaN or infinity, which JSON cannot say: replace it in a CPU task, or write output.format "
            "parquet, which keeps it"
        )
    return raw


def json_text(value: Any) -> str:
    """The value as JSON in a column that reads as text, where NaN and the infinities are the words by which Python's
    json writes and reads them: whether a column is one of texts depends on what other items hold, so that no value may
    fail for it. Raises TaskFailed for what has no JSON form else."""
    try:
        return plain_json(value).decode()
    except NotFiniteError:
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def _culprit(record: Mapping[str, Any]) -> str:
    """The column that has no JSON form, by whose task the item failed."""
    _, *names = record
    for name in names:
        try:
            plain_json(record[name])
        except TaskFailed:
            return name
    return names[0] if names else ""


def _spread(count: int, values: BlockValues) -> list[Any]:
    """The values at their items' places, columns as plain numbers, None where there is none."""
    if len(values) == count:
        return list(values.plain())
    spread: list[Any] = [None] * count
    for item, value in zip(values.items, values.plain(), strict=True):
        spread[item] = value
    return spread


def _is_nonfinite(value: Any) -> bool:
    if isinstance(value, float | np.floating):
        return not math.isfinite(value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f" and not bool(np.isfinite(value).all())
    return any(map(_is_nonfinite, _elements(value)))


def _elements(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return plain_list(value)
    if isinstance(value, np.generic):
        plain = plain_list(np.asarray(value))
        if isinstance(plain, np.generic):  # a long double has no other form, and would come here again for ever
            raise TypeError(f"numpy.{value.dtype} has no JSON form")
        return plain
    if isinstance(value, bytearray | memoryview):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no JSON form")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)
_UNSPEAKABLE: Final = (TypeError, ValueError, RecursionError, msgspec.MsgspecError)
