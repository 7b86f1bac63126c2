"""An InferenceJob on this machine: its deployments as processes, its shards in this one, and a short summary."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from batchwright_worker.api.documents import Document, ManifestError, validate, with_defaults
from batchwright_worker.api.messages import ItemFailure, JobConfig, PlanResult, TaskState
from batchwright_worker.api.names import claim_of
from batchwright_worker.api.uris import file_uri, path_of
from batchwright_worker.local.deployment import LocalDeployment, local_deployment
from batchwright_worker.local.processes import LocalFailed, LocalPorts, served
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.inputs import format_of
from batchwright_worker.runner.job import Job, make_job
from batchwright_worker.runner.progress import ShardProgress
from batchwright_worker.runner.steps.commit import Manifest, commit, committed
from batchwright_worker.runner.steps.engines import TaskEngines, check_models, open_engines
from batchwright_worker.runner.steps.failure_limit import FailureLimit
from batchwright_worker.runner.steps.plan import make_plan
from batchwright_worker.runner.steps.shard import ShardStep, do_shard, load_plan, shard_step

_REFRESH_SECONDS = 0.25
_RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalJob:
    """The arguments of `run`: documents of all files, where claims are, and where modules are looked for."""

    documents: Sequence[Document]
    name: str | None
    volumes: Mapping[str, Path]
    folders: tuple[str, ...] = ()
    accelerator: str | None = None
    overwrite: bool = False
    """As `output.mode: Overwrite`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResult:
    """The outcome of `run`. `start_s` passed until the models answered, `run_s` from then until the manifest was
    written; both are 0 if the output was complete already."""

    job: Job
    manifest: Manifest
    tasks: Sequence[TaskState] = ()
    failures: Sequence[ItemFailure] = ()
    start_s: float = 0.0
    run_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "items": self.manifest.items,
            "succeeded": self.manifest.succeeded,
            "failed": self.manifest.failed,
            "startSeconds": round(self.start_s, 3),
            "runSeconds": round(self.run_s, 3),
            "itemsPerSecond": round(self.manifest.items / self.run_s, 3) if self.run_s else None,
            "meanBatchSizes": {task.name: task.mean_batch_size for task in self.tasks if task.rows},
            "tasks": [
                {"name": task.name, "succeeded": task.succeeded, "failed": task.failed, "rows": task.rows}
                for task in self.tasks
            ],
            "failures": [
                {"item": failure.item, "task": failure.task, "message": failure.message} for failure in self.failures
            ],
            "filesLeftOut": self.manifest.files_left_out,
            "output": self.job.spec.output.uri,
        }

    def as_text(self) -> str:
        """For people."""
        manifest, uri = self.manifest, self.job.spec.output.uri
        counts = f"{manifest.succeeded} of {manifest.items} items succeeded, {manifest.failed} failed"
        if not self.run_s:
            lines = [f"{self.job.name} is complete already: {counts}, in {uri}; nothing to do"]
        else:
            speed = (
                f"{self.run_s:.1f} s, {manifest.items / self.run_s:.2f} items/s, after {self.start_s:.1f} s to start"
            )
            lines = [
                f"{self.job.name}: {counts}; {speed}",
                f"output: {uri} ({len(manifest.parts)} parts, _manifest.json)",
            ]
        if manifest.files_left_out:
            names = ", ".join(manifest.left_out_names[:5])
            lines.append(f"left out of the input: {manifest.files_left_out} files of other suffixes, first {names}")
        lines += [
            f"task {task.name}: {task.rows} rows, mean batch {task.mean_batch_size:g}"
            for task in self.tasks
            if task.rows
        ]
        lines += [f"failed: {failure.item}, task {failure.task}: {failure.message}" for failure in self.failures]
        return "\n".join(lines)


@dataclass(slots=True)
class LocalProgress:
    """Items of all shards that have begun: shards that have ended are only counted."""

    running: list[ShardProgress] = field(default_factory=list)
    _ended_items: int = 0
    _ended_failed: int = 0

    @property
    def done(self) -> int:
        """Items that succeeded or failed."""
        return self._ended_items + sum(shard.succeeded + shard.failed for shard in self.running)

    @property
    def failed(self) -> int:
        """Items that failed."""
        return self._ended_failed + sum(shard.failed for shard in self.running)

    def end(self, shard: ShardProgress) -> None:
        """A shard's part stands."""
        self.running.remove(shard)
        self._ended_items += shard.succeeded + shard.failed
        self._ended_failed += shard.failed


async def run_job(local: LocalJob, *, show_progress: bool) -> LocalResult:
    """Run it to the end. Raises ManifestError, LocalFailed, StepFailed."""
    with tempfile.TemporaryDirectory(prefix="batchwright-functions-") as scratch:
        job = _job(local, Path(scratch))
        done = committed(job)
        if done is not None:
            return LocalResult(job=job, manifest=done.manifest, tasks=done.tasks, failures=done.failures)
        plan = await asyncio.to_thread(make_plan, job)
        deployments = [
            local_deployment(local.documents, name, local.accelerator, local.volumes) for name in _deployment_names(job)
        ]
        started = time.monotonic()
        with _cancelled_by_sigterm():
            answered = await _run_shards(job, deployments, plan, show_progress=show_progress)
        result = await asyncio.to_thread(commit, job)
        return LocalResult(
            job=job,
            manifest=result.manifest,
            tasks=result.tasks,
            failures=result.failures,
            start_s=answered - started,
            run_s=time.monotonic() - answered,
        )


