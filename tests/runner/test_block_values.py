"""Values of a block's items come out as they went in, one by one, whatever shares memory with them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.runner.graph.block_values import (
    BlockValues,
    ValuesWriter,
    merged,
    pack_values,
    unpack_values,
)

arrays = st.builds(
    lambda shape, start, kind: (np.arange(int(np.prod(shape))) + start).reshape(shape).astype(kind),
    st.sampled_from([(), (2,), (3,), (2, 1), (0,), (40, 60)]),
    st.integers(0, 100),
    st.sampled_from(["float32", "int64", ">i2", "bool"]),
)
values = st.one_of(
    arrays,
    st.builds(np.float32, st.integers(0, 9)),
    st.dictionaries(st.sampled_from("xy"), st.one_of(arrays, st.builds(np.int8, st.integers(0, 9)))),
    st.none(),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
)
blocks = st.one_of(
    st.lists(values, max_size=6),
    st.lists(arrays.filter(lambda each: each.shape == (3,)), max_size=6),
    st.lists(st.fixed_dictionaries({"x": arrays.filter(lambda each: each.dtype == "float32")}), max_size=6),
)


def same(one: Any, other: Any) -> bool:
    """Equal in type, and arrays in byte order and shape."""
    if isinstance(one, np.ndarray):
        alike = type(other) is np.ndarray and (one.dtype, one.shape) == (other.dtype, other.shape)
        return alike and bool((one == other).all())
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return type(other) is list and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


@given(blocks, st.booleans())
def test_what_is_put_comes_out(given_values: list[Any], odd: bool) -> None:
    items = [2 * number + odd for number in range(len(given_values))]
    writer = ValuesWriter(len(items))
    for item, value in zip(items, given_values, strict=True):
        writer.put(item, value)
    for found in (unpack_values(writer.blob()), unpack_values(pack_values(unpack_values(writer.blob())))):
        assert list(found.items) == items
        assert all(same(value, found.value(item)) for item, value in zip(items, given_values, strict=True))
        assert len(list(found.plain())) == len(items)


@pytest.mark.parametrize("size", [4, 4000])
@pytest.mark.parametrize("wrap", [lambda buffer: buffer, lambda buffer: {"x": buffer}, lambda buffer: [buffer]])
def test_a_buffer_that_is_used_again_changes_no_earlier_value(size: int, wrap: Any) -> None:
    writer, buffer = ValuesWriter(3), np.zeros(size)
    for item in range(3):
        buffer[:] = item
        writer.put(item, wrap(buffer))
    found = unpack_values(writer.blob())
    assert all(same(wrap(np.full(size, item, float)), found.value(item)) for item in range(3))


def test_items_share_nothing_that_one_of_them_could_change() -> None:
    writer, shared = ValuesWriter(2), ["a"]
    for item in range(2):
        writer.put(item, {"list": shared, "array": np.zeros(2)})
    found = unpack_values(writer.blob())
    found.value(0)["list"].append("b")
    found.value(0)["array"][:] = 1
    assert found.value(1)["list"] == ["a"]
    assert found.value(1)["array"].tolist() == [0, 0]


def test_arrays_can_be_changed_where_they_arrive() -> None:
    column = np.frombuffer(np.arange(6, dtype=np.float32).tobytes(), np.float32).reshape(3, 2)
    found = unpack_values(pack_values(BlockValues(range(3), columns={"y": column})))
    found.value(1)["y"][0] = 9
    assert found.value(1)["y"].tolist() == [9, 3]


def test_what_cannot_be_pickled_leaves_the_others_alone() -> None:
    writer = ValuesWriter(3)
    writer.put(0, np.zeros(2))
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        writer.put(1, lambda: None)
    writer.put(2, np.ones(2))
    found = unpack_values(writer.blob())
    assert list(found.items) == [0, 2]
    assert found.value(2).tolist() == [1, 1]


def test_values_of_different_items_are_joined_in_their_order() -> None:
    found = merged([BlockValues((3,), rows=["c"]), BlockValues((0, 5), rows=["a", "e"])])
    assert list(zip(found.items, found.plain(), strict=True)) == [(0, "a"), (3, "c"), (5, "e")]


def test_some_of_the_items() -> None:
    columns = BlockValues((1, 4, 6), columns={"x": np.arange(3)})
    assert columns.only((1, 6)).value(6)["x"] == 2
    assert list(BlockValues((1, 4, 6), rows="abc").only((4,)).plain()) == ["b"]
