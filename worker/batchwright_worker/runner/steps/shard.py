"""The run step: one shard, from the plan to its part; nothing is done for a part that is whole already."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from batchwright_worker.api.messages import RunnerState
from batchwright_worker.otlp.steps import step as traced_step
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.graph.window import Window
from batchwright_worker.runner.inputs.inputs import format_of, shard_items
from batchwright_worker.runner.inputs.items import Format, Item
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.outputs.arrow_records import begin_imports
from batchwright_worker.runner.outputs.parts import MadePart, PartStatistics, PartWriter, drop_damaged, whole_part
from batchwright_worker.runner.progress import PUBLISH_SECONDS, Published, ShardProgress
from batchwright_worker.runner.steps.engines import TaskEngines, check_models, open_engines
from batchwright_worker.runner.steps.failure_limit import FailureLimit
from batchwright_worker.runner.steps.selection import picked
from batchwright_worker.runner.steps.shard_run import ShardRun
from batchwright_worker.runner.storage.locations import Location
from batchwright_worker.runner.storage.plan_file import (
    PLAN_NAME,
    PlanFile,
    PlannedShard,
    Selection,
    part_name,
    read_plan,
)
from batchwright_worker.runner.storage.plan_index import read_shard
from batchwright_worker.runner.storage.presence import Presence
from batchwright_worker.runner.storage.retry_files import read_retry, retry_output

DEFAULT_BUDGET_BYTES = 256 << 20
REPLACE = "have it replaced (output.mode: Overwrite; --overwrite)"
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStep:
    """A shard to do: its plan, where input and output lie, and how much memory its items may hold."""

    job: Job
    index: int
    plan: str
    """Key of the plan."""
    part_number: int
    """Another than the index where failed items are run again: the first part that has some may be the third."""
    shard: PlannedShard
    input: Location
    form: Format
    output: Location
    budget_bytes: int

    @property
    def part(self) -> str:
        """Name of its part."""
        return part_name(self.part_number, self.job.suffix)


def load_plan(job: Job, output: Location) -> PlanFile:
    """The plan of this very job. Raises StepFailed(PlanMissing | OutputInUse | CodeChanged)."""
    plan = read_plan(output)
    if plan is None:
        message = f"{output.uri}/{PLAN_NAME} is not there: run the plan step first, and leave its files alone"
        raise StepFailed("PlanMissing", message)
    check_meaning(plan, job, output)
    return plan


def check_meaning(plan: PlanFile, job: Job, output: Location) -> None:
    """Raise StepFailed(OutputInUse | CodeChanged) unless results of this job may stand beside those of the plan."""
    if plan.selection != job.selection:
        message = (
            f"{output.uri} holds results of {_items_of(plan.selection)} of {plan.job!r}, this run makes those of "
            f"{_items_of(job.selection)}: choose another output.uri, or {REPLACE}"
        )
        raise StepFailed("OutputInUse", message)
    if plan.identity != job.identity:
        message = (
            f"{output.uri} holds results of {plan.job!r} with another input, other tasks or arguments: choose another "
            f"output.uri, or {REPLACE}"
        )
        raise StepFailed("OutputInUse", message)
    changed = plan.code.changed(job.code())
    if changed:
        message = (
            f"{', '.join(changed[:3])} changed since the results in {output.uri} were begun: they are not mixed. "
            f"Restore what changed, choose another output.uri, or {REPLACE}"
        )
        raise StepFailed("CodeChanged", message)


def _items_of(selection: Selection | None) -> str:
    return "all items" if selection is None else selection.title


def _planned_shard(job: Job, output: Location, number: int, plan: PlanFile | None) -> tuple[str, PlannedShard]:
    """The plan's key and one of its shards, of which no other is read where the plan is not at hand."""
    found = read_shard(output, number) if plan is None and output.exists(PLAN_NAME) else None
    if found is not None:
        check_meaning(found.head, job, output)
        if found.shard is None:
            raise _unknown(number, found.shards)
        return found.head.key, found.shard
    plan = plan or load_plan(job, output)
    if not 0 <= number < len(plan.shards):
        raise _unknown(number, len(plan.shards))
    return plan.key, plan.shards[number]


def _unknown(index: int, count: int) -> StepFailed:
    return StepFailed("UnknownShard", f"shard {index} is not in the plan, which has {count}")


def shard_step(
    job: Job, index: int, *, share: int = 1, form: Format | None = None, plan: PlanFile | None = None
) -> ShardStep:
    """The step of shard `index`; `share` such steps share this process's memory, the `plan` if it is loaded already,
    and the `form` of the input, which remembers places. Raises StepFailed."""
    output = job.output()
    retry = read_retry(output) if job.retries else None
    if job.retries and retry is None:
        raise StepFailed("PlanMissing", f"{output.uri} has no plan to repeat failed items: run the plan step first")
    if retry is not None and not 0 <= index < len(retry.shards):
        raise _unknown(index, len(retry.shards))
    number = index if retry is None else retry.shards[index].shard
    key, shard = _planned_shard(job, output, number, plan)
    if retry is not None:
        key = retry.key
        shard, output = picked(shard, retry.shards[index].positions), retry_output(output)
    return ShardStep(
        job=job,
        index=index,
        plan=key,
        part_number=number,
        shard=shard,
        input=job.input(),
        form=form or format_of(job.spec.input),
        output=output,
        budget_bytes=memory_budget() // share,
    )


