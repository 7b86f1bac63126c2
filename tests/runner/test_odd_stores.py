"""Stores that fail for a while: the job ends with a reason, loses no item, and is whole the next."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from obstore.store import MemoryStore
from pyarrow import Table, parquet

from batchwright_worker.fetch.buckets import Buckets
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.runner import job as runner_job
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.storage.bucket_files import BucketFiles, StoreError
from batchwright_worker.runner.storage.locations import Location, locate
from tests.runner.bench import Bench, cpu

MakeBench = Callable[..., Bench]
REQUESTS = (
    "info", "ls", "find", "cat_file", "read_range", "read_version", "put_version", "pipe_file", "put_file", "rm_file",
)  # fmt: skip
SAME = cpu("v", "sample_functions:same")


class Moody(BucketFiles):
    """A bucket of which one request, by its number, is not answered; of those that change something, `done` or not."""

    def __init__(self, store: Any) -> None:
        super().__init__("s3", Buckets(FetchPolicy(), {}, {}, {("s3", "bucket"): store}))
        self.fails_at = -1
        self.done = False
        self.seen = 0
        for name in REQUESTS:
            setattr(self, name, self._moody(getattr(self, name), name))

    def _moody(self, request: Callable[..., Any], name: str) -> Callable[..., Any]:
        def asked(*args: Any, **more: Any) -> Any:
            number, self.seen = self.seen, self.seen + 1
            if number != self.fails_at:
                return request(*args, **more)
            if self.done:
                request(*args, **more)
            raise StoreError(f"s3://bucket: {name}: 503 Slow Down")

        return asked


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> Moody:
    """Where s3:// leads."""
    fs = Moody(MemoryStore())

    def located(uri: str, secret: str | None) -> Location:
        if not uri.startswith("s3://"):
            return locate(uri, secret)
        return Location(uri=uri, fs=fs, path=uri.removeprefix("s3://"), local=False)

    monkeypatch.setattr(runner_job, "locate", located)
    return fs


def write(moody: Moody, form: str) -> None:
    """Six items."""
    lines = [{"id": f"i{number}", "v": number} for number in range(6)]
    if form == "images":
        for line in lines:
            moody.pipe_file(f"bucket/in/{line['id']}.png", b"x")
        return
    if form == "parquet":
        import io

        stream = io.BytesIO()
        parquet.write_table(Table.from_pylist(lines), stream)
        moody.pipe_file("bucket/in/a.parquet", stream.getvalue())
        return
    moody.pipe_file("bucket/in/a.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def outcome(job: Bench) -> StepFailed | None:
    """Why a run came to nothing."""
    try:
        asyncio.run(job.run_all())
    except StepFailed as error:
        return error
    return None


def check_moments(bench: MakeBench, moody: Moody, form: str, *, done: bool, most: int) -> None:
    """A whole run, then runs of which one request each fails, at so many moments."""
    write(moody, form)
    job = bench(SAME, shard_size=3, input_format=form, input_more={"uri": "s3://bucket/in"})
    job.output_more = {"uri": "s3://bucket/out"}
    moody.seen = 0
    whole = asyncio.run(job.run_all()).manifest
    count, moody.done = moody.seen, done
    assert (whole.succeeded, whole.failed) == (6, 0)
    for number in range(0, count, -(-count // most)):
        moody.fails_at = -1
        moody.rm("bucket/out", recursive=True)
        moody.fails_at, moody.seen = number, 0
        told = outcome(job)
        assert told is None or not told.permanent, (number, told)
        moody.fails_at = -1
        again = asyncio.run(job.run_all()).manifest
        assert (again.succeeded, again.failed, again.digest) == (6, 0, whole.digest), number


def test_whatever_request_fails_no_item_is_lost(bench: MakeBench, moody: Moody) -> None:
    check_moments(bench, moody, "jsonl", done=False, most=2)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("done", [False, True], ids=["refused", "answer-lost"])
@pytest.mark.parametrize("form", ["jsonl", "images", "parquet"])
def test_every_request_fails_once(bench: MakeBench, moody: Moody, form: str, done: bool) -> None:
    check_moments(bench, moody, form, done=done, most=1000)
