"""The sidecar's process: starts servers, engine and runtimes' clients, waits for SIGTERM, drains, stops them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from batchwright_worker.api.deployment import ModelDeployment, parse_deployment
from batchwright_worker.api.deployment import Runtime as DeclaredRuntime
from batchwright_worker.api.messages import LoadTableRow, SidecarState
from batchwright_worker.api.names import KIND_EMULATED
from batchwright_worker.dispatch_log.recorder import DEFAULT_BYTES, DispatchLog, RecordedScheduler
from batchwright_worker.engine.engine import Engine, interleaves
from batchwright_worker.engine.readiness import Readiness
from batchwright_worker.host.memory import container_limit_bytes, freeze_objects, machine_bytes
from batchwright_worker.host.process import die_with_parent
from batchwright_worker.inference.runtime import Runtime, StreamingRuntime
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.grpc.health import add_health_and_reflection
from batchwright_worker.protocol.grpc.server import InferenceService, grpc_server
from batchwright_worker.protocol.http.asgi import UvicornServer
from batchwright_worker.protocol.http.routes import HttpApp
from batchwright_worker.protocol.http.server import HttpServer, bound
from batchwright_worker.protocol.large_bodies import LargeBodies
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.metrics import Metrics
from batchwright_worker.protocol.request_memory import RequestMemory
from batchwright_worker.protocol.tls import Certificates, TlsFiles
from batchwright_worker.sidecar.control import ControlApp, token_from
from batchwright_worker.sidecar.control_thread import ControlThread
from batchwright_worker.sidecar.drain import Drain
from batchwright_worker.sidecar.layerwise_state import with_layerwise
from batchwright_worker.sidecar.main_loop import MainLoop
from batchwright_worker.sidecar.memory_shares import MemoryShares, memory_shares
from batchwright_worker.sidecar.probes import Probes
from batchwright_worker.sidecar.runtimes.client import RuntimeClient, RuntimeSettings
from batchwright_worker.sidecar.runtimes.external.server import ExternalServer, ExternalServerSettings
from batchwright_worker.sidecar.runtimes.sources import Paths
from batchwright_worker.sidecar.tracing.instrumented import TracedApp, TracedEngine, TracedRuntime, TracedService
from batchwright_worker.sidecar.tracing.spans import tracing_of

_LOG = logging.getLogger(__name__)
YOUNG_OBJECTS: Final = 20_000
"""A request is some ten objects for as long as it waits, and no cycle: with Python's 700 a collection every few batches
would look at them all and find nothing."""


class SidecarFailed(Exception):  # noqa: N818
    """It cannot start; the message says what to change."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The sidecar's settings, named as on the command line."""

    deployment: Path
    http_port: int
    grpc_port: int
    control_port: int
    host: str
    ipc_dir: Path
    token_file: Path
    scripts_dir: Path
    runtimes: int | None
    linger_seconds: float
    drain_seconds: float
    max_body_bytes: int
    header_seconds: float
    body_seconds: float
    parent: int
    ready_file: Path | None
    kind: str
    stuck_seconds: float = 30.0
    server_url: str = ""
    server_grpc: str = ""
    was_ready_file: Path | None = None
    """Is written when this pod is ready for the first time, and outlives the process: a `Readiness.was_ready`."""
    http_front_end: str = "own"
    dispatch_log: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    dispatch_log_bytes: int = DEFAULT_BYTES
    load_table: str = ""
    memory_bytes: int | None = None
    request_memory_bytes: int | None = None


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises SidecarFailed."""
    if settings.parent:
        die_with_parent(settings.parent)
    deployment = _deployment(settings.deployment)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _runtimes(settings, deployment) as clients, contextlib.AsyncExitStack() as stack:
        engine = _engine(settings, deployment, clients, stack)
        engine.load_table = load_table_of(settings.load_table)
        async with Sidecar(settings, deployment, engine, clients) as sidecar:
            freeze_objects()
            gc.set_threshold(YOUNG_OBJECTS, 20, 20)
            starting = asyncio.create_task(_start(engine, clients), name="start")
            await _first(stop.wait(), _failure_of(starting))
            # The preStop hook has drained already, or there is none (local mode): after SIGTERM the port does not stay
            # open for clients that have not noticed yet.
            sidecar.drain.hurry()
            await sidecar.drain.run()
            starting.cancel()


class Sidecar:
    """The sidecar's servers: HTTP, gRPC, control port. A context manager: they listen inside."""

    def __init__(
        self,
        settings: Settings,
        deployment: ModelDeployment,
        engine: Engine,
        runtimes: Sequence[RuntimeClient | ExternalServer],
    ) -> None:
        self._settings = settings
        self._engine = engine
        shares = _shares(settings, deployment)
        self._memory = RequestMemory(shares.requests_bytes)
        self._large = LargeBodies(shares.decoding_bytes)
        # A body that never fits is refused for good (413), not for now (503).
        body_bytes = min(settings.max_body_bytes, self._memory.limit_bytes)
        self._limits = Limits(
            body_bytes=body_bytes,
            json_bytes=min(body_bytes, Limits().json_bytes, shares.json_bytes),
            header_seconds=settings.header_seconds,
            body_seconds=settings.body_seconds,
        )
        self.drain = Drain(
            engine.publisher.publish, lambda: engine.drain(settings.drain_seconds), settings.linger_seconds
        )
        models = {model.name: model for model in deployment.spec.models}
        self._catalogue = Catalogue(engine=engine, models=models, kind=settings.kind)
        self._control = deployment.spec.repository_control
        self._runtimes = runtimes
        self._streaming: list[StreamingRuntime] = [each for each in runtimes if isinstance(each, RuntimeClient)]
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[HttpServer | UvicornServer] = []
        self._control_thread: ControlThread | None = None
        self._grpc: Any = None
        self._noted = settings.was_ready_file is not None and settings.was_ready_file.exists()
        engine.publisher.readiness = Readiness(rule=deployment.spec.readiness, was_ready=self._noted)
        self._watching: asyncio.Task[None] | None = None

    def ready(self) -> bool:
        """Are the models ready that have to be, and is no drain requested?"""
        ready = not self.drain.started and self._engine.ready()
        if ready and not self._noted:
            self._noted = True
            if self._settings.was_ready_file is not None:
                with contextlib.suppress(OSError):  # then a restart of this container asks for every model again
                    self._settings.was_ready_file.touch()
        return ready

    def state(self) -> SidecarState:
        """The state as the operator sees it: with layerwise runtimes, and not ready while draining."""
        state = msgspec.structs.replace(
            with_layerwise(self._engine.snapshot(), self._streaming),
            ready=self.ready(),
        )
        return msgspec.structs.replace(state, message="stopping") if self.drain.started else state

    async def __aenter__(self) -> Sidecar:
        settings, limits = self._settings, self._limits
        metrics = Metrics(self._engine.counters, self.state, self._memory)
        is_traced = isinstance(self._engine, TracedEngine)
        app = (TracedApp if is_traced else HttpApp)(
            self._engine,
            self._catalogue,
            metrics,
            limits,
            ready=self.ready,
            repository_control=self._control,
            memory=self._memory,
            large=self._large,
        )
        try:
            certificates = _certificates(settings)
            if certificates is not None:
                self._watching = asyncio.create_task(certificates.watch(), name="certificates")
            token = token_from(settings.token_file)
            ports = {
                "http": self._serve(app, settings.http_port, self._memory, certificates),
                "control": self._serve_control(token),
            }
            service = (TracedService if is_traced else InferenceService)(
                self._engine,
                self._catalogue,
                limits,
                self.ready,
                repository_control=self._control,
                memory=self._memory,
                large=self._large,
            )
            address = f"{settings.host}:{settings.grpc_port}"
            self._grpc, ports["grpc"] = grpc_server(service, limits, address, certificates)
            add_health_and_reflection(self._grpc, self._engine, self.ready)
            await self._grpc.start()
        except (OSError, RuntimeError) as error:
            await self._stop()
            raise SidecarFailed(f"cannot serve: {error}") from error
        _LOG.info("listening on %s: %s", settings.host, ports)
        if settings.ready_file is not None:
            settings.ready_file.write_text(json.dumps(ports))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def _serve(self, app: Any, port: int, memory: RequestMemory, certificates: Certificates | None = None) -> int:
        listener = bound(self._settings.host, port)
        kind = UvicornServer if self._settings.http_front_end == "uvicorn" else HttpServer
        server = kind(app, self._limits, memory)
        self._tasks.append(server.start(listener, certificates))
        self._servers.append(server)
        return int(listener.getsockname()[1])

    def _serve_control(self, token: Callable[[], bytes]) -> int:
        listener = bound(self._settings.host, self._settings.control_port)
        main = MainLoop()
        probes = Probes(self._catalogue, self.state, self._runtimes, main, self._settings.stuck_seconds)
        app = ControlApp(self._catalogue, self.drain, token, probes, main)
        self._control_thread = ControlThread(app, self._limits, listener)
        self._control_thread.start()
        return int(listener.getsockname()[1])

    async def _stop(self) -> None:
        # The engine first: it answers the requests that are still open, over connections that the servers end.
        await self._engine.close()
        if self._control_thread is not None:
            await self._control_thread.stop()
        if self._watching is not None:
            self._watching.cancel()
        if self._grpc is not None:
            await self._grpc.stop(1.0)
        self._large.close()
        for server in self._servers:
            server.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _certificates(settings: Settings) -> Certificates | None:
    """None without TLS. Raises SidecarFailed."""
    if settings.tls_cert is None or settings.tls_key is None:
        if settings.tls_cert or settings.tls_key or settings.tls_client_ca:
            raise SidecarFailed("TLS needs both a certificate and its key: give --tls-cert FILE and --tls-key FILE")
        return None
    files = TlsFiles(cert=settings.tls_cert, key=settings.tls_key, client_ca=settings.tls_client_ca)
    try:
        return Certificates(files)
    except (OSError, ValueError) as error:
        raise SidecarFailed(f"no TLS with {files.cert} and {files.key}: {error}; both are PEM files") from error


