"""kopf's watch of the product's own kinds: every event goes to the cache, and nothing is decided in a handler.

A kopf handler is no place for decisions, because kopf forgets an event whose handler failed: after 70 s of refused
writes, none of 100 objects converged (measured). kopf also exits when the API server is away for long (503 on a list
for about a minute, an expired continue token), and at its end it cancels every task of its event loop. So it has a
thread and a loop of its own, and is started again with a growing delay as often as it ends.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

import kopf

from batchwright_operator.kube.credentials import Credentials
from batchwright_operator.kube.objects import Resource
from batchwright_operator.reconcile.cache import ListWatch, Store
from batchwright_operator.reconcile.workqueue import backoff_s
from batchwright_operator.settings import Settings

logger = logging.getLogger(__name__)

# Without a limit kopf opens a connection per object: 2,000 for 2,000 objects (measured).
CONNECTIONS: Final = 16
SILENCE_S: Final = 75.0
"""The API server sends a bookmark every minute, so a watch that is silent for longer is broken."""
FIRST_DELAY_S: Final = 0.5
LAST_DELAY_S: Final = 15.0
HEALTHY_S: Final = 60.0
"""A run of this length resets the delay before the next."""


class Backoffs:
    """kopf's pauses between tries: growing, jittered, without an end. When they end, kopf exits."""

    def __iter__(self) -> Iterator[float]:
        rng = Random()  # noqa: S311 - jitter
        failures = 0
        while True:
            failures += 1
            yield backoff_s(failures, rng.random(), first_s=FIRST_DELAY_S, last_s=LAST_DELAY_S)


def kopf_settings(own: Settings) -> kopf.OperatorSettings:
    """Settings of kopf: no Events, finalizers, annotations or namespaces of its own; watches that notice silence."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.finalizer = "batchwright.dev/operator"
    settings.process.ultimate_exiting_timeout = None
    settings.networking.error_backoffs = Backoffs()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = own.list_page_size
    settings.watching.inactivity_timeout = min(SILENCE_S, own.watch_stale_seconds)
    settings.queueing.exit_timeout = 0.2
    return settings


class KopfWatch:
    """kopf's watch of these list-watches, in a thread; events go to the cache in the loop that made this object.

    `relist` is called there with a list-watch that kopf lists (a start, a watch that was lost): objects may have been
    deleted without an event. `restarted` is called there after each exit of kopf.
    """

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        store: Store,
        list_watches: list[ListWatch],
        *,
        relist: Callable[[ListWatch], None],
        restarted: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._store = store
        self._list_watches = list_watches
        for list_watch in list_watches:
            list_watch.ordered = False  # kopf handles different objects at the same time
        self._relist = relist
        self._restarted = restarted
        self._main = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    async def stop(self, within_s: float) -> None:
        """Ends kopf; gives up waiting after `within_s` (the thread dies with the process)."""
        self._stopping.set()
        if self._loop and self._task:
            self._loop.call_soon_threadsafe(self._task.cancel)
        await asyncio.to_thread(self._thread.join, within_s)

    def _run(self) -> None:
        try:
            asyncio.run(self._supervise())
        except asyncio.CancelledError:
            return
        except Exception:
            logger.exception("the thread of kopf ended")

    async def _supervise(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        failures, rng = 0, Random()  # noqa: S311 - jitter
        while not self._stopping.is_set():
            started = time.monotonic()
            why: object = "it returned"
            try:
                await kopf.operator(
                    registry=self._registry(),
                    settings=kopf_settings(self._settings),
                    # Exact names, so that kopf need not look for namespaces.
                    clusterwide=not self._settings.watch_namespaces,
                    namespaces=self._settings.watch_namespaces,
                    standalone=True,
                    # Otherwise kopf looks up the name of the process's user, which a pod's user need not have.
                    identity="batchwright",  # type: ignore[arg-type]
                )
            except asyncio.CancelledError:
                if self._stopping.is_set():
                    raise
                why = "it was cancelled"
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
            failures = 1 if time.monotonic() - started > HEALTHY_S else failures + 1
            delay = backoff_s(failures, rng.random(), first_s=FIRST_DELAY_S, last_s=LAST_DELAY_S)
            logger.warning("kopf ended (%s); starting it again in %.1f s", why, delay)
            self._main.call_soon_threadsafe(self._restarted)
            await asyncio.sleep(delay)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            await asyncio.to_thread(self._credentials.refresh)
            session = self._credentials.session(limit=CONNECTIONS)
            return kopf.AiohttpSession(server=self._credentials.server, aiohttp_session=session)

        for resource in dict.fromkeys(list_watch.resource for list_watch in self._list_watches):
            self._listen(registry, resource)
        return registry

    def _listen(self, registry: kopf.OperatorRegistry, resource: Resource) -> None:
        mine = {one.namespace: one for one in self._list_watches if one.resource == resource}

        @kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=resource.plural)
        async def on_event(event: kopf.RawEvent, **_: Any) -> None:
            obj: dict[str, Any] = dict(event["object"])
            list_watch = mine.get("") or mine[obj["metadata"]["namespace"]]
            self._main.call_soon_threadsafe(self._enter, list_watch, event["type"], obj)

    def _enter(self, list_watch: ListWatch, kind: str | None, obj: dict[str, Any]) -> None:
        if kind == "DELETED":
            self._store.deleted(list_watch, obj)
            return
        self._store.changed(list_watch, obj)
        if kind is None:
            self._relist(list_watch)
