"""Open and close what runs the tasks of a job, and check the job against its models before the first item runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from batchwright_worker.api.job import ModelTask
from batchwright_worker.runner.cpu import functions
from batchwright_worker.runner.cpu.pool import CpuPool
from batchwright_worker.runner.cpu.pool_worker import FunctionSpec
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.graph.block_size import Pace
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.models.client import ModelClient
from batchwright_worker.runner.models.replicas import ReplicaSet
from batchwright_worker.runner.models.signature import InputSignature, mismatch
from batchwright_worker.runner.steps.model_pins import ModelPins

Broken = list[Callable[[StepFailed], None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEngines:
    """What runs the tasks of a job, shared by the shards of one process: the pool with the number of each CPU task's
    function, the client of each model task (both by task number), and the deployments behind the clients."""

    pool: CpuPool
    functions: Mapping[int, int]
    models: Mapping[int, ModelClient]
    deployments: Mapping[str, ReplicaSet]
    pace: Pace = field(default_factory=Pace)

    async def confirm_models(self) -> None:
        """Raises StepFailed(ModelChanged) if a model is no longer the one that the results were begun with."""
        await asyncio.gather(*(client.confirm() for client in set(self.models.values())))

    def waiting_for(self) -> list[str]:
        """Deployments that no replica of answers at present."""
        return [name for name, replicas in self.deployments.items() if not replicas.answers]


@contextlib.asynccontextmanager
async def open_engines(job: Job, *, workers: int, writes: bool = True) -> AsyncIterator[TaskEngines]:
    """Process pool and model clients of a job; `writes=False`: nothing is put into the output. Raises
    StepFailed(InvalidTask | CertificateRefused ..)."""
    numbers = [number for number, task in enumerate(job.spec.tasks) if task.cpu is not None]
    pool = CpuPool(_function_specs(job), workers=workers, folders=job.folders)
    deployments = {name: ReplicaSet(name, endpoint, job.tls.get(name)) for name, endpoint in _endpoints(job)}
    models = _clients(job, deployments, ModelPins(job.output(), writes=writes), pool.on_broken)
    engines = TaskEngines(
        pool=pool,
        functions={task: index for index, task in enumerate(numbers)},
        models={number: models[_key(task.model)] for number, task in enumerate(job.spec.tasks) if task.model},
        deployments=deployments,
    )
    try:
        # All of them, even if one fails: what is half open cannot be closed.
        opened = await asyncio.gather(
            pool.start(), *(replicas.open() for replicas in deployments.values()), return_exceptions=True
        )
        for failure in opened:
            if failure is not None:
                raise failure
        yield engines
    finally:
        for client in models.values():
            await client.close()
        for replicas in deployments.values():
            await replicas.close()
        await pool.stop()


async def check_models(job: Job, engines: TaskEngines) -> None:
    """Wait until every model tells its inputs; compare what functions declare. Raises StepFailed(UnknownModel ..)."""
    clients = engines.models
    await asyncio.gather(*(client.learn() for client in set(clients.values())))
    for number, client in clients.items():
        assert client.signature is not None
        _check_source(job, number, client.signature)


def _check_source(job: Job, number: int, signature: InputSignature) -> None:
    for before in job.dag.before[number]:
        source = job.spec.tasks[before]
        if source.cpu is None:
            continue
        declared = functions.declared_row(functions.resolve(source.name, source.cpu.function))
        problem = mismatch(declared, signature) if declared is not None else None
        if problem is not None:
            message = f"task {job.dag.nodes[number].name!r} takes what task {source.name!r} makes: {problem}"
            raise StepFailed("ShapeMismatch", message)


def _function_specs(job: Job) -> list[FunctionSpec]:
    return [
        FunctionSpec(
            task=task.name,
            reference=task.cpu.function,
            args=dict(task.cpu.args),
            batch=task.cpu.batch,
            timeout_s=task.cpu.timeout_seconds,
        )
        for task in job.spec.tasks
        if task.cpu is not None
    ]


def _endpoints(job: Job) -> list[tuple[str, str]]:
    found = {}
    for task in job.spec.tasks:
        if task.model is None:
            continue
        name = task.model.deployment
        if name not in job.endpoints:
            message = (
                f"task {task.name!r}: no ModelDeployment {name!r}; known ones: {', '.join(job.endpoints) or 'none'}"
            )
            raise StepFailed("UnknownDeployment", message)
        found[name] = job.endpoints[name]
    return list(found.items())


def _clients(
    job: Job, deployments: dict[str, ReplicaSet], pins: ModelPins, on_broken: Broken
) -> dict[tuple[str, str], ModelClient]:
    keys = dict.fromkeys(_key(task.model) for task in job.spec.tasks if task.model is not None)
    return {key: ModelClient(deployments[key[0]], key[1], pins, on_broken) for key in keys}


def _key(task: ModelTask) -> tuple[str, str]:
    return task.deployment, task.model
