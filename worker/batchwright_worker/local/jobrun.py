"""An InferenceJob on this machine: its deployments as processes, its shards in this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from batchwright_worker.api.messages import PlanResult
from batchwright_worker.local.job_engines import LocalEngines, local_engines
from batchwright_worker.local.job_summary import LocalResult, result_of
from batchwright_worker.local.local_job import LocalJob, deployments_of, job_of
from batchwright_worker.local.local_progress import LocalProgress, job_here
from batchwright_worker.local.progress_display import Counts, Rate, shown
from batchwright_worker.otlp.steps import step, traced
from batchwright_worker.runner.cpu.pool import begin_fork_server
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.inputs import format_of
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.outputs.arrow_records import begin_imports
from batchwright_worker.runner.progress import ShardProgress
from batchwright_worker.runner.steps.by_mode import commit_job, end_replacement, plan_job, tidy
from batchwright_worker.runner.steps.commit import Committed, committed, read_manifest
from batchwright_worker.runner.steps.engines import TaskEngines
from batchwright_worker.runner.steps.failure_limit import FailureLimit
from batchwright_worker.runner.steps.retry import retried_since
from batchwright_worker.runner.steps.shard import ShardStep, do_shard, load_plan, shard_step
from batchwright_worker.runner.storage.presence import Presence, running
from batchwright_worker.runner.storage.retry_files import read_retry

if TYPE_CHECKING:
    from batchwright_worker.local.board import Board

T = TypeVar("T")
RETRY_SECONDS: Final = 2.0


async def run_job(local: LocalJob, *, show_progress: bool, board: Board | None = None) -> LocalResult:
    """Run it to the end, shown on the board if there is one. Raises ManifestError, LocalFailed, StepFailed."""
    with traced(os.environ, "batchwright-job"), step("InferenceJob", job=local.name or ""):
        return await _run_job(local, show_progress=show_progress, board=board)


async def _run_job(local: LocalJob, *, show_progress: bool, board: Board | None) -> LocalResult:
    with tempfile.TemporaryDirectory(prefix="batchwright-functions-") as scratch:
        job = job_of(local, Path(scratch))
        await _until_cancelled(partial(end_replacement, job.output()))
        done = await asyncio.to_thread(_complete, job)
        if done is not None:
            await _until_cancelled(partial(tidy, job.output()))
            return await asyncio.to_thread(result_of, job, done)
        presence = Presence(job.output())
        try:
            return await _run(local, job, presence, show_progress=show_progress, board=board)
        except StepFailed as error:
            if error.reason != "NothingFailed":
                raise
            done = await asyncio.to_thread(committed, job)  # another run repeated the failed items just now
            if done is None:
                raise
            return await asyncio.to_thread(result_of, job, done)
        finally:
            await asyncio.to_thread(presence.end)


async def _run(
    local: LocalJob, job: Job, presence: Presence, *, show_progress: bool, board: Board | None
) -> LocalResult:
    output = job.output()
    if any(task.cpu is not None for task in job.spec.tasks):
        begin_fork_server()
    if job.spec.output.format == "parquet":
        begin_imports()
    others = await asyncio.to_thread(running, output)
    with step("plan", job=job.name) as planning:
        plan = await _until_cancelled(partial(plan_job, job, presence))
        planning.set(items=plan.items, shards=plan.shards)
    retry = await asyncio.to_thread(read_retry, output) if job.retries else None
    deployments = await asyncio.to_thread(deployments_of, local, job)  # it fetches weights in a loop of its own
    started = answered = time.monotonic()
    committing: asyncio.Task[tuple[Committed, float]] | None = None
    with cancelled_by_signals():
        try:
            async with local_engines(job, deployments) as here:
                if board is not None:
                    for deployment in deployments:
                        board.follow(deployment, here.serving[deployment.name])
                order = shard_order(plan.shards, len(others))
                try:
                    answered = await _run_shards(here, plan, order, show_progress=show_progress, board=board)
                except StepFailed:
                    # the results of repeated items are gone as soon as another run has put them where they belong
                    if retry is None or not await asyncio.to_thread(retried_since, output, retry.base):
                        raise
                # while the processes end, of which nothing is asked any more
                committing = asyncio.create_task(_timed_commit(job, presence))
            done, ended = await committing
        finally:
            if committing is not None:
                committing.cancel()
    return await asyncio.to_thread(result_of, job, done, start_s=answered - started, run_s=ended - answered)


async def _timed_commit(job: Job, presence: Presence) -> tuple[Committed, float]:
    """The data set, and when it was whole (time.monotonic)."""
    with step("commit", job=job.name):
        return await _until_cancelled(partial(commit_job, job, presence)), time.monotonic()


def shard_order(shards: int, others: int) -> Sequence[int]:
    """The shards as a run does them beside so many others: from the first on, from the last on, or from a third place
    on, so that they meet, and each finds the parts of the others. Pure."""
    if others == 1:
        return range(shards - 1, -1, -1)
    first = shards * others // (others + 1) if others else 0
    return [*range(first, shards), *range(first)]


async def _until_cancelled(step: Callable[..., T]) -> T:
    """A step that may have to wait for another run, in a thread; that ends when this task is cancelled."""
    given_up = threading.Event()
    try:
        return await asyncio.to_thread(step, given_up=given_up.is_set)
    finally:
        given_up.set()


def _complete(job: Job) -> Committed | None:
    """What stands, if nothing is left to do. Parts whose failed items are repeated are verified by the plan of that."""
    if job.retries and (manifest := read_manifest(job.output())) is not None and manifest.failed:
        return None
    return committed(job)


@contextlib.contextmanager
def cancelled_by_signals() -> Iterator[None]:
    """SIGTERM ends the body with CancelledError, and so does the end of its terminal, unless it is not to (nohup)."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    signals = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN]
    for each in signals:
        loop.add_signal_handler(each, task.cancel)
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)


