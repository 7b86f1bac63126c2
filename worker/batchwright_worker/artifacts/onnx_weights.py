"""Which other files an ONNX model keeps weights in, read off the file as it lies: in a pod's fetch container nothing
takes the memory of the model, as parsing it with `onnx` would.

A reader of protobuf's wire format that follows only the fields that lead to tensors (numbers from onnx.proto3); a test
holds it against the package's own.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

Buffer = mmap.mmap | memoryview
_TENSOR: Final = "tensor"
_CHILDREN: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
}
_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _NoProtobufError(Exception):
    """The bytes are no message of this form."""


def external_locations(path: Path) -> list[str]:
    """The locations as the model writes them, each once, in no order to rely on. [] for a file that is no protobuf: an
    ONNX file of another form (ORT's own), or a broken one, about which its load says more."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return list(dict.fromkeys(_locations(data, "model", 0, len(data))))
            except _NoProtobufError:
                return []


def _locations(data: Buffer, message: str, start: int, end: int) -> Iterator[str]:
    """Of all tensors below; a stack of its own, since a model may nest graphs as deeply as it likes."""
    stack = [(message, start, end)]
    while stack:
        message, start, end = stack.pop()
        if message == _TENSOR:
            yield from _of_tensor(data, start, end)
            continue
        children = _CHILDREN[message]
        for number, kind, begin, stop in _fields(data, start, end):
            if kind == _BYTES and number in children:
                stack.append((children[number], begin, stop))


def _of_tensor(data: Buffer, start: int, end: int) -> Iterator[str]:
    external, locations = False, []
    for number, kind, begin, stop in _fields(data, start, end):
        if number == _DATA_LOCATION and kind == _VARINT:
            external = begin == _EXTERNAL
        elif number == _EXTERNAL_DATA and kind == _BYTES:
            entry = {
                field: bytes(data[first:last]).decode(errors="replace")
                for field, of_kind, first, last in _fields(data, begin, stop)
                if of_kind == _BYTES
            }
            if entry.get(_KEY) == "location":
                locations.append(entry.get(_VALUE, ""))
    if external:
        yield from locations


def _fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, begin, end) of each field; of a varint, its value in the place of `begin`."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at, end)
            yield number, kind, value, at
            continue
        if kind == _BYTES:
            size, at = _varint(data, at, end)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise _NoProtobufError
        if number == 0 or at + size > end:
            raise _NoProtobufError
        yield number, kind, at, at + size
        at += size


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _NoProtobufError
