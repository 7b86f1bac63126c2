"""Input as other tools leave it: marks, compression, odd names, files that are none, lines that are too long."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs import streams
from batchwright_worker.runner.inputs.inputs import format_of, shard_items
from batchwright_worker.runner.inputs.items import Item
from batchwright_worker.runner.steps.plan import make_plan
from batchwright_worker.runner.storage.locations import locate
from batchwright_worker.runner.storage.plan_file import PlanFile, read_plan
from tests.runner.bench import Bench, cpu

MakeBench = Callable[..., Bench]
IDENTITY = cpu("a", "sample_functions:identity")
LINES = b'{"id":"a","v":1}\r\n{"id":"b","v":2}\r\n\r\n{"id":"c","v":3}'


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def plan_of(job: Bench) -> PlanFile:
    make_plan(job.job())
    plan = read_plan(locate(job.output.as_uri()))
    assert plan is not None
    return plan


def items(job: Bench, plan: PlanFile | None = None) -> list[Item]:
    """All items; each shard by a format of its own, as in pods."""
    location, spec = locate(job.job().spec.input.uri), job.job().spec.input
    return [item for shard in (plan or plan_of(job)).shards for item in shard_items(location, format_of(spec), shard)]


@pytest.fixture
def make(bench: MakeBench) -> Callable[..., Bench]:
    """A job over files of these contents."""

    def made(files: dict[str, bytes], **fields: Any) -> Bench:
        job = bench(IDENTITY, shard_size=2, **fields)
        for name, data in files.items():
            path = job.input / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return job

    return made


@pytest.mark.parametrize("mark", [b"", streams.BYTE_ORDER_MARK], ids=["plain", "with a mark"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_lines_are_the_same_with_a_mark_or_compressed(make: Any, pack: Callable[[bytes], bytes], mark: bytes) -> None:
    job = make({"x.jsonl.gz": pack(mark + LINES)})
    assert [(item.id, item.data["v"]) for item in items(job)] == [("a", 1), ("b", 2), ("c", 3)]


def test_a_shard_of_a_compressed_file_goes_on_where_the_one_before_it_ended(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make({"x.jsonl.gz": gzip.compress(b"".join(b'{"id":%d}\n' % n for n in range(10)))})
    plan, location, form = plan_of(job), locate(job.input.as_uri()), format_of(job.job().spec.input)
    skips: list[int] = []
    monkeypatch.setattr(streams, "_skip", lambda stream, offset, seekable: skips.append(offset))
    found = [item.id for shard in plan.shards for item in shard_items(location, form, shard)]
    assert found == [str(n) for n in range(10)]
    assert skips == [0]


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_compressed_file_that_is_cut_off_says_so(make: Any, pack: Callable[[bytes], bytes]) -> None:
    job = make({"x.jsonl.gz": pack(os.urandom(5000).hex().encode())[:-40]})
    with pytest.raises(StepFailed, match="is cut off or damaged") as caught:
        make_plan(job.job())
    assert caught.value.reason == "InputInvalid"


def test_files_that_are_left_out_are_counted_and_named(make: Any) -> None:
    names = ("x.jsonl", "y.jsonl.bz2", "part-00000", "sub/notes.md", ".hidden/z.jsonl", "old/part-00000.jsonl")
    job = make(dict.fromkeys(names, LINES) | {"old/_batchwright/plan.json": b"{}", "old/_manifest.json": b"{}"})
    plan = plan_of(job)
    assert plan.items == 3
    assert plan.left_out_names == ["old/part-00000.jsonl", "part-00000", "sub/notes.md", "y.jsonl.bz2"]
    assert make_plan(job.job()).files_left_out == plan.left_out == 4


@pytest.mark.parametrize("folder", ["in-brackets[1]", "a*b", "what?", "x#y", "20%25 x", "ü  w"])
def test_a_path_that_exists_is_no_pattern(bench: MakeBench, tmp_path: Path, folder: str) -> None:
    place = tmp_path / folder
    place.mkdir()
    (place / "x.jsonl").write_bytes(LINES)
    for uri in (place.as_uri(), (place / "x.jsonl").as_uri(), f"{place.as_uri()}/*.jsonl"):
        job = bench(IDENTITY, input_more={"uri": uri})
        assert [item.id for item in items(job)] == ["a", "b", "c"]


def test_an_empty_pattern_says_which_signs_are_one(bench: MakeBench, tmp_path: Path) -> None:
    job = bench(IDENTITY, input_more={"uri": f"file://{tmp_path}/none[1]"})
    with pytest.raises(StepFailed, match=r"\*, \? and \[ in it stand for other characters"):
        make_plan(job.job())


def test_a_name_that_is_no_utf8_is_escaped(make: Any) -> None:
    job = make({"ok.png": b"1"}, input_format="images")
    Path(os.fsdecode(os.fsencode(job.input) + b"/caf\xe9.png")).write_bytes(b"2")
    assert [(item.id, item.data) for item in items(job)] == [("caf\\xe9.png", b"2"), ("ok.png", b"1")]


def test_a_link_to_nothing_is_that_items_error(make: Any) -> None:
    job = make({"a.png": b"1", "c.png": b"3"}, input_format="images")
    (job.input / "b.png").symlink_to("nowhere")
    found = items(job)
    assert [(item.id, item.data) for item in found] == [("a.png", b"1"), ("b.png", None), ("c.png", b"3")]
    assert "cannot be read" in found[1].error


def test_a_line_that_is_nested_too_deeply_is_that_items_error(make: Any) -> None:
    job = make({"x.jsonl": b"[" * 100_000 + b"\n" + LINES})
    assert [bool(item.error) for item in items(job)] == [True, False, False, False]


def test_a_line_longer_than_an_item_may_be_is_that_items_error(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_ITEM_BYTES", 3 << 20)
    job = make({"x.jsonl": b'{"id":"long","v":"%s"}\n' % (b"x" * (8 << 20)) + LINES})
    found = items(job)
    assert [item.id for item in found] == ["x.jsonl:1", "a", "b", "c"]
    assert "is longer than" in found[0].error


@pytest.mark.timed
def test_reading_a_long_line_takes_time_in_proportion(tmp_path: Path) -> None:
    def seconds(size: int) -> float:
        (tmp_path / "x").write_bytes(b"x" * size + b"\n")
        started = time.process_time()
        assert len(list(streams.lines_of(locate(tmp_path.as_uri()), str(tmp_path / "x")))) == 1
        return time.process_time() - started

    seconds(1 << 20)
    assert seconds(128 << 20) < 100 * seconds(8 << 20)  # 16 times as long; in square it would be 256 times


def test_ids_come_from_the_field_that_is_named(make: Any) -> None:
    lines = b'{"id":"same","key":7}\n{"id":"same","key":8.0}\n{"id":"same","key":null}\n{"id":"same","key":""}\n'
    job = make({"x.jsonl": lines}, input_more={"idField": "key"})
    found = items(job)
    assert [item.id for item in found] == ["7", "8", "x.jsonl:3", "x.jsonl:4"]
    assert [bool(item.error) for item in found] == [False, False, False, True]
    job.input_more = {"idField": ""}
    assert [item.id for item in items(job)] == [f"x.jsonl:{n}" for n in range(1, 5)]
    job.input_more = {}
    with pytest.raises(StepFailed, match=r"input\.idField"):
        make_plan(job.job())


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (pa.array([b"a1", b"\xff"], pa.binary()), ["a1", "\\xff"]),
        (pa.array([1.0, float("nan")], pa.float64()), ["1", "t.parquet:1"]),
        (pa.array([None, None]), ["t.parquet:0", "t.parquet:1"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([3, None], pa.int64()), ["3", "t.parquet:1"]),
    ],
    ids=["binary", "float", "null", "dictionary", "integer"],
)
def test_ids_of_parquet_are_the_same_whatever_tool_wrote_them(make: Any, column: Any, wanted: list[str]) -> None:
    job = make({}, input_format="parquet")
    job.input.mkdir()
    nested = pa.array([{"a": [1, None]}, None])
    parquet.write_table(pa.table({"id": column, "n": nested, "z": pa.nulls(2)}), job.input / "t.parquet")
    found = items(job)
    assert [item.id for item in found] == wanted
    assert [(item.data["n"], item.data["z"]) for item in found] == [({"a": [1, None]}, None), (None, None)]


CSV = b'id,text,n\r\n1,plain,1\r\n2,"two\r\nlines, ""quoted""",2\r\n\r\n3,,3\r\n'
RECORDS = [
    {"id": "1", "text": "plain", "n": "1"},
    {"id": "2", "text": 'two\r\nlines, "quoted"', "n": "2"},
    {"id": "3", "text": "", "n": "3"},
]


