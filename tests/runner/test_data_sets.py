"""What a job leaves is one data set to whoever reads it: one schema, typed columns, error records apart."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import json
import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from batchwright_worker.runner.outputs.arrow_types import NoCommonType, common, conform, unified
from batchwright_worker.runner.steps.plan import make_plan
from tests.runner.bench import Bench, cpu, model
from tests.runner.serving_rig import deployment, replica

MakeBench = Callable[..., Bench]
VALUE = cpu("x", "json-fields", fields=["x"], single=True)
FLOATS = pa.list_(pa.float32(), 3)


def read(job: Bench) -> Any:
    """The folder as a stranger opens it."""
    return ds.dataset(job.output, format="parquet").to_table()


async def parquet_of(bench: MakeBench, *values: Any, task: dict[str, Any] = VALUE, **fields: Any) -> Bench:
    """A job of one item a shard."""
    job = bench(task, output_format="parquet", shard_size=1, **fields)
    job.write_records([{"id": str(number), "x": value} for number, value in enumerate(values)])
    await job.run_all()
    return job


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((None, None, 2.5, 3.5), pa.float64()),
        ((1, 2.5), pa.float64()),
        ((1, 2), pa.int64()),
        (({"a": 1}, {"a": 2.5, "b": "t"}), pa.struct([("a", pa.float64()), ("b", pa.string())])),
        (([1], [1.5, None], []), pa.list_(pa.float64())),
        ((None, None), pa.null()),
        (("text", None), pa.string()),
    ],
)
async def test_parts_of_different_values_have_the_type_of_all(
    bench: MakeBench, values: tuple[Any, ...], kind: Any
) -> None:
    job = await parquet_of(bench, *values)
    schemas = {str(parquet.read_schema(part)) for part in job.output.glob("part-*")}
    table = read(job)
    assert len(schemas) == 1
    assert table.schema.field("x").type == kind
    told = table.column("x").to_pylist()
    for value, expected in zip(told, values, strict=True):
        assert value == expected or (
            isinstance(value, dict) and {k: v for k, v in value.items() if v is not None} == expected
        )


@pytest.mark.parametrize(
    "values", [(1, 2.5, "t"), ({}, {}), ({"a": {}},), ({}, {"a": 1}), (2**64, 1), (1, {"a": 1}), ([1], 5)], ids=str
)
async def test_values_without_a_common_type_are_texts_in_json(bench: MakeBench, values: tuple[Any, ...]) -> None:
    job = await parquet_of(bench, *values)
    table = read(job)
    assert table.schema.field("x").type == pa.string()
    assert [json.loads(text) for text in table.column("x").to_pylist()] == list(values)


async def test_times_and_what_is_not_finite_may_stand_in_a_column_of_texts(bench: MakeBench) -> None:
    """In whatever items they come, together or apart, no value fails for what others hold."""
    job = bench(cpu("x", "sample_functions:odd_values"), output_format="parquet", shard_size=2)
    job.write_records([{"id": str(number), "v": number} for number in range(6)])
    done = await job.run_all()
    assert done.manifest.failed == 0
    found = [json.loads(text) for text in read(job).column("x").to_pylist()]
    assert found[0] == "2020-01-01T00:00:00.123456789"
    assert math.isnan(found[1])
    assert found[2:5] == [{"a": [math.inf]}, "text", "2020-01-01T00:00:00.000000001"]
    assert math.isnan(found[5][1])


@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
async def test_what_is_masked_is_null(bench: MakeBench, output_format: str) -> None:
    job = bench(
        cpu("x", "sample_functions:masked"),
        {"name": "y", "cpu": {"function": "sample_functions:masked_batch", "batch": True}},
        output_format=output_format,
    )
    job.write_records([{"id": str(number), "v": number} for number in range(3)])
    await job.run_all()
    rows = job.records() if output_format == "jsonl" else read(job).to_pylist()
    assert [(row["x"], row["y"]) for row in rows] == [([1, None], [None, 2.0])] * 3


async def test_a_shard_of_which_all_items_failed_has_the_columns_of_the_others(bench: MakeBench) -> None:
    job = bench(cpu("n", "sample_functions:unlucky", number=1), output_format="parquet", shard_size=1)
    job.write_records([{"v": 1}, {"v": 2}])
    done = await job.run_all()
    assert read(job).to_pydict() == {"id": ["data.jsonl:2"], "n": [2]}
    (errors,) = (job.output / "_errors").iterdir()
    assert done.manifest.parts[0].errors == f"_errors/{errors.name}"
    assert json.loads(errors.read_text()) == {
        "id": "data.jsonl:1",
        "position": 0,
        "error": {"task": "n", "message": "ValueError: 1 is unlucky"},
    }


async def test_vectors_keep_their_type_and_length(bench: MakeBench) -> None:
    job = await parquet_of(bench, [1, 2, 3], [4, 5, 6], task=cpu("x", "sample_functions:vector"))
    table = read(job)
    assert table.schema.field("x").type == FLOATS
    assert table.column("x").to_pylist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


async def test_vectors_of_several_lengths_are_lists(bench: MakeBench) -> None:
    job = await parquet_of(bench, [1, 2, 3], [4], task=cpu("x", "sample_functions:vector"))
    assert read(job).schema.field("x").type == pa.list_(pa.float32())
    assert read(job).column("x").to_pylist() == [[1.0, 2.0, 3.0], [4.0]]


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
async def test_the_only_output_of_a_model_stands_alone(bench: MakeBench, output_format: str) -> None:
    job = bench(cpu("row", "sample_functions:one_row"), model("m", "emu", "m", "row"), output_format=output_format)
    job.write_records([{"v": v} for v in range(5)])
    async with replica(deployment()) as here:
        job.endpoints = {"emu": f"{here.host}:{here.http}"}
        await job.run_all()
    if output_format == "jsonl":
        assert job.results("m") == list(range(5))
    else:
        assert read(job).schema.field("m").type == pa.int64()
        assert read(job).column("m").to_pylist() == list(range(5))


async def test_parquet_keeps_what_is_not_finite(bench: MakeBench) -> None:
    job = await parquet_of(bench, "nan", "-inf", "1", task=cpu("x", "sample_functions:as_float"))
    values = read(job).column("x").to_pylist()
    assert math.isnan(values[0])
    assert values[1:] == [-math.inf, 1.0]


@pytest.mark.parametrize("function", ["as_float", "as_array"])
async def test_json_refuses_what_is_not_finite_and_keeps_null(bench: MakeBench, function: str) -> None:
    job = bench(cpu("f", f"sample_functions:{function}"), cpu("none", "sample_functions:nothing"))
    job.write_records([{"x": "nan"}, {"x": "1"}, {"x": "inf"}])
    await job.run_all()
    found = job.records()
    assert found[1]["f"] in (1.0, [1.0])
    assert found[1]["none"] is None
    for record in (found[0], found[2]):
        assert record["error"]["task"] == "f"
        assert "NaN or infinity" in record["error"]["message"]


async def test_what_no_format_can_hold_is_that_items_error(bench: MakeBench) -> None:
    job = await parquet_of(bench, 1, task=cpu("x", "sample_functions:unwritable"))
    (errors,) = (job.output / "_errors").iterdir()
    assert "cannot be written as JSON" in errors.read_text()
    assert read(job).num_rows == 0


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("function", "values"), [("nested", [0, 2000, 2, 480, 700]), ("long_double", [0, 1]), ("complex_column", [0, 1])]
)
async def test_a_value_that_cannot_be_written_ends_no_job(
    bench: MakeBench, output_format: str, function: str, values: list[int]
) -> None:
    """Each is encoded, or its item's error; none is waited for for ever."""
    job = bench(cpu("x", f"sample_functions:{function}"), output_format=output_format, more={"maxFailedItems": 9})
    job.write_records([{"id": str(number), "v": number} for number in values])
    async with asyncio.timeout(60):
        done = await job.run_all()
    assert (done.manifest.items, done.manifest.succeeded > 0) == (len(values), True)
    errors = [line for file in (job.output / "_errors").glob("*") for line in file.read_text().splitlines()]
    assert len(errors) == done.manifest.failed > 0