def _engine(
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
async def _runtimes(
    settings: Settings, deployment: ModelDeployment
) -> AsyncIterator[list[RuntimeClient | ExternalServer]]:
    found, count = _declared_runtime(settings, deployment), _runtimes_count(settings, deployment)
    clients: list[RuntimeClient | ExternalServer]
    if found is not None and found.protocol == "open-inference":
        clients = [ExternalServer(_server_settings(settings, found, index)) for index in range(count)]
    else:
        clients = [RuntimeClient(_runtime_settings(settings, deployment, index)) for index in range(count)]
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


def _shares(settings: Settings, deployment: ModelDeployment) -> MemoryShares:
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


def _runtime_settings(settings: Settings, deployment: ModelDeployment, index: int) -> RuntimeSettings:
    artifacts = [artifact for model in deployment.spec.models for artifact in model.artifacts]
    here = [artifact for artifact in artifacts if artifact.accelerator == settings.kind]
    overlaps = settings.kind == KIND_EMULATED and all(each.emulated and each.emulated.load_overlaps for each in here)
    return RuntimeSettings(
        kind=settings.kind,
        device=f"runtime-{index}",
        socket=settings.ipc_dir / f"runtime-{index}.sock",
        slots=settings.ipc_dir / f"slots-{index}",
        slots_limit_bytes=_shares(settings, deployment).slots_bytes,
        paths=Paths(scripts=settings.scripts_dir),
        overlaps_loads=bool(here) and overlaps,
        interleaves=interleaves(deployment),
    )


async def _start(engine: Engine, clients: Sequence[RuntimeClient | ExternalServer]) -> None:
    """The engine loads its models once a first runtime is there; others join when they come."""
    for client in clients:
        client.start()
    await asyncio.gather(*(client.first_connected() for client in clients))
    await engine.start()


async def _failure_of(task: asyncio.Task[None]) -> None:
    """Raises what the task raises; never returns."""
    await task
    await asyncio.Event().wait()


def load_table_of(text: str) -> list[tuple[int, float]]:
    """(batch size, images per second) of ENV_LOAD_TABLE's rows; what cannot be read is told and left out, since the
    first batches find a size as well."""
    if not text:
        return []
    try:
        rows = msgspec.json.decode(text, type=list[LoadTableRow])
    except msgspec.MsgspecError as error:
        _LOG.warning("the processor's load table is not used: %s", error)
        return []
    return [(row.batch_size, row.images_per_second) for row in rows if row.batch_size > 0]


async def _first(*awaitables: Any) -> None:
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()


def _deployment(path: Path) -> ModelDeployment:
    try:
        deployment = parse_deployment(msgspec.json.decode(path.read_bytes()))
    except OSError as error:
        raise SidecarFailed(f"no ModelDeployment at {path}: {error.strerror}; give --deployment FILE") from error
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise SidecarFailed(f"{path} is no ModelDeployment: {error}") from error
    return deployment
