"""The sidecar's process: starts servers, engine and runtimes' clients, waits for SIGTERM, drains, stops them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import FETCHED_DIR
from batchwright_worker.engine.engine import Engine
from batchwright_worker.engine.readiness import Readiness
from batchwright_worker.fetch.cache.holding import hold_linked
from batchwright_worker.host.memory import freeze_objects
from batchwright_worker.host.process import die_with_parent
from batchwright_worker.inference.runtime import StreamingRuntime
from batchwright_worker.language.routes import TextRoutes
from batchwright_worker.language.service import TextService
from batchwright_worker.otlp.metrics_export import MetricsExport
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
from batchwright_worker.protocol.shared_memory import EXTENSION as SHARED_MEMORY
from batchwright_worker.protocol.shared_memory import Regions
from batchwright_worker.protocol.tls import Certificates
from batchwright_worker.sidecar.assembly import engine_of, runtimes_of, shares_of
from batchwright_worker.sidecar.configuration import Configuration
from batchwright_worker.sidecar.control import ControlApp, token_from
from batchwright_worker.sidecar.control_thread import ControlThread
from batchwright_worker.sidecar.drain import Drain
from batchwright_worker.sidecar.layerwise_state import with_layerwise
from batchwright_worker.sidecar.main_loop import MainLoop
from batchwright_worker.sidecar.probes import Probes
from batchwright_worker.sidecar.runtimes.client import RuntimeClient
from batchwright_worker.sidecar.runtimes.external.server import ExternalServer
from batchwright_worker.sidecar.settings import Settings, SidecarFailed, certificates_of, load_table_of
from batchwright_worker.sidecar.text_models import text_models_of
from batchwright_worker.sidecar.tracing.instrumented import TracedApp, TracedEngine, TracedService

_LOG = logging.getLogger(__name__)
YOUNG_OBJECTS: Final = 20_000
"""A request is some ten objects for as long as it waits, and no cycle: with Python's 700 a collection every few batches
would look at them all and find nothing."""


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises SidecarFailed."""
    if settings.parent:
        die_with_parent(settings.parent)
    configuration = Configuration.of_file(settings.deployment, settings.kind)
    deployment = configuration.deployment
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # The runtimes of ours do so, too: one of them may be starting again, and a server of the user's does not.
    hold_linked(Path(FETCHED_DIR))
    async with (
        runtimes_of(settings, deployment, configuration.refused) as clients,
        contextlib.AsyncExitStack() as stack,
    ):
        engine = engine_of(settings, deployment, clients, stack)
        engine.load_table = load_table_of(settings.load_table)
        configuration.serve(engine)
        async with Sidecar(settings, configuration, engine, clients) as sidecar:
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
        configuration: Configuration,
        engine: Engine,
        runtimes: Sequence[RuntimeClient | ExternalServer],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._configuration, deployment = configuration, configuration.deployment
        configuration.on_change = engine.publisher.publish
        shares = shares_of(settings, deployment)
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
        self._regions = Regions(body_bytes) if settings.shared_memory else None
        extensions = (SHARED_MEMORY,) if self._regions is not None else ()
        self._catalogue = Catalogue(
            engine=engine,
            models=engine.models,
            kind=settings.kind,
            more_extensions=extensions,
            server_name=settings.server_name,
        )
        self._control = deployment.spec.repository_control
        self._runtimes = runtimes
        self._streaming: list[StreamingRuntime] = [each for each in runtimes if isinstance(each, RuntimeClient)]
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[HttpServer | UvicornServer] = []
        self._control_thread: ControlThread | None = None
        self._grpc: Any = None
        self._texts: TextService | None = None
        self._noted = settings.was_ready_file is not None and settings.was_ready_file.exists()
        engine.publisher.readiness = Readiness(rule=deployment.spec.readiness, was_ready=self._noted)
        self._watching: list[asyncio.Task[None]] = []
        self._metrics_export: asyncio.Task[None] | None = None

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
            configuration=self._configuration.state(),
        )
        return msgspec.structs.replace(state, message="stopping") if self.drain.started else state

    async def __aenter__(self) -> Sidecar:
        settings, limits = self._settings, self._limits
        metrics = Metrics(self._engine.counters, self.state, self._memory, self._settings.cache)
        is_traced = isinstance(self._engine, TracedEngine)
        text_models = await asyncio.to_thread(text_models_of, self._configuration.deployment, settings.kind)
        if text_models:
            self._texts = TextService(self._engine, self._catalogue, text_models, self._memory)
        app = (TracedApp if is_traced else HttpApp)(
            self._engine,
            self._catalogue,
            metrics,
            limits,
            ready=self.ready,
            repository_control=self._control,
            memory=self._memory,
            large=self._large,
            regions=self._regions,
            more=TextRoutes(self._texts, limits) if self._texts is not None else None,
        )
        try:
            self._watching.append(asyncio.create_task(self._configuration.watch(), name="configuration"))
            export = MetricsExport.of(metrics.families, os.environ, self._configuration.deployment.name)
            if export is not None:
                self._metrics_export = asyncio.create_task(export.run(), name="metrics export")
            certificates = certificates_of(settings)
            if certificates is not None:
                self._watching.append(asyncio.create_task(certificates.watch(), name="certificates"))
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
                regions=self._regions,
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
        app = ControlApp(self._catalogue, self.drain, self._configuration, token, probes, main)
        self._control_thread = ControlThread(app, self._limits, listener)
        self._control_thread.start()
        return int(listener.getsockname()[1])

    async def _stop(self) -> None:
        # The engine first: it answers the requests that are still open, over connections that the servers end.
        await self._engine.close()
        if self._control_thread is not None:
            await self._control_thread.stop()
        for watching in self._watching:
            watching.cancel()
        if self._metrics_export is not None:
            self._metrics_export.cancel()
            await asyncio.gather(self._metrics_export, return_exceptions=True)  # what has happened last is sent
        if self._grpc is not None:
            await self._grpc.stop(1.0)
        self._large.close()
        if self._texts is not None:
            self._texts.close()
        for server in self._servers:
            server.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)


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


async def _first(*awaitables: Any) -> None:
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()
