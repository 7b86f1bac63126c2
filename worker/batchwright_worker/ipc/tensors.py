"""Tensors inside slots: fixed-size elements as they lie in memory, BYTES with length prefixes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from batchwright_worker.inference.requests import Array
from batchwright_worker.ipc.messages import Placed
from batchwright_worker.ipc.slots import aligned
from batchwright_worker.oip.datatypes import decode_bytes, encode_bytes, encoded_size, name_of, numpy_of
from batchwright_worker.oip.encoded_bytes import EncodedBytes, as_array


def sized(offset: int, arrays: Mapping[str, Array]) -> int:
    """Where the slot must end if these arrays are written from `offset` on."""
    return offset + sum(aligned(_size(array)) for array in arrays.values())


def write(view: memoryview, offset: int, arrays: Mapping[str, Array]) -> list[Placed]:
    """Writes arrays one after the other, aligned; the view must be large enough (`sized`)."""
    return [_write(view, offset, name, array) for name, array, offset in _laid_out(offset, arrays)]


def read(view: memoryview, placed: Placed) -> Array:
    """The tensor, without a copy except for BYTES: it is valid until the slot is used again."""
    dtype = numpy_of(placed.datatype)
    if dtype is None:
        raise ValueError(f"{placed.datatype!r} is no datatype")
    count = math.prod(placed.shape)
    part = view[placed.offset : placed.offset + placed.size]
    if placed.datatype == "BYTES":
        return decode_bytes(part, count).reshape(placed.shape)
    return np.frombuffer(part, dtype=dtype, count=count).reshape(placed.shape)


def taken(view: memoryview, placed: Placed) -> Array:
    """A copy of the tensor, for who only passes it on: BYTES stay as they are written."""
    if placed.datatype == "BYTES":
        part = view[placed.offset : placed.offset + placed.size]
        return as_array(EncodedBytes(bytes(part), tuple(placed.shape)))
    return read(view, placed).copy()


def write_parts(view: memoryview, offset: int, name: str, parts: Sequence[Array]) -> Placed:
    """Concatenates parts along their first dimension straight into the slot: one copy per row and no more. A part alone
    may have no dimension."""
    first = parts[0]
    shape = list(first.shape) if len(parts) == 1 else [sum(len(part) for part in parts), *first.shape[1:]]
    if first.dtype == object:
        data = b"".join(encode_bytes(part) for part in parts)
        view[offset : offset + len(data)] = data
        return Placed(name=name, datatype="BYTES", shape=shape, offset=offset, size=len(data))
    size = math.prod(shape) * first.dtype.itemsize
    if size and first.dtype.isbuiltin == 1 and _write_bytes(view, offset, parts):
        return Placed(name=name, datatype=name_of(first.dtype), shape=shape, offset=offset, size=size)
    target = np.frombuffer(view[offset : offset + size], dtype=first.dtype).reshape(shape)
    if len(parts) == 1:
        np.copyto(target, first)
    else:
        np.concatenate(parts, axis=0, out=target)
    return Placed(name=name, datatype=name_of(first.dtype), shape=shape, offset=offset, size=size)


def _write_bytes(view: memoryview, offset: int, parts: Sequence[Array]) -> bool:
    """Plain memory copies, whatever the parts' alignment; False where one of them does not lie in one piece."""
    for part in parts:
        if part.size:
            try:
                data = part.data.cast("B")
            except TypeError:
                return False
            end = offset + data.nbytes
            view[offset:end] = data
            offset = end
    return True


def write_columns(view: memoryview, columns: Mapping[str, Sequence[Array]]) -> list[Placed]:
    """Every input's parts (`write_parts`), each input behind the one before; the view has `columns_size` bytes."""
    placed, end = [], 0
    for name, parts in columns.items():
        written = write_parts(view, end, name, parts)
        placed.append(written)
        end += aligned(written.size)
    return placed


def columns_size(columns: Mapping[str, Sequence[Array]]) -> int:
    """Aligned bytes that write_columns takes."""
    total = 0
    for parts in columns.values():
        size = 0
        for part in parts:
            size += encoded_size(part) if part.dtype.hasobject else part.nbytes
        total += aligned(size)
    return total


def _laid_out(offset: int, arrays: Mapping[str, Array]) -> list[tuple[str, Array, int]]:
    placed = []
    for name, array in arrays.items():
        placed.append((name, array, offset))
        offset += aligned(_size(array))
    return placed


def _write(view: memoryview, offset: int, name: str, array: Array) -> Placed:
    return write_parts(view, offset, name, [array])


def _size(array: Array) -> int:
    if array.dtype.hasobject:
        return encoded_size(array)
    return int(array.nbytes)