def _job(local: LocalJob, scratch: Path) -> Job:
    document = with_defaults(_chosen(local))
    problems = validate(document)
    if problems:
        raise ManifestError("\n".join(str(problem) for problem in problems))
    spec: dict[str, Any] = dict(document["spec"])
    for place in ("input", "output"):
        spec[place] = {**spec[place], "uri": _local_uri(spec[place]["uri"], f"spec.{place}.uri", local.volumes)}
    if local.overwrite:
        spec["output"] = {**spec["output"], "mode": "Overwrite"}
    metadata = document["metadata"]
    config = JobConfig(name=metadata["name"], namespace=metadata.get("namespace", "default"), uid="local", spec=spec)
    job = make_job(config, folders=(*_config_maps(local.documents, spec, scratch), *local.folders))
    for variable in job.spec.runner.env:
        if variable.value is not None:
            os.environ.setdefault(variable.name, variable.value)
    return job


def _chosen(local: LocalJob) -> Document:
    found = {
        str(document.get("metadata", {}).get("name")): document
        for document in local.documents
        if document.get("kind") == "InferenceJob"
    }
    names = ", ".join(found) or "none"
    if local.name is not None and local.name not in found:
        raise ManifestError(f"there is no InferenceJob {local.name!r} in these files; there are: {names}")
    if local.name is None and len(found) != 1:
        raise ManifestError(f"these files hold {len(found)} InferenceJobs ({names}): name one with --name")
    return found[local.name] if local.name is not None else next(iter(found.values()))


def _local_uri(uri: str, field: str, volumes: Mapping[str, Path]) -> str:
    claim = claim_of(uri)
    if claim is None:
        return uri
    if claim not in volumes:
        raise ManifestError(f"{field}: {uri} is on a claim: say where it is here, --volume {claim}=FOLDER")
    return file_uri(volumes[claim].absolute() / path_of(uri))


def _config_maps(documents: Sequence[Document], spec: Mapping[str, Any], scratch: Path) -> Iterator[str]:
    """ConfigMaps of functions that are among the documents, written out as they would be mounted."""
    wanted = spec.get("runner", {}).get("configMaps", [])
    for document in documents:
        name = document.get("metadata", {}).get("name")
        if document.get("kind") == "ConfigMap" and name in wanted:
            folder = scratch / name
            folder.mkdir()
            for key, text in document.get("data", {}).items():
                (folder / key).write_text(text)
            yield str(folder)


def _deployment_names(job: Job) -> list[str]:
    return list(dict.fromkeys(task.model.deployment for task in job.spec.tasks if task.model is not None))


@contextlib.contextmanager
def _cancelled_by_sigterm() -> Iterator[None]:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _run_shards(
    job: Job, deployments: Sequence[LocalDeployment], plan: PlanResult, *, show_progress: bool
) -> float:
    """All shards to the end; when the models had answered (time.monotonic)."""
    async with contextlib.AsyncExitStack() as stack:
        endpoints: dict[str, str] = {}
        ends: list[asyncio.Future[str]] = []
        for deployment in deployments:
            here = await stack.enter_async_context(served(deployment, LocalPorts()))
            endpoints[deployment.name] = f"{here.host}:{here.http}"
            ends.append(here.ended)
        job = replace(job, endpoints=endpoints)
        engines = await stack.enter_async_context(open_engines(job, workers=job.cpu_workers))
        progress = LocalProgress()
        await stack.enter_async_context(_shown(job, progress, plan.items, engines, show=show_progress))
        await _unless_ended(check_models(job, engines), ends)
        answered = time.monotonic()
        await _unless_ended(_shards(job, engines, plan.shards, progress), ends)
        return answered


async def _unless_ended(work: Any, ends: Sequence[asyncio.Future[str]]) -> None:
    """The work, or LocalFailed as soon as a process of a deployment ends by itself."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task, *ends], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise LocalFailed(next(end.result() for end in ends if end.done()))
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _shards(job: Job, engines: TaskEngines, shards: int, progress: LocalProgress) -> None:
    """All shards in order, `parallelism` at a time, and the next one as soon as one of these has read its items; they
    share the process pool and the models' clients. Raises the StepFailed of the first shard that cannot be done."""
    most = job.spec.parallelism + 1
    opened, reading = asyncio.Semaphore(most), asyncio.Semaphore(job.spec.parallelism)
    limit = FailureLimit(most=job.spec.max_failed_items)
    form = format_of(job.spec.input)
    plan = await asyncio.to_thread(load_plan, job, job.output())

    async def one(index: int) -> None:
        with contextlib.ExitStack() as end, contextlib.ExitStack() as turn:
            end.callback(opened.release)
            await reading.acquire()
            turn.callback(reading.release)
            step = shard_step(job, index, share=most, form=form, plan=plan)
            await _shard(step, engines, progress, limit, turn.close)

    try:
        async with asyncio.TaskGroup() as group:
            for index in range(shards):
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
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            progress.succeeded, progress.failed = part.succeeded, part.failed
            all_shards.end(progress)
            return


@contextlib.asynccontextmanager
async def _shown(
    job: Job, progress: LocalProgress, items: int, engines: TaskEngines, *, show: bool
) -> AsyncIterator[None]:
    """A progress bar while the body runs."""
    if not show:
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        line = bar.add_task(job.name, total=items)

        def refresh() -> None:
            done, failed = progress.done, progress.failed
            waiting = engines.waiting_for()
            note = f" (waiting for {', '.join(waiting)})" if waiting else f" ({failed} failed)" if failed else ""
            bar.update(line, completed=done, description=job.name + note)

        async def keep() -> None:
            while True:
                refresh()
                await asyncio.sleep(_REFRESH_SECONDS)

        task = asyncio.create_task(keep())
        try:
            yield
            refresh()
        finally:
            task.cancel()
