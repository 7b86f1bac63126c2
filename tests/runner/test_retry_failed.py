"""Failed items are run again, and their results come where they belong: all of them at once, whatever crashes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyarrow import dataset

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.outputs.parts import digest_of_file
from batchwright_worker.runner.progress import ShardProgress
from batchwright_worker.runner.steps.by_mode import commit_job, plan_job
from batchwright_worker.runner.steps.commit import Committed, Manifest, committed
from batchwright_worker.runner.steps.engines import check_models, open_engines
from batchwright_worker.runner.steps.shard import do_shard, shard_step
from batchwright_worker.runner.storage.retry_files import REPLACEMENT_NAME, RETRY_DIR
from tests.runner.bench import Bench, cpu, model
from tests.runner.serving_rig import deployment, replica
from tests.runner.test_one_data_set import other_model

MakeBench = Callable[..., Bench]
CHANGES = ("replace", "rename", "link", "unlink", "remove", "rmdir", "mkdir")
"""Of os, to the file system."""


@pytest.fixture
def broken(bench: MakeBench, tmp_path: Path) -> Callable[..., Bench]:
    """A complete job of ten items in three shards, of which 1, 2 and 9 failed, and will not as soon as `mended`
    exists."""

    def make(**fields: Any) -> Bench:
        task = cpu("a", "sample_functions:needs_a_file", numbers=[1, 2, 9], path=str(tmp_path / "mended"))
        job = bench(task, shard_size=4, **fields)
        job.write_records([{"id": f"i{v}", "v": v} for v in range(10)])
        done = asyncio.run(job.run_all())
        assert done.manifest.failed == 3
        return job

    return make


async def repeated(job: Bench) -> None:
    """Plan and shards, as runners do them."""
    job.output_more = {**job.output_more, "mode": "RetryFailed"}
    made = job.job()
    plan = plan_job(made)
    async with open_engines(made, workers=1) as engines:
        await check_models(made, engines)
        for index in range(plan.shards):
            step = shard_step(made, index)
            await do_shard(step, engines, ShardProgress(index, made.dag, step.shard.items))


async def retried(job: Bench) -> Committed:
    """All three steps."""
    await repeated(job)
    return commit_job(job.job())


def mend(job: Bench) -> None:
    (job.folder / "mended").touch()


def values(job: Bench) -> list[tuple[str, Any]]:
    """(id, value) of everything that stands, by any tool's reading."""
    if job.output_format == "parquet":
        return [(row["id"], row["a"]) for row in dataset.dataset(job.output).to_table().to_pylist()]
    return [(record["id"], record["a"]) for record in job.records() if "a" in record]


def manifest(job: Bench) -> Manifest:
    return msgspec.json.decode((job.output / "_manifest.json").read_bytes(), type=Manifest)


WHOLE = [(f"i{v}", v) for v in range(10)]


@pytest.mark.parametrize("form", ["jsonl", "gzip", "zstd", "parquet"])
def test_results_of_repeated_items_come_where_they_belong(broken: Callable[..., Bench], form: str) -> None:
    fields: dict[str, Any] = {"output_format": "parquet" if form == "parquet" else "jsonl"}
    if form in ("gzip", "zstd"):
        fields["output_more"] = {"compression": form}
    job = broken(**fields)
    untouched = job.parts()
    mend(job)
    done = asyncio.run(retried(job))
    assert (done.manifest.items, done.manifest.succeeded, done.manifest.failed) == (10, 10, 0)
    assert (done.result().items, done.result().succeeded, done.result().failed) == (3, 3, 0)
    assert [(task.succeeded, task.failed) for task in done.tasks] == [(10, 0)]
    if form in ("jsonl", "parquet"):
        assert values(job) == WHOLE
    else:
        other = Bench(job.folder / "again", job.tasks, shard_size=4, output_more=job.output_more | {"mode": "New"})
        other.write_records([{"id": f"i{v}", "v": v} for v in range(10)])
        asyncio.run(other.run_all())
        assert job.parts().keys() == other.parts().keys()
        assert [part.digest for part in manifest(job).parts] == [part.digest for part in manifest(other).parts]
    name = sorted(untouched)[1]
    assert job.parts()[name] == untouched[name]
    assert not (job.output / RETRY_DIR).exists()
    assert list((job.output / "_errors").iterdir()) == []
    job.output_more = {**job.output_more, "mode": "New"}
    assert committed(job.job()) is not None


def test_what_fails_again_stays_an_error_record_at_its_place(broken: Callable[..., Bench]) -> None:
    job = broken()
    task = cpu("a", "sample_functions:needs_a_file", numbers=[1, 2, 9], path=str(job.folder / "mended"))
    (job.folder / "mended").write_text("1 9")  # 2 still fails
    assert list(job.tasks) == [task]
    done = asyncio.run(retried(job))
    assert (done.manifest.failed, [failure.item for failure in done.failures]) == (1, ["i2"])
    assert [record["id"] for record in job.records()] == [f"i{v}" for v in range(10)]
    assert job.records()[2]["error"]["message"] == "ValueError: 2 is not mended"
    mend(job)
    (job.folder / "mended").write_text("")
    done = asyncio.run(retried(job))
    assert values(job) == WHOLE
    assert [(retry.items, retry.succeeded) for retry in done.manifest.retries] == [(3, 2), (1, 1)]


