"""Functions that take the items of a block at once, and objects that keep state in their process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.runner.cpu.batches import batch_of, values_of
from batchwright_worker.runner.errors import StepFailed, TaskFailed
from batchwright_worker.runner.graph.block_values import BlockValues
from batchwright_worker.runner.steps.plan import make_plan
from tests.runner.bench import Bench, cpu

MakeBench = Callable[..., Bench]
SUMS = "sample_functions:batch_sums"


def batch(name: str, function: str, *before: str, **args: Any) -> dict[str, Any]:
    """A CPU task that takes batches."""
    task = cpu(name, function, *before, **args)
    task["cpu"]["batch"] = True
    return task


def numbers(count: int) -> list[dict[str, int]]:
    return [{"v": value} for value in range(count)]


async def test_a_batch_function_is_called_for_many_items_at_once(bench: MakeBench) -> None:
    many = 10_000  # batches grow by what an item took, of which a busy machine's first calls say too much
    job = bench(batch("sums", SUMS), shard_size=many)
    job.write_records(numbers(many))
    await job.run_all()
    assert [result["double"] for result in job.results("sums")] == [2 * value for value in range(many)]
    assert max(result["together"] for result in job.results("sums")) > 8


async def test_in_a_batch_that_fails_only_the_items_to_blame_fail(bench: MakeBench) -> None:
    job = bench(batch("sums", SUMS, bad=500), cpu("last", "sample_functions:total", "sums"), shard_size=1000)
    job.write_records(numbers(1000))
    await job.run_all()
    failed = [number for number, record in enumerate(job.records()) if "error" in record]
    assert failed == [500]
    assert job.records()[500]["error"] == {"task": "sums", "message": "ValueError: 500 is in it"}
    assert job.records()[501]["last"] == 1002


async def test_a_batch_with_too_few_values_is_taken_apart(bench: MakeBench) -> None:
    job = bench(batch("sums", SUMS), batch("half", "sample_functions:batch_halves", "sums"))
    job.write_records(numbers(100))
    await job.run_all()
    assert job.results("half") == [float(value) for value in range(100)]


async def test_an_object_is_made_once_in_each_process(bench: MakeBench, tmp_path: Path) -> None:
    job = bench(cpu("calls", "sample_functions:Counting", path=str(tmp_path / "made"), first=10))
    job.write_records(numbers(50))
    await job.run_all()
    assert len((tmp_path / "made").read_text().splitlines()) == 1
    assert job.results("calls") == list(range(11, 61))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (batch("a", "argmax"), "takes one item at a time"),
        (cpu("a", "sample_functions:Counting", paths="x"), "args may have path, first"),
    ],
)
async def test_what_cannot_be_run_so_is_refused_by_the_plan(bench: MakeBench, task: dict[str, Any], words: str) -> None:
    job = bench(task)
    job.write_records(numbers(1))
    with pytest.raises(StepFailed, match=words) as caught:
        make_plan(job.job())
    assert caught.value.reason == "InvalidTask"


async def test_an_object_that_cannot_be_made_ends_the_job_and_says_why(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:Unmakeable"))
    job.write_records(numbers(1))
    with pytest.raises(StepFailed, match="cannot be made: RuntimeError: no model here"):
        await job.run_all()


# --- columns ---------------------------------------------------------------------------------------


VALUES = st.one_of(
    st.lists(st.integers(-(2**60), 2**60), min_size=1, max_size=5),
    st.lists(st.floats(allow_nan=False) | st.integers(0, 9), min_size=1, max_size=5),
    st.lists(st.text() | st.none(), min_size=1, max_size=5),
    st.integers(1, 5).map(lambda count: list(np.arange(3.0 * count).reshape(count, 3))),
    st.integers(1, 5).map(lambda count: list(np.arange(count, dtype=np.int16))),
    st.integers(1, 5).map(lambda count: [{"a": np.full(2, n), "b": {"c": n, "d": str(n)}} for n in range(count)]),
    st.lists(st.dictionaries(st.sampled_from("ab"), st.integers()), min_size=1, max_size=5),
)


def plain(value: Any) -> Any:
    """Without numpy, with the types of the values."""
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), value.tolist()]
    return {name: plain(each) for name, each in value.items()} if isinstance(value, dict) else value


@given(VALUES)
def test_columns_keep_every_value_as_it_is(values: list[Any]) -> None:
    items = [2 * place for place in range(len(values))]
    back = values_of(batch_of(BlockValues(items, rows=values), items), items)
    if not any(isinstance(value, dict) for value in values):
        assert [plain(value) for value in (back.value(item) for item in items)] == [plain(value) for value in values]
    assert list(back.items) == items


def test_a_batch_of_records_is_a_column_for_each_field() -> None:
    rows = [{"id": "a", "data": {"x": np.zeros(3), "t": "p"}}, {"id": "b", "data": {"x": np.ones(3), "t": "q"}}]
    given_ = batch_of(BlockValues([0, 1], rows=rows), [0, 1])
    assert (given_["id"], given_["data"]["t"]) == (["a", "b"], ["p", "q"])
    assert given_["data"]["x"].shape == (2, 3)


@pytest.mark.parametrize(
    "result",
    [
        pa.table({"v": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)), "t": ["p", "q"]}),
        pa.record_batch({"v": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)), "t": ["p", "q"]}),
        {"v": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), "t": pa.chunked_array([["p"], ["q"]])},
    ],
)
def test_arrow_is_taken_as_columns(result: Any) -> None:
    values = values_of(result, [0, 1])
    assert plain(values.value(1)) == {"v": ["float32", [3.0, 4.0]], "t": "q"}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (np.zeros(3), "3 values for 2 items"),
        ({"a": [1, 2], "b": [1]}, "1 values in column 'b' for 2 items"),
        ({"a": 1}, "column 'a' of the result is no array"),
        (7, "returns columns .* this one int"),
        ({}, "returns columns"),
    ],
)
def test_what_is_no_columns_is_refused_with_what_is_wanted(result: Any, words: str) -> None:
    with pytest.raises(TaskFailed, match=words):
        values_of(result, [0, 1])


def test_a_function_may_use_its_array_again() -> None:
    array = np.zeros(2)
    values = values_of(array, [0, 1])
    array[:] = 9
    assert values.value(0) == 0
