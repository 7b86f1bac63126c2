"""The error records of a data set, read again: which items failed, of what, and how often."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from batchwright_worker.runner.storage.locations import Location

MOST_REASONS: Final = 20
_MOST_KEPT: Final = 1000
_OTHER: Final = "other messages"
_VARIES: Final = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:\.\d+)?")


class ErrorCause(msgspec.Struct, kw_only=True, frozen=True):
    """Why an item failed."""

    task: str
    message: str


class ErrorRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One failed item; `position` counts the items of its shard from 0."""

    id: str
    position: int
    error: ErrorCause


class FailureReason(msgspec.Struct, kw_only=True, frozen=True):
    """Items that failed alike: messages that differ in numbers and quoted words alone are one reason, told by the
    first."""

    task: str
    message: str
    items: int
    first_item: str


_DECODER = msgspec.json.Decoder(ErrorRecord)


def error_records(output: Location, name: str) -> Iterator[ErrorRecord]:
    """Of one file below the output, in the order of the items. Blocking."""
    with output.fs.open(output.at(name), "rb") as file:
        for line in file:
            yield _DECODER.decode(line)


def reasons(records: Iterable[ErrorRecord]) -> list[FailureReason]:
    """Most frequent first, in bounded memory."""
    found: dict[tuple[str, str], FailureReason] = {}
    for record in records:
        key = record.error.task, _VARIES.sub("#", record.error.message)
        if key not in found and len(found) >= _MOST_KEPT:
            key = record.error.task, _OTHER
        known = found.get(key)
        if known is None:
            message = _OTHER if key[1] == _OTHER else record.error.message
            known = FailureReason(task=key[0], message=message, items=0, first_item=record.id)
        found[key] = msgspec.structs.replace(known, items=known.items + 1)
    return sorted(found.values(), key=lambda each: -each.items)[:MOST_REASONS]


def reason_line(reason: FailureReason) -> str:
    """For people."""
    return f"failed: {reason.items} in task {reason.task}, first {reason.first_item}: {reason.message}"


def reason_fields(reason: FailureReason) -> Mapping[str, object]:
    """For programs."""
    return {
        "task": reason.task,
        "message": reason.message,
        "items": reason.items,
        "firstItem": reason.first_item,
    }