async def _run_shards(
    here: LocalEngines, plan: PlanResult, order: Sequence[int], *, show_progress: bool, board: Board | None
) -> float:
    """All shards to the end; when the models had answered (time.monotonic). Raises StepFailed(DeadlineExceeded) too."""
    progress = LocalProgress()
    if board is not None:
        board.job = partial(job_here, here.job, plan, progress, Rate(), time.time())
    seconds = here.job.spec.active_deadline_seconds
    deadline = None if seconds is None else time.monotonic() + seconds

    def counts() -> Counts:
        return Counts(
            done=progress.done,
            failed=progress.failed,
            waiting_for=here.engines.waiting_for(),
            left_s=None if deadline is None else deadline - time.monotonic(),
        )

    try:
        async with asyncio.timeout(seconds) as limit, shown(here.job.name, plan.items, counts, show=show_progress):
            await here.check_models()
            answered = time.monotonic()
            await here.unless_ended(_shards(here, order, progress))
            return answered
    except TimeoutError as error:
        if not limit.expired():
            raise
        message = (
            f"{progress.done} of {plan.items} items were through after spec.activeDeadlineSeconds ({seconds}): "
            "complete shards stay, and the same command goes on from there; raise it if one run is to do all"
        )
        raise StepFailed("DeadlineExceeded", message, permanent=False) from error


async def _shards(here: LocalEngines, order: Sequence[int], progress: LocalProgress) -> None:
    """All shards in this order, `parallelism` at a time, and the next one as soon as one of these has read its items;
    they share the process pool and the models' clients. Raises the StepFailed of the first shard that fails."""
    job = here.job
    most = job.spec.parallelism + 1
    opened, reading = asyncio.Semaphore(most), asyncio.Semaphore(job.spec.parallelism)
    limit = FailureLimit(most=job.most_failed)
    form = format_of(job.spec.input)
    plan = await asyncio.to_thread(load_plan, job, job.output())

    async def one(index: int) -> None:
        with contextlib.ExitStack() as end, contextlib.ExitStack() as turn:
            end.callback(opened.release)
            await reading.acquire()
            turn.callback(reading.release)
            shard = shard_step(job, index, share=most, form=form, plan=plan)
            with step(f"shard {index}", job=job.name, shard=index, items=shard.shard.items):
                await _shard(shard, here.engines, progress, limit, turn.close)

    try:
        async with asyncio.TaskGroup() as group:
            for index in order:
                await opened.acquire()
                group.create_task(one(index))
    except* StepFailed as failures:
        raise failures.exceptions[0] from None


async def _shard(
    step: ShardStep,
    engines: TaskEngines,
    all_shards: LocalProgress,
    limit: FailureLimit,
    on_read: Callable[[], None],
) -> None:
    """One shard; what is not permanent is tried again, as often as the manifest says."""
    job = step.job
    progress = ShardProgress(step.index, job.dag, step.shard.items)
    all_shards.running.append(progress)
    for left in reversed(range(job.spec.backoff_limit_per_shard + 1)):
        try:
            part = await do_shard(step, engines, progress, limit, on_read)
        except StepFailed as error:
            if error.permanent or not left:
                raise
            limit.succeeded, limit.failed = limit.succeeded - progress.succeeded, limit.failed - progress.failed
            progress.restart()
            await asyncio.sleep(RETRY_SECONDS)
        else:
            progress.succeeded, progress.failed = part.succeeded, part.failed
            all_shards.end(progress)
            return
