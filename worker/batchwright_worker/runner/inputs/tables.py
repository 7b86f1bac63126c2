"""parquet (one item per record) and npy (one item per element of the first dimension)."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator
from itertools import chain
from typing import Any

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs import arrow_values
from batchwright_worker.runner.inputs.ids import id_hash, ids_in_place
from batchwright_worker.runner.inputs.items import Cuts, Item, Measured, SourceFile
from batchwright_worker.runner.storage.locations import Location
from batchwright_worker.runner.storage.plan_file import PlannedSegment

_RECORDS_AT_ONCE = 512
_BYTES_AT_ONCE = 4 << 20


class Parquet:
    """Records of a parquet file as dicts; the id is column `id_field` if there is one, else `name:record`."""

    suffixes: tuple[str, ...] = (".parquet", ".pq")

    def __init__(self, id_field: str = "id") -> None:
        self._id_field = id_field

    def measure(self, location: Location, file: SourceFile, cuts: Cuts) -> Measured:
        """The number of records, from the footer; ids from their column alone."""
        with _contents(file.path), _parquet(location, file.path) as table:
            arrow_values.check_names(table.schema_arrow, file.path)
            ids = None
            if self._id_field in table.schema_arrow.names:
                ids = array("q", (id_hash(name) for name in _ids(table, self._id_field, file.name)))
            return Measured(count=table.metadata.num_rows, ids=ids)

    def read(self, location: Location, segment: PlannedSegment) -> Iterator[Item]:
        """Records of a segment; row groups outside of it are not read."""
        with _contents(segment.path), _parquet(location, segment.path) as table:
            groups, first = _row_groups(table.metadata, segment.start, segment.start + segment.count)
            index = first
            for batch in table.iter_batches(batch_size=_RECORDS_AT_ONCE, row_groups=groups):
                start = max(segment.start - index, 0)
                chosen = batch.slice(start, max(0, segment.start + segment.count - index - start))
                yield from arrow_values.batch_items(chosen, self._id_field, segment.name, index + start)
                index += batch.num_rows

    def names_with_id(self, location: Location, file: SourceFile, wanted: str) -> Iterator[str]:
        """Places of the records with this id."""
        with _contents(file.path), _parquet(location, file.path) as table:
            for index, name in enumerate(_ids(table, self._id_field, file.name)):
                if name == wanted:
                    yield f"{file.name}:{index}"


@contextlib.contextmanager
def _contents(path: str) -> Iterator[None]:
    """What the library says of a file's contents. Raises StepFailed(InputInvalid)."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise _no_parquet(path, error) from error
    except OSError as error:
        if type(error) is not OSError or error.errno is not None:  # of whatever it is read from
            raise
        raise _no_parquet(path, error) from error


def _no_parquet(path: str, error: Exception) -> StepFailed:
    message = f"{path} is no parquet file, or damaged or encrypted ({error}): correct it or set input.format"
    return StepFailed("InputInvalid", message)


def _parquet(location: Location, path: str) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(location.open(path))


def _ids(table: Any, id_field: str, name: str) -> Iterator[str]:
    batches = table.iter_batches(columns=[id_field])
    return ids_in_place(chain.from_iterable(arrow_values.id_values(batch.column(0)) for batch in batches), name)


def _row_groups(metadata: Any, start: int, end: int) -> tuple[list[int], int]:
    """Row groups that overlap records start .. end - 1, and the number of the first record in them."""
    groups: list[int] = []
    first, position = start, 0
    for group in range(metadata.num_row_groups):
        following = position + metadata.row_group(group).num_rows
        if position < end and following > start:
            first = position if not groups else first
            groups.append(group)
        position = following
    return groups, first


class Npy:
    """Elements of the first dimension of a .npy file; ids are `name:index`."""

    suffixes: tuple[str, ...] = (".npy",)

    def measure(self, location: Location, file: SourceFile, cuts: Cuts) -> Measured:
        """The length of the first dimension, and whether the file holds as much as its header says."""
        with location.open(file.path) as stream:
            shape, dtype, offset = _header(stream, file.path)
        row_bytes = _row_bytes(shape, dtype)
        if file.size and offset + shape[0] * row_bytes > file.size:
            message = (
                f"{file.path} is cut off: its header says {shape[0]} elements of {row_bytes} bytes; write it again"
            )
            raise StepFailed("InputInvalid", message)
        return Measured(count=shape[0])

    def read(self, location: Location, segment: PlannedSegment) -> Iterator[Item]:
        """Elements of a segment, read in blocks."""
        import numpy as np

        with location.open(segment.path) as stream:
            shape, dtype, offset = _header(stream, segment.path)
            row_bytes = _row_bytes(shape, dtype)
            at_once = max(1, _BYTES_AT_ONCE // max(1, row_bytes))
            stream.seek(offset + segment.start * row_bytes)
            for start in range(segment.start, segment.start + segment.count, at_once):
                count = min(at_once, segment.start + segment.count - start)
                block = np.frombuffer(stream.read(count * row_bytes), dtype=dtype).reshape(count, *shape[1:])
                for index in range(count):
                    yield Item(id=f"{segment.name}:{start + index}", data=block[index], nbytes=row_bytes)

    def names_with_id(self, location: Location, file: SourceFile, wanted: str) -> Iterator[str]:
        """Ids are unique by construction."""
        return iter(())


def _header(stream: Any, path: str) -> tuple[tuple[int, ...], Any, int]:
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, EOFError) as error:
        raise StepFailed("InputInvalid", f"{path} is no .npy file ({error}): write it with numpy.save") from error
    if fortran or dtype.hasobject or not shape:
        message = (
            f"{path}: an array of plain numbers in C order with at least one dimension is needed, this is "
            f"{dtype}, shape {shape}, Fortran order {fortran}; save numpy.ascontiguousarray(a)"
        )
        raise StepFailed("InputInvalid", message)
    return shape, dtype, stream.tell()


def _row_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    size = int(dtype.itemsize)
    for extent in shape[1:]:
        size *= extent
    return size