@pytest.mark.parametrize("numbers", [[1, 2], [1]], ids=["in a column", "alone"])
@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
async def test_times_of_numpy_stay_times(bench: MakeBench, output_format: str, numbers: list[int]) -> None:
    job = bench(cpu("x", "sample_functions:times"), output_format=output_format)
    job.write_records([{"id": str(number), "v": number} for number in numbers])
    await job.run_all()
    if output_format == "jsonl":
        assert job.results("x")[0] == {
            "at": "1970-01-01T00:00:00.000000001",
            "many": ["1970-01-01T00:00:00.000000001"],
            "took": "1 nanoseconds",
            "day": "1970-01-02",
        }
        return
    column = read(job).column("x").combine_chunks()
    kinds = {field.name: field.type for field in column.type}
    assert (kinds["at"], kinds["took"], kinds["day"]) == (pa.timestamp("ns"), pa.duration("ns"), pa.date32())
    assert kinds["many"].value_type == pa.timestamp("ns")
    assert column.field("at").cast(pa.int64()).to_pylist() == numbers


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
async def test_fields_of_the_input_are_passed_through(bench: MakeBench, output_format: str) -> None:
    job = bench(VALUE, output_format=output_format, output_more={"passThrough": ["label", "split"]})
    job.write_records(
        [{"x": 1, "label": "a", "split": None}, {"x": 2, "split": "t"}, {"x": 3, "label": "c", "split": 1}]
    )
    await job.run_all()
    if output_format == "parquet":
        assert read(job).select(["label", "x"]).to_pydict() == {"label": ["a", "c"], "x": [1, 3]}
        return
    found = job.records()
    assert [found[0]["label"], found[2]["split"], found[2]["x"]] == ["a", 1, 3]
    assert "no field 'label'" in found[1]["error"]["message"]


