"""What runs the tasks of a job here: its deployments as processes, the process pool, the models' clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from batchwright_worker.local.deployment import LocalDeployment
from batchwright_worker.local.processes import LocalFailed, LocalPorts, served
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.steps.engines import TaskEngines, check_models, open_engines

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEngines:
    """The job with the endpoints of its deployments, and what runs its tasks. `ends`: each completes with the reason
    if a process of a deployment ends by itself."""

    job: Job
    engines: TaskEngines
    ends: Sequence[asyncio.Future[str]]

    async def unless_ended(self, work: Awaitable[T]) -> T:
        """The work, or LocalFailed as soon as a process of a deployment ends by itself."""
        task = asyncio.ensure_future(work)
        try:
            either: list[asyncio.Future[Any]] = [task, *self.ends]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise LocalFailed(next(end.result() for end in self.ends if end.done()))
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def check_models(self) -> None:
        """Wait until the models answer, and compare what functions declare. Raises StepFailed, LocalFailed."""
        await self.unless_ended(check_models(self.job, self.engines))


@contextlib.asynccontextmanager
async def local_engines(
    job: Job, deployments: Sequence[LocalDeployment], *, writes: bool = True
) -> AsyncIterator[LocalEngines]:
    """All of it, started. `writes=False`: nothing is put into the output. Raises LocalFailed, StepFailed."""
    async with contextlib.AsyncExitStack() as stack:
        endpoints: dict[str, str] = {}
        ends: list[asyncio.Future[str]] = []
        for deployment in deployments:
            here = await stack.enter_async_context(served(deployment, LocalPorts()))
            endpoints[deployment.name] = f"{here.host}:{here.http}"
            ends.append(here.ended)
        job = replace(job, endpoints=endpoints)
        engines = await stack.enter_async_context(open_engines(job, workers=job.cpu_workers, writes=writes))
        yield LocalEngines(job=job, engines=engines, ends=ends)