@pytest.mark.parametrize(
    ("name", "data", "more"),
    [
        ("x.csv", CSV, {}),
        ("x.csv", streams.BYTE_ORDER_MARK + CSV, {}),
        ("x.csv.gz", gzip.compress(CSV), {}),
        ("x.csv", CSV.replace(b",", b";").replace(b"lines;", b"lines,"), {"delimiter": ";"}),
        ("x.tsv", CSV.replace(b",", b"\t").replace(b"lines\t", b"lines,"), {}),
    ],
    ids=["plain", "mark", "gzip", "semicolons", "tabs"],
)
def test_csv_gives_records_by_the_header(make: Any, name: str, data: bytes, more: dict[str, str]) -> None:
    job = make({name: data}, input_format="csv", input_more=more)
    assert [(item.id, item.data) for item in items(job)] == [(record["id"], record) for record in RECORDS]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"id;text\n1;a\n", "set input.delimiter"),
        (b"id,a,a\n1,2,3\n", "'a' twice"),
    ],
)
def test_a_header_that_cannot_be_meant_is_refused(make: Any, data: bytes, words: str) -> None:
    with pytest.raises(StepFailed, match=words):
        make_plan(make({"x.csv": data}, input_format="csv").job())


def test_a_csv_record_of_another_length_is_that_items_error(make: Any) -> None:
    found = items(make({"x.csv": b'id,v\n1,a\n2\n3,b,c\n4,"open\n'}, input_format="csv"))
    assert [bool(item.error) for item in found] == [False, True, True, True]
    assert "the header has 2 names, here are 1 values" in found[1].error