@pytest.mark.parametrize(("compression", "suffix"), [("gzip", "gz"), ("zstd", "zst")])
async def test_lines_may_be_compressed(bench: MakeBench, compression: str, suffix: str) -> None:
    job = bench(VALUE, output_more={"compression": compression}, shard_size=2)
    job.write_records([{"id": str(n), "x": n} for n in range(3)])
    await job.run_all()
    parts = sorted(job.output.glob("part-*"))
    assert [part.name for part in parts] == [f"part-0000{n}.jsonl.{suffix}" for n in range(2)]
    with pa.input_stream(str(parts[0]), compression=compression) as stream:
        assert stream.read() == b'{"id":"0","x":0}\n{"id":"1","x":1}\n'
    if compression == "gzip":
        assert gzip.decompress(parts[1].read_bytes()) == b'{"id":"2","x":2}\n'


@pytest.mark.parametrize("reader", ["duckdb", "polars", "pandas"])
async def test_other_readers_open_the_folder(bench: MakeBench, reader: str) -> None:
    library = importlib.import_module(reader)
    job = bench(
        cpu("x", "sample_functions:vector"),
        cpu("n", "json-fields", fields=["n"], single=True),
        output_format="parquet",
        shard_size=2,
    )
    values = [None, None, 1, 2.5, "bad", 4]
    job.write_records([{"id": str(n), "x": [n, n, n], "n": value} for n, value in enumerate(values[:4])])
    await job.run_all()
    if reader == "duckdb":
        rows = library.sql(f"select id, x, n from '{job.output}/*.parquet' order by id").fetchall()
    elif reader == "polars":
        rows = library.read_parquet(f"{job.output}/*.parquet").select("id", "x", "n").sort("id").rows()
    else:
        frame = library.read_parquet(job.output).sort_values("id")
        rows = [(row.id, row.x, None if math.isnan(row.n) else row.n) for row in frame.itertuples()]
    assert [(name, list(vector), number) for name, vector, number in rows] == [
        (str(n), [float(n)] * 3, value) for n, value in enumerate(values[:4])
    ]


KINDS = st.recursive(
    st.sampled_from([pa.null(), pa.int64(), pa.uint8(), pa.float32(), pa.float64(), pa.string(), pa.bool_()]),
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(lambda kind: pa.list_(kind, 2)),
        st.dictionaries(st.sampled_from("ab"), inner, max_size=2).map(lambda fields: pa.struct(list(fields.items()))),
    ),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(one=KINDS, other=KINDS)
def test_a_common_type_does_not_depend_on_the_order_and_holds_both(one: Any, other: Any) -> None:
    try:
        found = common(one, other)
    except NoCommonType:
        with pytest.raises(NoCommonType):
            common(other, one)
        return
    assert common(found, one) == common(found, other) == found
    for kind in (one, other):
        assert conform(pa.nulls(2, kind), found).type == found


def test_schemas_are_unified_by_column() -> None:
    one = pa.schema([("id", pa.string()), ("a", pa.null())])
    other = pa.schema([("id", pa.string()), ("b", pa.int64()), ("a", pa.string())])
    assert unified([one, other]) == pa.schema([("id", pa.string()), ("a", pa.string()), ("b", pa.int64())])


async def test_a_commit_that_is_repeated_rewrites_nothing(bench: MakeBench) -> None:
    job = await parquet_of(bench, 1, 2.5)
    before = {part.name: part.stat().st_mtime_ns for part in job.output.glob("part-*")}
    make_plan(job.job())
    await job.commit()
    assert {part.name: part.stat().st_mtime_ns for part in job.output.glob("part-*")} == before