def test_if_all_fail_again_nothing_changes(broken: Callable[..., Bench]) -> None:
    job = broken()
    before = job.parts()
    assert asyncio.run(retried(job)).manifest.failed == 3
    assert job.parts() == before


def test_a_type_that_comes_with_the_repeated_items_widens_all_parts(bench: MakeBench, tmp_path: Path) -> None:
    job = bench(
        cpu("a", "sample_functions:needs_a_file", numbers=[1], path=str(tmp_path / "mended"), fraction=True),
        shard_size=2,
        output_format="parquet",
    )
    job.write_records([{"id": f"i{v}", "v": v} for v in range(6)])
    asyncio.run(job.run_all())
    assert manifest(job).columns["a"] == "int64"
    mend(job)
    asyncio.run(retried(job))
    assert manifest(job).columns["a"] == "double"
    assert values(job) == [(f"i{v}", 1.5 if v == 1 else float(v)) for v in range(6)]


def test_only_what_is_complete_and_has_failed_items_is_repeated(broken: Callable[..., Bench]) -> None:
    job = broken()
    (job.output / "_manifest.json").rename(job.folder / "manifest")
    with pytest.raises(StepFailed, match="is not complete") as caught:
        asyncio.run(retried(job))
    assert caught.value.reason == "OutputIncomplete"
    (job.folder / "manifest").rename(job.output / "_manifest.json")
    mend(job)
    asyncio.run(retried(job))
    with pytest.raises(StepFailed, match="no item failed") as caught:
        asyncio.run(retried(job))
    assert caught.value.reason == "NothingFailed"


def test_another_input_is_not_mixed_in(broken: Callable[..., Bench]) -> None:
    job = broken()
    job.write_records([{"id": f"i{v}", "v": v} for v in range(11)])
    with pytest.raises(StepFailed) as caught:
        asyncio.run(retried(job))
    assert caught.value.reason == "InputChanged"


async def test_another_model_is_not_mixed_in(bench: MakeBench) -> None:
    job = bench(
        cpu("row", "sample_functions:one_row"),
        model("m", "emu", "m", "row"),
        cpu("a", "sample_functions:unlucky_best", "m", number=3),
    )
    job.write_records([{"v": v} for v in range(5)])
    async with replica(deployment()) as here:
        job.endpoints = {"emu": f"{here.host}:{here.http}"}
        assert (await job.run_all()).manifest.failed == 1
    before = job.parts()
    async with replica(other_model()) as here:
        job.endpoints = {"emu": f"{here.host}:{here.http}"}
        with pytest.raises(StepFailed) as caught:
            await retried(job)
    assert (caught.value.reason, job.parts()) == ("ModelChanged", before)


class Crash(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("form", ["jsonl", pytest.param("parquet", marks=pytest.mark.slow)])
def test_a_crash_at_any_moment_leaves_the_old_or_the_new_data_set(
    broken: Callable[..., Bench], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = broken(output_format=form)
    old, before = values(job), manifest(job)
    mend(job)
    asyncio.run(repeated(job))
    job.output.rename(job.folder / "uncommitted")
    seen = []
    for moment in range(200):
        shutil.rmtree(job.output, ignore_errors=True)
        shutil.copytree(job.folder / "uncommitted", job.output)
        with monkeypatch.context() as patch:
            crashed = crashes(patch, os, CHANGES, moment, lambda: commit_job(job.job()))
        seen.append(standing(job, before, old))
        assert commit_job(job.job()).result().succeeded == 3
        assert (values(job), manifest(job).failed, standing(job, before, old)) == (WHOLE, 0, "new")
        assert not (job.output / REPLACEMENT_NAME).exists()
        assert not (job.output / RETRY_DIR).exists()
        if not crashed:
            break
    assert seen == sorted(seen, key=["old", "decided", "new"].index)
    assert set(seen) == {"old", "decided", "new"}


def crashes(
    patch: pytest.MonkeyPatch, target: Any, changes: Sequence[str], moment: int, act: Callable[[], Any]
) -> bool:
    """Crash at this one of the target's functions that change something; False: there were fewer."""
    left = moment

    def guarded(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return change(*args, **more)

        return changed

    for name in changes:
        patch.setattr(target, name, guarded(getattr(target, name)))
    try:
        act()
    except Crash:
        return True
    return False


def standing(job: Bench, before: Manifest, old: list[tuple[str, Any]]) -> str:
    """Which data set stands, as whoever reads the folder now would find it."""
    found, told = values(job), manifest(job)
    digests = [digest_of_file(job.output / part.name) for part in told.parts]
    if [part.digest for part in told.parts] == digests:
        assert found == (old if told == before else WHOLE)
        return "old" if told == before else "new"
    assert (job.output / REPLACEMENT_NAME).exists()
    decided = json.loads((job.output / REPLACEMENT_NAME).read_text())
    new = msgspec.json.decode(decided["manifest"], type=Manifest)
    assert all(
        digest in (one.digest, other.digest)
        for digest, one, other in zip(digests, before.parts, new.parts, strict=True)
    )
    assert {each for each, _ in old} <= {each for each, _ in found}
    return "decided"