async def test_records_of_csv_pass_through_a_job(make: Any) -> None:
    job = make({"x.csv": CSV}, input_format="csv", output_more={"passThrough": ["n"]})
    job.tasks = (cpu("t", "json-fields", fields=["text"], single=True),)
    await job.run_all()
    assert [json.dumps([r["id"], r["n"], r["t"]]) for r in job.records()] == [
        json.dumps([r["id"], r["n"], r["text"]]) for r in RECORDS
    ]


def test_npy_of_another_byte_order_has_the_same_numbers(make: Any) -> None:
    job = make({}, input_format="npy")
    job.input.mkdir()
    np.save(job.input / "a.npy", np.array([[1.0], [2.0]], ">f4"))
    assert [float(item.data[0]) for item in items(job)] == [1.0, 2.0]


def test_links_to_folders_are_followed_but_not_in_circles(make: Any, tmp_path: Path) -> None:
    job = make({"a/x.jsonl": LINES, "b/y.jsonl": LINES.replace(b'"id"', b'"k"')}, input_more={"idField": ""})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.jsonl").write_bytes(b'{"v":9}\n')
    (job.input / "linked").symlink_to(tmp_path / "elsewhere")
    (job.input / "a" / "self.jsonl").symlink_to(job.input / "a")
    (job.input / "a" / "up").symlink_to(job.input)
    plan = plan_of(job)
    found = [item.id for item in items(job, plan)]
    assert found == [f"{name}:{line}" for name in ("a/x.jsonl", "b/y.jsonl") for line in (1, 2, 4)] + [
        "linked/z.jsonl:1"
    ]
    assert sorted(plan.left_out_names) == ["a/self.jsonl", "a/up"]


def test_pipes_and_devices_are_left_out(make: Any) -> None:
    job = make({"x.jsonl": LINES})
    os.mkfifo(job.input / "pipe.jsonl")
    (job.input / "linked.jsonl").symlink_to(job.input / "pipe.jsonl")
    (job.input / "device.jsonl").symlink_to(os.devnull)
    plan = plan_of(job)
    assert len(items(job, plan)) == 3
    assert plan.left_out_names == ["device.jsonl", "linked.jsonl", "pipe.jsonl"]


def test_a_pipe_alone_is_refused(bench: MakeBench) -> None:
    job = bench(IDENTITY)
    os.mkfifo(job.input)
    with pytest.raises(StepFailed, match="read twice"):
        make_plan(job.job())


def test_a_link_to_nothing_among_files_of_records_is_named(make: Any) -> None:
    job = make({"x.jsonl": LINES})
    (job.input / "y.jsonl").symlink_to("nothing")
    with pytest.raises(StepFailed, match=r"y\.jsonl cannot be read \(a link to nothing\)") as refused:
        make_plan(job.job())
    assert refused.value.reason == "InputNotReadable"
