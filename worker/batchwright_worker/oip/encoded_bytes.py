"""A BYTES tensor as it travels: lengths and bytes of its elements, one after the other, with no Python object for each.

Who only passes rows on (the sidecar does) needs to know where each element ends and no more. To numpy, and to whoever
looks at an element, it is the object array of its elements, which is made then.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

_LENGTH: Final = struct.Struct("<I")
_OBJECT: Final = np.dtype(np.object_)


class BadBytesError(ValueError):
    """A BYTES buffer whose length prefixes do not add up, or an element that is neither text nor bytes."""


class EncodedBytes:
    """`data` holds the elements of an array of `shape` in C order. `ends`: where each element ends in `data`, int64,
    found out when rows are cut off where it is not given. `data` is trusted: see `checked`."""

    __slots__ = ("_ends", "data", "shape")

    dtype: Final = _OBJECT

    def __init__(self, data: bytes | memoryview, shape: tuple[int, ...], ends: NDArray[np.int64] | None = None) -> None:
        self.data = data
        self.shape = shape
        self._ends = ends

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Of the encoded elements."""
        return len(self.data)

    @property
    def ends(self) -> NDArray[np.int64]:
        """Where each element ends."""
        if self._ends is None:
            self._ends = element_ends(self.data, self.size)
        return self._ends

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice) or not self.shape or key.step not in (None, 1):
            return self.decoded()[key]
        start, stop, _ = key.indices(len(self))
        if (start, stop) == (0, len(self)):
            return self
        stop, per_row = max(start, stop), math.prod(self.shape[1:])
        first, last = start * per_row, stop * per_row
        begin = int(self.ends[first - 1]) if first else 0
        end = int(self.ends[last - 1]) if last > first else begin
        return EncodedBytes(
            memoryview(self.data)[begin:end], (stop - start, *self.shape[1:]), self.ends[first:last] - begin
        )

    def reshape(self, *shape: Any) -> EncodedBytes:
        """The same elements; -1 as in numpy. Raises ValueError."""
        wanted = np.broadcast_to(np.int8(0), self.shape).reshape(*shape).shape
        return EncodedBytes(self.data, wanted, self._ends)

    def decoded(self) -> NDArray[Any]:
        """The object array of its elements, as bytes."""
        data, elements, begin = bytes(self.data), np.empty(self.size, dtype=_OBJECT), 0
        for index, end in enumerate(self.ends.tolist()):
            elements[index] = data[begin + 4 : end]
            begin = end
        return elements.reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.decoded() if dtype is None else self.decoded().astype(dtype)

    def __getattr__(self, name: str) -> Any:
        """Everything else that arrays have."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.decoded(), name)


def is_encoded(array: object) -> TypeGuard[EncodedBytes]:
    """Is it one of these, although it is said to be an array?"""
    return isinstance(array, EncodedBytes)


def checked(data: bytes | memoryview, count: int) -> EncodedBytes:
    """`count` elements of somebody else's. Raises BadBytesError unless they fill `data` exactly."""
    return EncodedBytes(data, (count,), element_ends(data, count))


def encoded(array: NDArray[Any]) -> EncodedBytes:
    """Of an object array of bytes and text."""
    if is_encoded(array):
        return array
    elements = [each if type(each) is bytes else bytes_of(each) for each in array.reshape(-1).tolist()]
    lengths = np.fromiter(map(len, elements), dtype=np.int64, count=len(elements))
    prefixes = lengths.astype("<u4").tobytes()
    parts = (part for at, each in enumerate(elements) for part in (prefixes[4 * at : 4 * at + 4], each))
    return EncodedBytes(b"".join(parts), array.shape, np.cumsum(lengths + 4))


def bytes_of(element: Any) -> bytes:
    """Of one element. Raises BadBytesError for what is neither text nor bytes (`bytes(3)` would be three zeros), and
    for text that UTF-8 cannot write."""
    if isinstance(element, str):
        try:
            return element.encode()
        except UnicodeEncodeError as error:
            raise BadBytesError(f"a text of a BYTES tensor cannot be written in UTF-8: {error}") from error
    if isinstance(element, bytes | bytearray | memoryview):
        return bytes(element)
    raise BadBytesError(f"an element of a BYTES tensor is a {type(element).__name__}: wanted text or bytes")


def check_elements(array: NDArray[Any]) -> None:
    """Raises BadBytesError where `bytes_of` does, without a copy of what is bytes already."""
    for element in array.flat:
        if not isinstance(element, bytes):
            bytes_of(element)


def as_array(encoded: EncodedBytes) -> NDArray[Any]:
    """For who is told to take arrays: it behaves as one."""
    return cast(NDArray[Any], encoded)


def element_ends(data: bytes | memoryview, count: int) -> NDArray[np.int64]:
    """Where each of `count` elements ends. Raises BadBytesError unless they fill `data` exactly."""
    if count * _LENGTH.size > len(data):
        raise BadBytesError(f"it has {len(data)} bytes, too few for the lengths of {count} elements")
    ends: list[int] = []
    size, at, unpack, add = len(data), 0, _LENGTH.unpack_from, ends.append
    last = size - _LENGTH.size
    for _ in range(count):
        if at > last:
            raise BadBytesError(f"it ends before element {len(ends)} of {count}")
        (length,) = unpack(data, at)
        at += 4 + length
        if at > size:
            raise BadBytesError(f"element {len(ends)} claims {length} bytes, {size - at + length} are left")
        add(at)
    if at != size:
        raise BadBytesError(f"{size - at} bytes follow the last of {count} elements")
    return np.array(ends, dtype=np.int64)


def joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """As np.concatenate along the first dimension."""
    first = arrays[0]
    if not all(is_encoded(array) and array.shape[1:] == first.shape[1:] for array in arrays):
        return np.concatenate(arrays)
    rows = sum(array.shape[0] for array in arrays)
    data = b"".join(cast(EncodedBytes, array).data for array in arrays)
    return as_array(EncodedBytes(data, (rows, *first.shape[1:])))