def memory_budget() -> int:
    """Bytes that items may hold: a quarter of the container's memory limit."""
    try:
        return int(_CGROUP_LIMIT.read_text()) // 4
    except (OSError, ValueError):
        return DEFAULT_BUDGET_BYTES


Publish = Callable[[Published], contextlib.AbstractAsyncContextManager[None]]


async def run_shard(step: ShardStep, publish_to: Publish) -> RunnerState:
    """Do the shard with engines of its own and publish its state meanwhile; the final state. Raises StepFailed."""
    with traced_step(f"shard {step.index}", job=step.job.name, shard=step.index, items=step.shard.items) as shard:
        state = await _run_shard(step, publish_to)
        shard.set(succeeded=state.items_succeeded, failed=state.items_failed)
        return state


async def _run_shard(step: ShardStep, publish_to: Publish) -> RunnerState:
    progress = ShardProgress(step.index, step.job.dag, step.shard.items)
    published = Published(progress.state(0))
    async with publish_to(published):
        known = whole_part(step.output, step.part, step.plan)
        if known is not None:
            return state_of(known, step)
        if step.job.spec.output.format == "parquet":
            begin_imports()
        async with (
            present(step.job.output()),
            open_engines(step.job, workers=step.job.cpu_workers) as engines,
            publishing(published, progress, engines),
        ):
            await check_models(step.job, engines)
            statistics = await do_shard(step, engines, progress)
        final = state_of(statistics, step)
        await published.publish(lambda revision: msgspec.structs.replace(final, revision=revision))
        return published.state


async def do_shard(
    step: ShardStep,
    engines: TaskEngines,
    progress: ShardProgress,
    limit: FailureLimit | None = None,
    on_read: Callable[[], None] = lambda: None,
) -> PartStatistics:
    """Run the items of a shard and make its part; statistics of the part that stands. Shards that share a `limit` are
    ended together. `on_read`: see `ShardRun.run`. Raises StepFailed."""
    limit = limit or FailureLimit(most=step.job.most_failed)
    known = await asyncio.to_thread(whole_part, step.output, step.part, step.plan)
    if known is not None:
        return known
    drop_damaged(step.output, step.part, step.plan)
    try:
        made = await _make_part(step, engines, progress, limit, on_read)
    except StepFailed as error:
        if error.permanent or error.reason != "OutputNotWritable":
            raise
        # where a file system has no locks, runs do not know of each other: another one may have made the part and
        # removed the temporary files, ours among them
        return _winner(step, error)
    return made or _winner(step)


async def _make_part(
    step: ShardStep, engines: TaskEngines, progress: ShardProgress, limit: FailureLimit, on_read: Callable[[], None]
) -> PartStatistics | None:
    """None: another runner was first."""
    pool = engines.pool
    window = Window(
        budget_bytes=step.budget_bytes, first_items=2 * max(1, pool.size) + 2, need_bytes=engines.pace.need_bytes
    )
    with PartWriter(step.output, step.part_number, step.job.suffix) as writer:
        run = ShardRun(step.job, engines, writer, progress, window, limit=limit)
        pool.on_broken.append(run.fail)
        try:
            await run.run(_items(step), on_read)
        finally:
            pool.on_broken.remove(run.fail)
        await engines.confirm_models()
        return await asyncio.to_thread(writer.finish, _statistics(progress, step.plan))


def _items(step: ShardStep) -> Iterator[Item]:
    return shard_items(step.input, step.form, step.shard)


def _statistics(progress: ShardProgress, plan: str) -> Callable[[MadePart], PartStatistics]:
    def make(made: MadePart) -> PartStatistics:
        return PartStatistics(
            plan=plan,
            items=progress.items_total,
            succeeded=progress.succeeded,
            failed=progress.failed,
            **made._asdict(),
            tasks=[task.state() for task in progress.tasks],
            failures=progress.failures,
        )

    return make


def _winner(step: ShardStep, failure: StepFailed | None = None) -> PartStatistics:
    """Another runner of this index was first: its part stands. Raises the failure if it does not."""
    known = whole_part(step.output, step.part, step.plan)
    if known is None:
        if failure is not None:
            raise failure
        message = f"{step.output.uri}/{step.part} was replaced by something else: remove it, the shard is repeated"
        raise StepFailed("PartDamaged", message, permanent=False)
    return known


def state_of(part: PartStatistics, step: ShardStep) -> RunnerState:
    """The final state of a shard whose part stands."""
    return RunnerState(
        revision=0,
        time=time.time(),
        shard=step.index,
        items_total=part.items,
        items_succeeded=part.succeeded,
        items_failed=part.failed,
        done=True,
        tasks=part.tasks,
        failures=part.failures,
    )


@contextlib.asynccontextmanager
async def present(output: Location) -> AsyncIterator[None]:
    """Others know that this run is at work."""
    presence = Presence(output)
    try:
        await asyncio.to_thread(presence.begin)
        yield
    finally:
        await asyncio.to_thread(presence.end)


@contextlib.asynccontextmanager
async def publishing(published: Published, progress: ShardProgress, engines: TaskEngines) -> AsyncIterator[None]:
    """Publish the state at most every PUBLISH_SECONDS while the body runs."""

    async def keep() -> None:
        while True:
            await published.publish(lambda revision: progress.state(revision, waiting_for=engines.waiting_for()))
            await asyncio.sleep(PUBLISH_SECONDS)

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
