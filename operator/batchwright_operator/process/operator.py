"""The operator: puts watches, Lease, controller, background tasks and metrics together, and keeps them running."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from batchwright_operator.errors import ApiError
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.credentials import Credentials
from batchwright_operator.process.control_key import load_control_key
from batchwright_operator.process.election import Election
from batchwright_operator.process.garbage import GarbageCollection
from batchwright_operator.process.kopf_watch import KopfWatch
from batchwright_operator.process.lease import identity_of
from batchwright_operator.process.loop_watch import LoopWatch
from batchwright_operator.process.metrics_server import serve_metrics
from batchwright_operator.process.registry import build_backgrounds, build_reconcilers, namespaces_of
from batchwright_operator.process.tracing import TracedPasses
from batchwright_operator.process.worker_image import agents_run_another, with_worker_image
from batchwright_operator.reconcile.applier import LOOK_AGAIN_S, Applier
from batchwright_operator.reconcile.cache import ListWatch, Store
from batchwright_operator.reconcile.controller import Controller
from batchwright_operator.reconcile.event_recorder import EventRecorder
from batchwright_operator.reconcile.informer import Informer
from batchwright_operator.reconcile.interfaces import Background, Reconciler
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.reconcile.metrics import Metrics
from batchwright_operator.reconcile.passes import UNTOLD
from batchwright_operator.reconcile.workqueue import WorkQueue, backoff_s
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import GROUP
from batchwright_worker.otlp.metrics_export import MetricsExport
from batchwright_worker.otlp.providers import traces_of

logger = logging.getLogger(__name__)

OWN_COUNT_S: Final = 60.0
"""kopf reports no deletions that happened while its watch was lost: that we have too many objects tells."""
QUEUED_AT_ONCE: Final = 200
"""Keys that a resync queues before anybody else has a turn."""
STOP_S: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of this process, which differ between replicas and runs; `Settings` are those of the installation."""

    namespace: str
    """Of the Lease and of the control key."""
    metrics_port: int
    pod: str = ""
    """The pod's name; empty outside of one."""
    elect: bool = True
    """False: lead at once, without a Lease (one process, for development)."""


