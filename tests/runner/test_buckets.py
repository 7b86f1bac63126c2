"""Data sets in buckets: obstore as a file system, over its store in memory and over a server that speaks S3."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.steps.plan import make_plan
from batchwright_worker.runner.storage.locations import Location, commit_file, create, locate, write_atomically
from tests.runner.bench import Bench, cpu

MakeBench = Callable[..., Bench]
ODD = "a b+ä%20#?.jsonl"


def put(place: Location, name: str, content: bytes) -> None:
    place.fs.pipe_file(place.at(name), content)


def test_what_was_put_is_there(place: Location) -> None:
    write_atomically(place, ODD, b"one")
    assert place.read(ODD) == b"one"
    assert place.exists(ODD)
    assert not place.exists("other")
    assert place.read("other") is None
    write_atomically(place, ODD, b"two")
    assert place.read(ODD) == b"two"
    place.fs.rm_file(place.at(ODD))
    place.fs.rm_file(place.at(ODD))
    assert place.read(ODD) is None


def test_the_first_put_stays(place: Location, tmp_path: Path) -> None:
    assert create(place, "x", b"first")
    assert not create(place, "x", b"second")
    (tmp_path / "part").write_bytes(b"third")
    assert not commit_file(place, "x", tmp_path / "part")
    assert place.read("x") == b"first"
    assert not (tmp_path / "part").exists()


def test_of_many_at_once_one_is_first(place: Location, tmp_path: Path) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def commit(number: int) -> None:
        part = tmp_path / str(number)
        part.write_bytes(b"%d" % number * 1000)
        barrier.wait()
        if commit_file(place, "part", part):
            won.append(number)

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert place.read("part") == b"%d" % won[0] * 1000


def test_folders_are_listed_found_and_removed(place: Location) -> None:
    for name in ("a", "sub/b", "sub/deep/c", ODD):
        put(place, name, b"12")
    put(place, "empty", b"")
    names = {place.at(name) for name in ("a", "sub/b", "sub/deep/c", ODD, "empty")}
    assert set(place.fs.find(place.path)) == names
    assert {entry["name"] for entry in place.fs.find(place.path, detail=True).values()} == names
    listed = {entry["name"]: entry["type"] for entry in place.fs.ls(place.path)}
    assert listed == {place.at(name): "file" for name in ("a", ODD, "empty")} | {place.at("sub"): "directory"}
    assert place.fs.info(place.path)["type"] == "directory"
    assert place.fs.info(place.at("a"))["size"] == 2
    assert place.fs.ls(place.at("a"), detail=False) == [place.at("a")]
    assert set(place.fs.glob(place.at("*ub"))) == {place.at("sub")}
    assert set(place.fs.glob(place.at("sub/*"))) == {place.at("sub/b"), place.at("sub/deep")}
    place.fs.rm(place.at("sub"), recursive=True)
    assert set(place.fs.find(place.path)) == {place.at(name) for name in ("a", ODD, "empty")}
    with pytest.raises(FileNotFoundError, match="has no object"):
        place.fs.info(place.at("sub"))
    with pytest.raises(FileNotFoundError):
        place.fs.ls(place.at("sub"))


def test_a_file_is_read_from_anywhere_and_in_one_version(place: Location) -> None:
    content = bytes(range(256)) * 100_000
    put(place, "x", content)
    with place.fs.open(place.at("x")) as file:
        assert file.read(5) == content[:5]
        file.seek(20_000_000)
        assert file.read(300) == content[20_000_000:20_000_300]
        put(place, "x", content[::-1])
        file.seek(0)
        with pytest.raises(OSError, match="bucket"):
            file.read()
    assert place.fs.cat_file(place.at("x"), start=1, end=4) == content[::-1][1:4]


def test_etags_tell_versions(place: Location) -> None:
    put(place, "x", b"1")
    before = place.fs.info(place.at("x"))["ETag"]
    put(place, "x", b"2")
    assert before
    assert place.fs.info(place.at("x"))["ETag"] != before


@pytest.mark.slow
async def test_a_job_reads_from_a_bucket_and_writes_into_one(bench: MakeBench, in_s3: str) -> None:
    source, output = locate(f"{in_s3}/in"), locate(f"{in_s3}/out")
    put(source, ODD, b"".join(b'{"v": %d}\n' % number for number in range(3)))
    job = bench(
        cpu("a", "sample_functions:double"),
        more={
            "input": {"uri": source.uri, "format": "jsonl", "shardSize": 2},
            "output": {"uri": output.uri, "format": "parquet"},
        },
    )
    done = await job.run_all()
    assert (done.manifest.items, len(done.manifest.parts)) == (3, 2)

    with output.fs.open(output.at("part-00001.parquet")) as file:
        assert pq.read_table(file).to_pylist() == [{"id": f"{ODD}:3", "a": 4}]
    assert output.exists("_manifest.json")
    assert (await job.run_all()).manifest == done.manifest


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_named(in_s3: str, bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:double"), more={"input": {"uri": "s3://nobody/in", "format": "jsonl"}})
    with pytest.raises(StepFailed, match="nobody") as caught:
        make_plan(job.job())
    assert caught.value.reason == "InputNotFound"
    assert caught.value.permanent
    assert in_s3
