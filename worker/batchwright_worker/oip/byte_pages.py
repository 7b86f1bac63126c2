"""BYTES tensors of many elements through pyarrow: Parquet's PLAIN encoding of a BYTE_ARRAY column is the protocol's.

Both write 4 bytes little-endian length and the bytes for each element, so the body of a column's only page is the
encoded tensor. Small tensors are not for this module: a file's head and foot cost 0.1 ms. Nor are long elements: a
loop over them costs less than the file's copies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

_SCHEMA = pa.schema([pa.field("elements", pa.binary(), nullable=False)])
_FRAME_BYTES = 4096
"""More than the file has around the page's body."""
_LARGEST = 2**31 - 1 - _FRAME_BYTES
"""Parquet counts a page's bytes in 32 bits, with a sign."""
_LONG = 128
"""Average bytes of an element, with its length, beyond which a loop is faster."""


def encode(elements: NDArray[Any]) -> bytes | None:
    """A one-dimensional object array of bytes and text, encoded; None where a loop must or should do it."""
    try:
        values = pa.array(elements, pa.binary(), from_pandas=False)
    except (pa.ArrowException, TypeError, UnicodeError):
        return None
    if not isinstance(values, pa.Array) or values.null_count or not _is_worth_it(_encoded_size(values), len(values)):
        return None
    file, body = _file(values)
    return bytes(file[body])


def decode(data: bytes | memoryview, count: int) -> NDArray[Any] | None:
    """`count` elements as an object array; None where they do not fill `data` exactly or a loop should do it."""
    if not _is_worth_it(len(data), count):
        return None
    file, body = _file(_placeholder(data, count))
    file[body] = data
    try:
        column = parquet.ParquetFile(pa.BufferReader(file)).read(use_threads=False).column(0)
    except (pa.ArrowException, OSError):
        return None
    if len(column) != count or sum(_encoded_size(chunk) for chunk in column.chunks) != len(data):
        return None
    array: NDArray[Any] = column.to_numpy()
    return array


def _is_worth_it(size: int, count: int) -> bool:
    return 0 < 4 * count <= size <= min(_LARGEST, count * _LONG)


def _file(values: Any) -> tuple[memoryview, slice]:
    """A Parquet file of one column in one page, and where the page's body lies."""
    size = _encoded_size(values)
    memory = bytearray(size + _FRAME_BYTES)
    sink = pa.FixedSizeBufferWriter(pa.py_buffer(memory))
    options: dict[str, Any] = {
        "use_dictionary": False,
        "compression": "none",
        "write_statistics": False,
        "store_schema": False,
        "data_page_size": 2**31 - 1,
        "max_rows_per_page": len(values),
    }
    with parquet.ParquetWriter(sink, _SCHEMA, **options) as writer:
        writer.write_table(pa.Table.from_arrays([values], schema=_SCHEMA), row_group_size=len(values))
    file = memoryview(memory)[: sink.tell()]
    column = parquet.read_metadata(pa.BufferReader(file)).row_group(0).column(0)
    end = column.data_page_offset + column.total_compressed_size
    return file, slice(end - size, end)


def _placeholder(data: bytes | memoryview, count: int) -> Any:
    """`count` elements of as many encoded bytes as `data` has, for their place in the file."""
    ends = np.zeros(count + 1, dtype=np.int32)
    ends[-1] = len(data) - 4 * count
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(ends), pa.py_buffer(data)])


def _encoded_size(values: Any) -> int:
    first, last = np.frombuffer(values.buffers()[1], dtype=np.int32)[[values.offset, values.offset + len(values)]]
    return int(last - first) + 4 * len(values)
