"""What runs the tasks of a job here: its deployments as processes, the process pool, the models' clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from batchwright_worker.local.deployment import LocalDeployment
from batchwright_worker.local.failed_loads import failed_for_good
from batchwright_worker.local.processes import LocalFailed, LocalPorts, LocalServing, served
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.steps.engines import TaskEngines, check_models, open_engines

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEngines:
    """The job with the endpoints of its deployments, what runs its tasks, and the deployments' processes."""

    job: Job
    engines: TaskEngines
    serving: Mapping[str, LocalServing]

    async def unless_ended(self, work: Awaitable[T], failed: Sequence[asyncio.Future[str]] = ()) -> T:
        """The work, or LocalFailed as soon as a process of a deployment ends by itself, or StepFailed(InvalidModel) as
        soon as one of `failed` says why."""
        task, ends = asyncio.ensure_future(work), [here.ended for here in self.serving.values()]
        try:
            either: list[asyncio.Future[Any]] = [task, *ends, *failed]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return await task
            for end in ends:
                if end.done():
                    raise LocalFailed(end.result())
            raise StepFailed("InvalidModel", next(end.result() for end in failed if end.done()))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def check_models(self) -> None:
        """Wait until the models answer, and compare what functions declare. Raises StepFailed, also where a model
        cannot be loaded, LocalFailed."""
        asked = [task.model for task in self.job.spec.tasks if task.model is not None]
        watchers = [
            asyncio.ensure_future(
                failed_for_good(name, here, {each.model for each in asked if each.deployment == name})
            )
            for name, here in self.serving.items()
        ]
        try:
            await self.unless_ended(check_models(self.job, self.engines), watchers)
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)


@contextlib.asynccontextmanager
async def local_engines(
    job: Job, deployments: Sequence[LocalDeployment], *, writes: bool = True
) -> AsyncIterator[LocalEngines]:
    """All of it, started. `writes=False`: nothing is put into the output. Raises LocalFailed, StepFailed."""
    async with contextlib.AsyncExitStack() as stack:
        serving: dict[str, LocalServing] = {}
        for deployment in deployments:
            serving[deployment.name] = await stack.enter_async_context(served(deployment, LocalPorts()))
        job = replace(job, endpoints={name: f"{here.host}:{here.http}" for name, here in serving.items()})
        engines = await stack.enter_async_context(open_engines(job, workers=job.cpu_workers, writes=writes))
        yield LocalEngines(job=job, engines=engines, serving=serving)
