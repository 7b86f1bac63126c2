"""`run --plan`: what a job would do, tried out with its first items, without a byte in its output."""

from __future__ import annotations

import asyncio
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from batchwright_worker.local.job_engines import LocalEngines, local_engines
from batchwright_worker.local.jobrun import cancelled_by_signals
from batchwright_worker.local.local_job import LocalJob, deployments_of, job_of
from batchwright_worker.local.preview_report import Estimate, Preview
from batchwright_worker.runner.cpu.functions import declared_row, resolve
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.inputs import format_of
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.outputs.error_records import ErrorRecord, error_records
from batchwright_worker.runner.outputs.occupation import own_parts
from batchwright_worker.runner.outputs.parts import PartStatistics
from batchwright_worker.runner.progress import ShardProgress
from batchwright_worker.runner.steps.commit import committed
from batchwright_worker.runner.steps.failure_limit import FailureLimit
from batchwright_worker.runner.steps.plan import check_free, check_same, check_tasks, plan_input
from batchwright_worker.runner.steps.selection import first_items
from batchwright_worker.runner.steps.shard import ShardStep, do_shard, memory_budget
from batchwright_worker.runner.storage.locations import Location, locate
from batchwright_worker.runner.storage.plan_file import PlanFile, PlannedShard, read_plan

SHOWN_ITEMS: Final = 3
TIMED_SECONDS: Final = 3.0
MOST_TIMED: Final = 512


async def preview(local: LocalJob) -> Preview:
    """Plan the job and run its first items. Raises ManifestError, LocalFailed, StepFailed."""
    with (
        tempfile.TemporaryDirectory(prefix="batchwright-functions-") as functions,
        tempfile.TemporaryDirectory(prefix="batchwright-preview-") as scratch,
    ):
        job = job_of(local, Path(functions))
        plan, state = await asyncio.to_thread(_planned, job)
        with cancelled_by_signals():
            async with local_engines(job, deployments_of(local, job), writes=False) as here:
                await here.check_models()
                first = _TriedItems(here, first_shard(plan, SHOWN_ITEMS), locate(f"{scratch}/first"))
                await first.run()
                timed = await _timed(here, plan, first, f"{scratch}/timed")
                tasks = [_task(here, number) for number in range(len(job.spec.tasks))]
        records, errors = await asyncio.to_thread(first.results)
        return Preview(
            job=job,
            plan=plan,
            output_state=state,
            tasks=tasks,
            records=records,
            errors=errors,
            estimate=timed.estimate(plan.items),
        )


def first_shard(plan: PlanFile, items: int) -> PlannedShard:
    """The first items of a plan as one shard. Pure."""
    shards = first_items(plan.shards, items)
    return PlannedShard(
        items=sum(shard.items for shard in shards), segments=[each for shard in shards for each in shard.segments]
    )


def _planned(job: Job) -> tuple[PlanFile, str]:
    """The plan, and what lies in the output, in words. Raises StepFailed as the plan step does."""
    output = job.output()
    check_tasks(job)
    if (done := committed(job)) is not None:
        state = f"complete already ({done.manifest.failed} items failed); `run` would do nothing"
        return plan_input(job, read_plan(output)), state
    earlier = read_plan(output)
    check_free(output, earlier)
    _check_writable(output)
    plan = plan_input(job, earlier)
    check_same(earlier, plan, job, output)
    if earlier is None:
        return plan, "free"
    parts = own_parts(output, earlier)
    if earlier.key == plan.key:
        return plan, f"{len(parts)} of {len(plan.shards)} parts stand; `run` would make the others"
    return plan, f"results of {earlier.job!r} ({len(parts)} parts); `run` would remove them"


def _check_writable(output: Location) -> None:
    """As far as that is known without a write. Raises StepFailed(OutputNotWritable)."""
    if not output.local:
        return
    there = next(each for each in (Path(output.path), *Path(output.path).parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "is not writable" if there.is_dir() else "is a file"
        raise StepFailed("OutputNotWritable", f"{output.uri}: {there} {what}: choose another output.uri")


async def _timed(here: LocalEngines, plan: PlanFile, first: _TriedItems, folder: str) -> _TriedItems:
    """As many items as take a few seconds; the first ones waited for every start, and alone."""
    each = first.seconds / max(first.shard.items, 1)
    items = min(plan.items, MOST_TIMED, max(SHOWN_ITEMS, math.ceil(TIMED_SECONDS / max(each, 1e-6))))
    if items <= first.shard.items:
        return first
    timed = _TriedItems(here, first_shard(plan, items), locate(folder))
    await timed.run()
    return timed


class _TriedItems:
    """A shard of some items, with its part in a folder of its own."""

    def __init__(self, here: LocalEngines, shard: PlannedShard, output: Location) -> None:
        self.shard = shard
        self.seconds = 0.0
        self._here = here
        self._output = output
        self._part: PartStatistics | None = None

    async def run(self) -> None:
        """Raises StepFailed, LocalFailed."""
        job = self._here.job
        step = ShardStep(
            job=job,
            index=0,
            plan="preview",
            part_number=0,
            shard=self.shard,
            input=job.input(),
            form=format_of(job.spec.input),
            output=self._output,
            budget_bytes=memory_budget(),
        )
        progress, limit = ShardProgress(0, job.dag, self.shard.items), FailureLimit(most=self.shard.items)
        started = time.monotonic()
        self._part = await self._here.unless_ended(do_shard(step, self._here.engines, progress, limit))
        self.seconds = time.monotonic() - started

    def results(self) -> tuple[list[dict[str, Any]], list[ErrorRecord]]:
        """Records as they are written, and error records. Blocking."""
        assert self._part is not None
        errors = list(error_records(self._output, self._part.errors)) if self._part.errors else []
        return list(_records(Path(self._output.at(self._part.name)))), errors

    def estimate(self, total: int) -> Estimate:
        """For so many items."""
        assert self._part is not None
        return Estimate(items=self.shard.items, seconds=self.seconds, part_bytes=self._part.bytes, total=total)


def _records(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return found
    with pa.input_stream(path, compression="detect") as stream:
        return [json.loads(each) for each in stream.read().splitlines()]


# --- what tasks are called with


def _task(here: LocalEngines, number: int) -> dict[str, Any]:
    job = here.job
    task, node = job.spec.tasks[number], job.dag.nodes[number]
    told: dict[str, Any] = {"name": task.name, "kind": node.kind, "takes": list(task.depends_on) or ["item"]}
    if task.cpu is not None:
        declared = declared_row(resolve(task.name, task.cpu.function)) or {}
        makes = [f"{name}: {datatype} {list(shape)}" for name, (datatype, shape) in declared.items()]
        return told | {"function": task.cpu.function, "args": dict(task.cpu.args), "makes": makes}
    assert task.model is not None
    signature = here.engines.models[number].signature
    assert signature is not None
    return told | {
        "model": f"{task.model.deployment}/{task.model.model}",
        "inputs": [str(each) for each in signature.inputs],
        "makes": [str(each) for each in signature.outputs],
        "requests": "whole" if signature.whole else "in rows",
    }
