"""A job in a folder of its own, and buckets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchwright_worker.fetch.buckets import Buckets
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.runner.storage.bucket_files import BucketFiles
from batchwright_worker.runner.storage.locations import Location, locate
from e2e.s3_server import S3Server, s3_server
from tests.runner.bench import Bench
from tests.runner.serving_rig import names

__all__ = ["bench", "names"]


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    """Makes a bench; keyword arguments as its fields."""

    def make(*tasks: dict[str, Any], **fields: Any) -> Bench:
        return Bench(tmp_path, tasks, **fields)

    return make


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def in_s3(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A new bucket's address, for `locate`."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = tmp_path.name.replace("_", "-").lower()[:60]
    s3.make_bucket(bucket)
    return f"s3://{bucket}"


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest) -> Location:
    """`out` in an empty bucket."""
    if request.param == "s3":
        return locate(f"{request.getfixturevalue('in_s3')}/out")
    from obstore.store import MemoryStore

    buckets = Buckets(FetchPolicy(), {}, {}, {("s3", "bucket"): MemoryStore()})
    return Location(uri="s3://bucket/out", fs=BucketFiles("s3", buckets), path="bucket/out", local=False)
