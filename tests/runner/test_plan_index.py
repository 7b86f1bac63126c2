"""A runner reads its shard of the plan alone, whatever the plan's size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.steps.plan import make_plan
from batchwright_worker.runner.steps.shard import shard_step
from batchwright_worker.runner.storage.locations import Location, locate
from batchwright_worker.runner.storage.plan_file import PlanFile, PlannedSegment, PlannedShard, digest_of
from batchwright_worker.runner.storage.plan_index import INDEX_NAME, read_shard, write_index
from tests.runner.bench import Bench, cpu

MakeBench = Callable[..., Bench]


def plan_of(shards: int, files: int) -> PlanFile:
    """So many shards of so many files each."""
    planned = [
        PlannedShard(
            items=files,
            segments=[
                PlannedSegment(
                    path=f"/in/{number}-{file}.png", name=f"{number}-{file}.png", fingerprint="7 8", start=0, count=1
                )
                for file in range(files)
            ],
        )
        for number in range(shards)
    ]
    return PlanFile(
        job="j", identity="i", digest=digest_of(planned), input_format="images", suffix="jsonl", items=shards * files,
        shards=planned,
    )  # fmt: skip


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return locate(tmp_path.as_uri(), None)


def test_each_shard_is_that_of_the_plan(output: Location) -> None:
    plan = plan_of(2000, 3)
    write_index(output, plan)
    for number in (0, 1, 999, 1999):
        found = read_shard(output, number)
        assert found is not None
        assert (found.shard, found.head.key, found.shards) == (plan.shards[number], plan.key, 2000)
    found = read_shard(output, 2000)
    assert found is not None
    assert found.shard is None


def test_what_is_read_does_not_grow_with_the_plan(output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(output, plan_of(5000, 10))
    size = output.fs.size(output.at(INDEX_NAME))
    fetched: list[int] = []
    cat_file = output.fs.cat_file

    def counted(path: str, **bounds: Any) -> bytes:
        found = bytes(cat_file(path, **bounds))
        fetched.append(len(found))
        return found

    monkeypatch.setattr(output.fs, "cat_file", counted)
    assert read_shard(output, 4999) is not None
    assert sum(fetched) < 80_000 < size / 30
    assert len(fetched) == 3


def test_a_damaged_shard_is_no_shard(output: Location) -> None:
    write_index(output, plan_of(3, 2))
    path = Path(output.at(INDEX_NAME))
    path.write_bytes(path.read_bytes().replace(b"2-1.png", b"2-7.png", 1))
    assert read_shard(output, 1) is not None
    with pytest.raises(StepFailed, match=r"plan\.index is damaged") as caught:
        read_shard(output, 2)
    assert caught.value.reason == "PlanDamaged"


@pytest.mark.parametrize("data", [b"", b"1234", bytes(16), b"\xff" * 200])
def test_what_is_no_index_is_named(output: Location, data: bytes) -> None:
    write_index(output, plan_of(1, 1))
    Path(output.at(INDEX_NAME)).write_bytes(data)
    with pytest.raises(StepFailed, match=r"plan\.index is damaged"):
        read_shard(output, 0)


async def test_an_output_of_before_has_no_index_and_goes_on(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:double"), shard_size=2)
    job.write_records([{"v": value} for value in range(5)])
    make_plan(job.job())
    by_index = shard_step(job.job(), 2).shard
    (job.output / INDEX_NAME).unlink()
    assert shard_step(job.job(), 2).shard == by_index
    await job.run_all()
    assert job.results("a") == [0, 2, 4, 6, 8]
