"""A function that takes too long for an item: that item fails, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.runner.bench import Bench, cpu

MakeBench = Callable[..., Bench]


def limited(*, batch: bool = False) -> dict[str, object]:
    function = "sample_functions:sleeps_at_in_batch" if batch else "sample_functions:sleeps_at"
    task = cpu("a", function, numbers=[3, 7])
    task["cpu"] |= {"timeoutSeconds": 1, "batch": batch}
    return task


@pytest.mark.parametrize("batch", [False, True])
def test_an_item_that_takes_too_long_fails_alone(bench: MakeBench, batch: bool) -> None:
    job = bench(limited(batch=batch), shard_size=20)
    job.write_records([{"id": f"i{v}", "v": v} for v in range(12)])
    done = asyncio.run(job.run_all())
    assert (done.manifest.succeeded, done.manifest.failed) == (10, 2)
    assert [(failure.item, failure.message) for failure in done.failures] == [
        ("i3", "it took longer than timeoutSeconds (1)"),
        ("i7", "it took longer than timeoutSeconds (1)"),
    ]
    assert [record["a"] for record in job.records() if "a" in record] == [v for v in range(12) if v not in (3, 7)]


def test_a_limit_may_be_raised_and_is_no_other_job(bench: MakeBench) -> None:
    job = bench(limited())
    before = job.job().identity
    job.tasks[0]["cpu"]["timeoutSeconds"] = 9
    assert job.job().identity == before
    job.tasks[0]["cpu"]["args"] = {"numbers": []}
    assert job.job().identity != before
