"""The parts of a sidecar from its settings and the deployment: the engine, its runtimes' clients, shares of memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import cast

from batchwright_worker.api.deployment import ModelDeployment
from batchwright_worker.api.deployment import Runtime as DeclaredRuntime
from batchwright_worker.api.formats import FORMATS
from batchwright_worker.api.model import Artifact
from batchwright_worker.api.names import KIND_CPU, KIND_EMULATED
from batchwright_worker.dispatch_log.recorder import DispatchLog, RecordedScheduler
from batchwright_worker.engine.engine import Engine, interleaves
from batchwright_worker.host.memory import container_limit_bytes, machine_bytes
from batchwright_worker.inference.runtime import Runtime
from batchwright_worker.sidecar.memory_shares import MemoryShares, memory_shares
from batchwright_worker.sidecar.runtimes.client import RuntimeClient, RuntimeSettings
from batchwright_worker.sidecar.runtimes.external.server import ExternalServer, ExternalServerSettings
from batchwright_worker.sidecar.runtimes.sources import Paths
from batchwright_worker.sidecar.settings import Settings
from batchwright_worker.sidecar.tracing.instrumented import TracedEngine, TracedRuntime
from batchwright_worker.sidecar.tracing.spans import tracing_of


def engine_of(
    settings: Settings,
    deployment: ModelDeployment,
    clients: Sequence[RuntimeClient | ExternalServer],
    stack: contextlib.AsyncExitStack,
) -> Engine:
    """The plain one, or one that writes the dispatch log or sends traces, as the settings and the environment say."""
    tracing = tracing_of(os.environ, deployment.name)
    if tracing is None and settings.dispatch_log is None:
        return Engine.for_deployment(deployment, clients)
    log = None
    if settings.dispatch_log is not None:
        log = DispatchLog(settings.dispatch_log, settings.dispatch_log_bytes, time.monotonic)
        stack.callback(log.close)
    scheduler = RecordedScheduler(
        log,
        order=deployment.spec.queue_order,
        eviction=deployment.spec.evict,
        clock=time.monotonic,
        wall=time.time,
        observe=None if tracing is None else tracing.observe,
    )
    if tracing is None:
        return Engine.for_deployment(deployment, clients, scheduler)
    # In a thread: it may block for two seconds.
    stack.push_async_callback(asyncio.to_thread, tracing.stop)
    return TracedEngine(
        deployment.spec.models,
        [cast(Runtime, TracedRuntime(client, tracing)) for client in clients],
        tracing=tracing,
        scheduler=scheduler,
        interleaves=interleaves(deployment),
    )


@contextlib.asynccontextmanager
async def runtimes_of(
    settings: Settings, deployment: ModelDeployment, refused: Mapping[str, str]
) -> AsyncIterator[list[RuntimeClient | ExternalServer]]:
    """`refused`: per model why no runtime is asked to load it."""
    found, count = _declared_runtime(settings, deployment), _runtimes_count(settings, deployment)
    clients: list[RuntimeClient | ExternalServer]
    if found is not None and found.protocol == "open-inference":
        clients = [ExternalServer(_server_settings(settings, found, index)) for index in range(count)]
    else:
        clients = [RuntimeClient(_runtime_settings(settings, deployment, refused, index)) for index in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            await client.close()


def _declared_runtime(settings: Settings, deployment: ModelDeployment) -> DeclaredRuntime | None:
    return next((each for each in deployment.spec.runtimes if each.accelerator == settings.kind), None)


def _runtimes_count(settings: Settings, deployment: ModelDeployment) -> int:
    found = _declared_runtime(settings, deployment)
    return settings.runtimes or (found.count if found is not None else 1)


def shares_of(settings: Settings, deployment: ModelDeployment) -> MemoryShares:
    return memory_shares(
        settings.memory_bytes or container_limit_bytes(),
        machine_bytes(),
        _runtimes_count(settings, deployment),
        settings.request_memory_bytes,
    )


def _server_settings(settings: Settings, runtime: DeclaredRuntime, index: int) -> ExternalServerSettings:
    """One server has all devices: it gets one client, and so one batch at a time, for each of them."""
    grpc = "" if runtime.grpc_port is None else f"127.0.0.1:{runtime.grpc_port}"
    return ExternalServerSettings(
        kind=settings.kind,
        device=f"runtime-{index}",
        url=settings.server_url or f"http://127.0.0.1:{runtime.port}",
        grpc=settings.server_grpc if settings.server_url else grpc,
    )


def _runtime_settings(
    settings: Settings, deployment: ModelDeployment, refused: Mapping[str, str], index: int
) -> RuntimeSettings:
    artifacts = [artifact for model in deployment.spec.models for artifact in model.artifacts]
    here = [artifact for artifact in artifacts if artifact.accelerator == settings.kind]
    return RuntimeSettings(
        kind=settings.kind,
        device=f"runtime-{index}",
        socket=settings.ipc_dir / f"runtime-{index}.sock",
        slots=settings.ipc_dir / f"slots-{index}",
        slots_limit_bytes=shares_of(settings, deployment).slots_bytes,
        paths=Paths(scripts=settings.scripts_dir),
        overlaps_loads=interleaves(deployment)
        or (bool(here) and all(_loads_beside_batches(each, settings.kind) for each in here)),
        interleaves=interleaves(deployment),
        refused=refused,
    )


def _loads_beside_batches(artifact: Artifact, kind: str) -> bool:
    """May a load of it run while batches of other models do? Where models are cut into layers, all may: the runtime
    loads on a thread of its own there, and measures when no batch runs."""
    if kind == KIND_EMULATED:
        return artifact.emulated is not None and artifact.emulated.load_overlaps
    return kind == KIND_CPU and FORMATS[artifact.format].loads_beside_batches
