"""CPU tasks on the pool: results in input order, error records of their own item, processes that die."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.progress import ShardProgress
from batchwright_worker.runner.steps.engines import open_engines
from batchwright_worker.runner.steps.plan import make_plan
from batchwright_worker.runner.steps.shard import do_shard, shard_step
from tests.runner.bench import Bench, cpu

MakeBench = Callable[..., Bench]


def numbers(count: int) -> list[dict[str, int]]:
    return [{"v": value} for value in range(count)]


async def test_results_of_the_sinks_come_in_input_order_whatever_the_shards(bench: MakeBench) -> None:
    double = cpu("double", "sample_functions:double")
    job = bench(double, cpu("sum", "sample_functions:add", "double", number=5), shard_size=70, workers=2)
    job.write_records(numbers(200))
    done = await job.run_all()
    assert job.records() == [{"id": f"data.jsonl:{v + 1}", "sum": {"sum": 2 * v + 5}} for v in range(200)]
    assert (done.manifest.items, done.manifest.succeeded, done.manifest.failed) == (200, 200, 0)
    assert [part.items for part in done.manifest.parts] == [70, 70, 60]


async def test_the_next_shard_may_be_read_while_one_is_worked_off(bench: MakeBench, tmp_path: Path) -> None:
    job = bench(cpu("n", "sample_functions:when_there", path=str(tmp_path / "go")), shard_size=2, workers=1)
    job.write_records(numbers(4))
    make_plan(job.job())
    steps = [shard_step(job.job(), index) for index in range(2)]
    read: list[int] = []

    def on_read(index: int) -> None:
        read.append(index)
        if len(read) == 2:  # neither is done, both have been read
            (tmp_path / "go").touch()

    async with open_engines(steps[0].job, workers=1) as engines, asyncio.timeout(60):
        shards = (
            do_shard(step, engines, ShardProgress(index, step.job.dag, 2), on_read=partial(on_read, index))
            for index, step in enumerate(steps)
        )
        await asyncio.gather(*shards)
    await job.commit()
    assert [record["n"] for record in job.records()] == [0, 1, 2, 3]


async def test_an_item_that_fails_becomes_an_error_record_in_its_place(bench: MakeBench) -> None:
    job = bench(
        cpu("a", "sample_functions:unlucky", number=3),
        cpu("b", "sample_functions:unlucky", number=3),
        cpu("c", "sample_functions:add", "a", "b"),
        cpu("d", "sample_functions:unlucky", number=4),
    )
    job.write_records(numbers(6))
    done = await job.run_all()
    records = job.records()
    assert records[3] == {"id": "data.jsonl:4", "error": {"task": "a", "message": "ValueError: 3 is unlucky"}}
    assert records[4]["error"]["task"] == "d"
    assert records[5] == {"id": "data.jsonl:6", "c": {"sum": 11}, "d": 5}
    assert [(f.item, f.task) for f in done.failures] == [("data.jsonl:4", "a"), ("data.jsonl:5", "d")]
    assert {task.name: (task.succeeded, task.failed) for task in done.tasks}["c"] == (5, 0)


async def test_a_process_that_dies_costs_its_own_item_only(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:fragile", number=17))
    job.write_records(numbers(60))
    await job.run_all()
    records = job.records()
    assert "the process died twice" in records[17]["error"]["message"]
    assert [record["a"] for record in records if "a" in record] == [v for v in range(60) if v != 17]


async def test_a_task_whose_process_dies_once_is_run_again(bench: MakeBench, tmp_path: Path) -> None:
    job = bench(cpu("a", "sample_functions:fragile", number=17, once=str(tmp_path / "died")))
    job.write_records(numbers(60))
    await job.run_all()
    assert [record["a"] for record in job.records()] == list(range(60))


async def test_a_result_that_cannot_be_written_is_that_items_error(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:unwritable"))
    job.write_records(numbers(2))
    await job.run_all()
    assert [record["error"]["task"] for record in job.records()] == ["a", "a"]
    assert "cannot be written as JSON" in job.records()[0]["error"]["message"]


async def test_more_failures_than_allowed_end_the_shard(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:unwritable"), more={"maxFailedItems": 1})
    job.write_records(numbers(5))
    with pytest.raises(StepFailed, match="maxFailedItems is 1") as caught:
        await job.run_all()
    assert (caught.value.reason, caught.value.permanent) == ("TooManyFailedItems", True)
    assert not job.parts()


async def test_a_part_that_stands_is_not_made_again(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:double"))
    job.write_records(numbers(5))
    await job.run_all()
    part = job.output / "part-00000.jsonl"
    before = part.stat()
    state = await job.run_shard(0)
    assert (part.stat().st_mtime_ns, part.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert (state.done, state.items_succeeded, state.tasks[0].succeeded) == (True, 5, 5)


async def test_a_part_that_was_cut_off_is_made_again(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:double"))
    job.write_records(numbers(5))
    await job.run_all()
    whole = job.parts()
    (job.output / "part-00000.jsonl").write_bytes(whole["part-00000.jsonl"][:-7])
    await job.run_all()
    assert job.parts() == whole
