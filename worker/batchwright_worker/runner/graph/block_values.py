"""What one task gave for the items of a block: columns where all values are arrays of one shape, else one by one.

A value is taken when it is given: what a function does to its result afterwards, or that it returns the same buffer
each time, changes nothing. No two items share a mutable part of their values.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.runner.graph.blobs import Blob, pack, unpack

Columns = dict[str, NDArray[Any]]
_FINE: Final = ("ns", "ps", "fs", "as")
_Kind = tuple[str, bool, np.dtype[Any], tuple[int, ...]]
"""Name, whether it is a scalar, type and shape: values of equal kinds share columns."""


class BlockValues:
    """The values of the items that have one; `items` are their numbers within the block, ascending. Either `columns`
    (the value of the k-th is {name: column[k]}, or column[k] alone if `bare`) or `rows`."""

    __slots__ = ("_places", "bare", "columns", "items", "rows")

    def __init__(
        self,
        items: Sequence[int],
        *,
        columns: Columns | None = None,
        rows: Sequence[Any] = (),
        bare: bool = False,
    ) -> None:
        self.items = items
        self.columns = columns
        self.rows = rows
        self.bare = bare
        self._places: dict[int, int] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def value(self, item: int) -> Any:
        """The value of the item with this number, which has one."""
        if self._places is None:
            self._places = {number: place for place, number in enumerate(self.items)}
        return self.at(self._places[item])

    def at(self, place: int) -> Any:
        """The value of the item at this place of `items`."""
        if self.columns is None:
            return self.rows[place]
        if self.bare:
            return self.columns[""][place]
        return {name: column[place] for name, column in self.columns.items()}

    def plain(self) -> Iterator[Any]:
        """The values in order, columns as lists of plain numbers and text."""
        if self.columns is None:
            return iter(self.rows)
        lists = [plain_list(column) for column in self.columns.values()]
        if self.bare:
            return iter(lists[0])
        names = tuple(self.columns)
        return (dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True))

    @property
    def nbytes(self) -> int:
        """Memory of the columns; what rows hold is not known."""
        return sum(column.nbytes for column in (self.columns or {}).values())

    def unwrapped(self) -> BlockValues:
        """Values that are {name: value} of one name each, or lists of such, as the value alone."""
        if self.columns is None:
            return BlockValues(self.items, rows=[_unwrapped(value) for value in self.rows])
        if len(self.columns) != 1:
            return self
        (column,) = self.columns.values()
        return BlockValues(self.items, columns={"": column}, bare=True)

    def only(self, items: Sequence[int]) -> BlockValues:
        """The values of these items, which all have one."""
        if len(items) == len(self.items):
            return self
        wanted = set(items)
        places = [place for place, number in enumerate(self.items) if number in wanted]
        if self.columns is None:
            return BlockValues(items, rows=[self.rows[place] for place in places])
        return BlockValues(items, columns={n: c[places] for n, c in self.columns.items()}, bare=self.bare)


def plain_list(array: NDArray[Any]) -> Any:
    """As `tolist`, of which numpy would make bare numbers of times that are finer than Python's: they are text."""
    is_fine = array.dtype.kind in "mM" and np.datetime_data(array.dtype)[0] in _FINE
    return array.astype(str).tolist() if is_fine else array.tolist()


def pack_values(values: BlockValues) -> Blob:
    """For another process. Rows must not share mutable parts (as those that were just decoded do not)."""
    return pack((tuple(values.items), values.columns, values.bare, values.rows, None))


def unpack_values(blob: Blob) -> BlockValues:
    """What `pack_values` or ValuesWriter packed."""
    items, columns, bare, rows, pickles = unpack(blob)
    if columns is not None:  # functions may change what they are given
        columns = {name: column if column.flags.writeable else column.copy() for name, column in columns.items()}
    if pickles is not None:
        rows = [pickle.loads(head, buffers=buffers) for head, buffers in pickles]  # noqa: S301 - our own processes'
    return BlockValues(items, columns=columns, rows=rows, bare=bare)


def packed_apart(values: BlockValues) -> Blob:
    """For another process, of values that may share mutable parts. Raises what pickle raises."""
    if values.columns is not None:
        return pack_values(values)
    writer = ValuesWriter(len(values))
    for item, value in zip(values.items, values.rows, strict=True):
        writer.put(item, value)
    return writer.blob()


class ValuesWriter:
    """Takes the values of a block's items one after the other."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: list[int] = []
        self._columns: Columns | None = None
        self._bare = False
        self._kinds: list[_Kind] = []
        self._pickles: list[tuple[bytes, tuple[Any, ...]]] | None = None

    def put(self, item: int, value: Any) -> None:
        """Take the value of this item. Raises what pickle raises for what cannot be pickled."""
        if self._pickles is not None or not self._column(value):
            pickled = self._pickled(value)
            self._to_pickles().append(pickled)
        self._items.append(item)

    def blob(self) -> Blob:
        """All of them, for another process."""
        if self._pickles is not None:
            return pack((tuple(self._items), None, False, (), self._pickles))
        count = len(self._items)
        columns = {name: column[:count] for name, column in (self._columns or {}).items()}
        return pack((tuple(self._items), columns or None, self._bare, (), None))

    def _column(self, value: Any) -> bool:
        """Put it into the columns, if it fits them."""
        bare = not isinstance(value, dict)
        named = {"": value} if bare else value
        kinds = _kinds(named)
        if kinds is None:
            return False
        if self._columns is None:
            self._bare, self._kinds = bare, kinds
            if self._most == 1:
                self._columns = {name: np.asarray(array)[np.newaxis] for name, array in named.items()}
                return True
            self._columns = {n: np.empty((self._most, *a.shape), a.dtype) for n, a in named.items()}
        elif (bare, kinds) != (self._bare, self._kinds):
            return False
        place = len(self._items)
        for name, array in named.items():
            self._columns[name][place] = array
        return True

    def _to_pickles(self) -> list[tuple[bytes, tuple[Any, ...]]]:
        if self._pickles is None:
            values = BlockValues(self._items, columns=self._columns, bare=self._bare)
            self._pickles = [self._pickled(values.at(place)) for place in range(len(self._items))]
            self._columns = None
        return self._pickles

    def _pickled(self, value: Any) -> tuple[bytes, tuple[Any, ...]]:
        blob = pack(value)
        if self._most == 1:
            return blob.head, tuple(np.frombuffer(buffer, np.uint8) for buffer in blob.buffers)
        # The buffers are the value's own memory, and the function may use it again for its next result.
        return blob.head, tuple(np.array(np.frombuffer(buffer, np.uint8)) for buffer in blob.buffers)


def _unwrapped(value: Any) -> Any:
    if isinstance(value, list):
        return [_unwrapped(each) for each in value]
    return next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value


def merged(parts: Sequence[BlockValues]) -> BlockValues:
    """Values of different items of one block as one."""
    values = {number: part.at(place) for part in parts for place, number in enumerate(part.items)}
    items = sorted(values)
    return BlockValues(items, rows=[values[number] for number in items])


def _kinds(named: Mapping[Any, Any]) -> list[_Kind] | None:
    """Of values that can be parts of columns: arrays (0-d ones apart: as part of a column they would become scalars)
    and numpy scalars, without objects. None for others."""
    kinds: list[_Kind] = []
    for name, each in named.items():
        scalar = isinstance(each, np.generic)
        stacks = scalar or (type(each) is np.ndarray and each.ndim)
        if not (isinstance(name, str) and stacks) or each.dtype.hasobject:
            return None
        kinds.append((name, scalar, each.dtype, each.shape))
    return kinds or None