class Operator:
    """The whole operator. `run` once."""

    def __init__(self, settings: Settings, options: Options, credentials: Credentials, client: ApiClient) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._options = options
        self._client = client
        self._credentials = credentials
        self._identity = identity_of(socket.gethostname(), options.pod, uuid.uuid4().hex[:8])
        self._live = LiveState(now=client.clock.now)
        self._metrics = Metrics(self._live)
        self._loop_watch = LoopWatch(self._metrics)
        client.on_call = self._metrics.called
        self._queue = WorkQueue(loop.time)
        self._metrics.queue_depth.set_function(lambda: self._queue.schedule.depth)
        self._store = Store(self._queue.add)
        self._metrics.show_store(self._store.sizes)
        look_again_s = min(LOOK_AGAIN_S, settings.resync_seconds)
        self._recorder = EventRecorder(client, self._metrics, self._identity, self._live.now)
        self._applier = Applier(
            client, self._store, self._metrics, look_again_s=look_again_s, tell=self._recorder.record
        )
        self._reconcilers = build_reconcilers(settings, self._live)
        self._backgrounds = build_backgrounds(settings, self._live, pod_session)
        self._informers = self._register(self._reconcilers)
        self._kopf_watch = KopfWatch(
            settings,
            credentials,
            self._store,
            [one.list_watch for one in self._informers if is_own(one.list_watch)],
            relist=self._relist_soon,
            restarted=self._kopf_restarted,
        )
        self._relist_wanted: dict[ListWatch, None] = {}
        self._relist_event = asyncio.Event()
        self._stopping = False
        self._traces = traces_of(os.environ, "batchwright-operator")
        self._metrics_export = MetricsExport.of(self._metrics.registry.collect, os.environ, "batchwright-operator")

    async def run(self) -> None:
        """Runs until cancelled; then stops within a few seconds."""
        # The metrics server is outermost: probes get a response from the first moment to the last.
        async with serve_metrics(
            self._options.metrics_port, self._metrics.registry, healthy=self._unhealthy, ready=self._unready
        ) as port:
            logger.info("metrics and probes on port %d", port)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._loop_watch.run())
                    # From the beginning: while long lists come in, nearly all that is made stays.
                    tasks.create_task(GarbageCollection(lambda: self._queue.schedule.is_idle).run())
                    for informer in self._informers:
                        tasks.create_task(informer.run())
                    # A leader decides from the cache, where an object that is not listed yet does not exist: so nobody
                    # stands for election before everything is listed.
                    for informer in self._informers:
                        await informer.synced.wait()
                    logger.info("caches are filled: %s", ", ".join(str(one.list_watch) for one in self._informers))
                    self._kopf_watch.start()
                    tasks.create_task(self._recount_own())
                    tasks.create_task(self._resync())
                    tasks.create_task(self._recorder.run())
                    tasks.create_task(self._elect())
                    if self._metrics_export is not None:
                        tasks.create_task(self._metrics_export.run())
            finally:
                # The Lease is released by now (`Elector.run`), so that another replica need not wait for this thread.
                self._stopping = True
                await self._kopf_watch.stop(STOP_S)
                if self._traces is not None:
                    await asyncio.to_thread(self._traces.stop)

    # --- leading

    async def _elect(self) -> None:
        if not self._options.elect:
            await self._lead()
            return
        election = Election(
            self._credentials,
            self._options.namespace,
            self._settings.lease_name,
            self._identity,
            silent_s=lambda: self._loop_watch.silent_s,
        )
        self._client.may_write = election.leads
        await election.run(self._lead)

    async def _lead(self) -> None:
        self._metrics.leader.set(1)
        self._loop_watch.start_anew()
        try:
            # Before the first pass: without the key no reconciler can render a child's token.
            self._live.control_key = await self._control_key()
            # What this process applied and queued when it led before is no longer known to be true: start over.
            self._applier.on_leadership_gained()
            self._queue.schedule.clear()
            await self._queue_all()
            controller = Controller(
                self._reconcilers,
                self._store,
                self._queue,
                self._applier,
                self._recorder,
                live=self._live,
                metrics=self._metrics,
                circuit_breaker=self._client.writes,
                now=self._live.now,
                passes=UNTOLD if self._traces is None else TracedPasses(self._traces.tracer),
            )
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(controller.run(self._settings.workers))
                for background in self._backgrounds:
                    tasks.create_task(self._keep(background))
        finally:
            self._metrics.leader.set(0)
            if not self._stopping:
                self._metrics.lost_leads.inc()

    async def _control_key(self) -> bytes:
        failures = 0
        while True:
            try:
                await self._client.reads.ready()
                return await load_control_key(self._client, self._options.namespace, self._settings.control_key_secret)
            except ApiError as error:
                failures += 1
                delay = backoff_s(failures, 0.5, first_s=0.1, last_s=5.0)
                logger.warning("control key: %s; next try in %.1f s", error, delay)
                await asyncio.sleep(delay)

    async def _keep(self, background: Background) -> None:
        """Runs a background task again when it fails, so that one of them never ends the operator."""
        failures = 0
        while True:
            try:
                await background.run(self._store, self._queue)
            except Exception:
                logger.exception("background %s failed", type(background).__name__)
            failures += 1
            await asyncio.sleep(backoff_s(failures, 0.5, first_s=0.5, last_s=30.0))

    # --- watching

    def _register(self, reconcilers: list[Reconciler[Any]]) -> list[Informer]:
        list_watches = dict.fromkeys(
            self._store.register(watch, namespace)
            for reconciler in reconcilers
            for watch in reconciler.watches()
            for namespace in namespaces_of(self._settings, watch.resource)
        )
        return [
            Informer(
                self._client,
                self._store,
                list_watch,
                stale_s=self._settings.watch_stale_seconds,
                watches=not is_own(list_watch),
            )
            for list_watch in list_watches
        ]

    async def _queue_all(self) -> None:
        for number, key in enumerate(self._store.all_keys()):
            self._queue.add(key)
            if number % QUEUED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _resync(self) -> None:
        """Finds what was missed: decides on every key again. Nothing is listed for it, as a watch misses nothing."""
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            self._applier.prune()
            await self._queue_all()

    async def _recount_own(self) -> None:
        """Lists the own kinds soon after kopf listed them, and when from time to time their number is not ours."""
        informers = {one.list_watch: one for one in self._informers if is_own(one.list_watch)}
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(OWN_COUNT_S):
                    await self._relist_event.wait()
                    await asyncio.sleep(1.0)  # a list of kopf is many events, and one list of ours is enough
            self._relist_event.clear()
            wanted, self._relist_wanted = self._relist_wanted, {}
            for list_watch, informer in informers.items():
                if list_watch in wanted or not await self._counts(informer):
                    await self._list(informer)

    async def _counts(self, informer: Informer) -> bool:
        """Whether the cache has as many objects as the API server, as far as that is known."""
        try:
            await self._client.reads.ready()
            return await informer.matches()
        except ApiError as error:
            logger.info("%s: %s; left to the next count", informer.list_watch, error)
            return True

    async def _list(self, informer: Informer) -> None:
        try:
            await self._client.reads.ready()
            await informer.relist()
        except ApiError as error:
            logger.info("%s: %s; left to the next list", informer.list_watch, error)

    def _relist_soon(self, list_watch: ListWatch) -> None:
        self._relist_wanted[list_watch] = None
        self._relist_event.set()

    def _kopf_restarted(self) -> None:
        self._metrics.watch_restarts.inc()

    # --- probes

    def _unhealthy(self) -> str:
        started = all(one.synced.is_set() for one in self._informers)
        if started and not self._stopping and not self._kopf_watch.is_alive:
            return "the thread that watches the product's own kinds has ended"
        return ""

    def _unready(self) -> str:
        missing = [str(one.list_watch) for one in self._informers if not one.synced.is_set()]
        return f"not listed yet: {', '.join(missing)}" if missing else ""


def is_own(list_watch: ListWatch) -> bool:
    """Whether kopf watches it: one of the product's own kinds, without a selector."""
    return list_watch.resource.group == GROUP and not list_watch.label_selector and not list_watch.field_selector


def pod_session() -> aiohttp.ClientSession:
    """An HTTP session for pods: any number of long-polls at once, no proxies of the environment."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60), trust_env=False)


async def run_operator(
    settings: Settings, options: Options, credentials: Credentials, until: Callable[[], Awaitable[None]]
) -> None:
    """Runs the operator until `until` returns, or its worker image is no longer the one to use. Raises what ended the
    operator otherwise."""

    async def run(client: ApiClient) -> None:
        known = await with_worker_image(settings, client)
        operating = asyncio.ensure_future(Operator(known, options, credentials, client).run())
        others = [] if settings.worker_image else [asyncio.ensure_future(agents_run_another(known, client))]
        try:
            await asyncio.wait({operating, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (operating, *others):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await operating

    async with ApiClient(credentials, page_size=settings.list_page_size) as client:
        running = asyncio.ensure_future(run(client))
        stopping = asyncio.ensure_future(until())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
