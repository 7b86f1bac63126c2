"""`run --limit` and `--sample`: some items, into an output that is never taken for the whole."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.local.conftest import MakeWorld, World


def manifest_of(world: World, folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.folder / folder / "_manifest.json").read_text())
    return found


def test_a_limit_takes_the_first_items_into_a_folder_of_its_own(world: MakeWorld) -> None:
    made = world(10)
    status, told = made.run("--limit", "6")
    assert (status, told["items"], told["output"]) == (0, 6, f"{made.output.as_uri()}-limit-6")
    assert made.values(made.folder / "out-limit-6") == [0, 1, 2, 3, 4, 5]
    assert manifest_of(made, "out-limit-6")["selection"] == {"kind": "Limit", "items": 6, "seed": 0}
    assert not made.output.exists()
    assert "not the whole data set: the first 6 items" in made.text("--limit", "6")[1]


def test_a_sample_is_the_same_for_the_same_seed_and_in_the_order_of_the_input(world: MakeWorld) -> None:
    made = world(200)
    assert made.run("--sample", "20", "--seed", "3")[0] == 0
    first = made.values(made.folder / "out-sample-20-seed-3")
    assert (len(first), first) == (20, sorted(first))
    assert made.run("--sample", "20", "--seed", "3", "--output", str(made.folder / "again"))[0] == 0
    assert made.values(made.folder / "again") == first
    made.run("--sample", "20", "--seed", "4")
    assert made.values(made.folder / "out-sample-20-seed-4") != first


def test_a_sample_larger_than_the_input_is_all_of_it(world: MakeWorld) -> None:
    made = world(10)
    assert made.run("--sample", "99")[1]["items"] == 10
    assert made.values(made.folder / "out-sample-99-seed-0") == list(range(10))


def test_some_items_and_all_items_are_never_mixed(world: MakeWorld) -> None:
    made = world(10)
    made.run("--limit", "6", "--output", str(made.output))
    for options in ((), ("--limit", "7"), ("--sample", "6")):
        status, told = made.run("--output", str(made.output), *options)
        assert (status, told["reason"]) == (42, "OutputInUse")
        assert "the first 6 items" in told["error"]
    assert made.run("--overwrite")[1]["items"] == 10
    assert made.values() == list(range(10))


def test_a_limit_is_complete_whatever_follows_the_items_and_not_when_they_change(world: MakeWorld) -> None:
    made = world(10)
    made.spec["input"]["uri"] = made.folder.as_uri() + "/*.jsonl"
    made.run("--limit", "6")
    (made.folder / "zz.jsonl").write_text('{"v": 1}\n')
    assert (made.run("--limit", "6")[0], "complete already" in made.text("--limit", "6")[1]) == (0, True)
    (made.folder / "aa.jsonl").write_text('{"v": 1}\n')
    assert made.run("--limit", "6")[1]["reason"] == "InputChanged"


@pytest.mark.parametrize("kind", ["gzip", "parquet"])
def test_samples_of_other_formats(world: MakeWorld, kind: str) -> None:
    made = world(100)
    plain = (made.folder / "in.jsonl").read_bytes()
    if kind == "gzip":
        (made.folder / "in.jsonl").write_bytes(gzip.compress(plain))
    else:
        records = [json.loads(line) for line in plain.splitlines()]
        parquet.write_table(pa.Table.from_pylist(records), made.folder / "in.parquet", row_group_size=30)
        made.spec["input"] |= {"uri": (made.folder / "in.parquet").as_uri(), "format": "parquet"}
    assert made.run("--sample", "30")[1]["items"] == 30
    taken = made.values(made.folder / "out-sample-30-seed-0")
    assert (len(taken), taken) == (30, sorted(set(taken)))
    ids = [
        json.loads(line)["id"]
        for part in sorted((made.folder / "out-sample-30-seed-0").glob("part-*"))
        for line in part.read_text().splitlines()
    ]
    assert ids == [f"i{value}" for value in taken]


def test_limit_and_sample_exclude_each_other(world: MakeWorld) -> None:
    made = world(1)
    assert made.text("--limit", "1", "--sample", "1")[0] == 2
