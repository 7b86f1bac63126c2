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
from collections.abc import Callable
from random import Random
from typing import Final

from batchwright_operator.kube.credentials import Credentials
from batchwright_operator.kube.objects import Raw, Resource
from batchwright_operator.reconcile.cache import ListWatch, Store
from batchwright_operator.reconcile.workqueue import backoff_s
from batchwright_operator.settings import Settings

logger = logging.getLogger(__name__)

FIRST_DELAY_S: Final = 0.5
LAST_DELAY_S: Final = 15.0
HEALTHY_S: Final = 60.0
"""A run of this length resets the delay before the next."""


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
        self._of_place = {(each.resource, each.namespace): each for each in list_watches}
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
        # By this thread, as it takes a tenth of a second or more, and the first decisions need none of it.
        from batchwright_operator.process.kopf_run import run_kopf

        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        resources = list(dict.fromkeys(resource for resource, _ in self._of_place))
        failures, rng = 0, Random()  # noqa: S311 - jitter
        while not self._stopping.is_set():
            started = time.monotonic()
            why: object = "it returned"
            try:
                await run_kopf(self._settings, self._credentials, resources, self._on_event)
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

    def _on_event(self, resource: Resource, kind: str | None, obj: Raw) -> None:
        list_watch = self._of_place.get((resource, "")) or self._of_place[resource, obj["metadata"]["namespace"]]
        self._main.call_soon_threadsafe(self._enter, list_watch, kind, obj)

    def _enter(self, list_watch: ListWatch, kind: str | None, obj: Raw) -> None:
        if kind == "DELETED":
            self._store.deleted(list_watch, obj)
            return
        self._store.changed(list_watch, obj)
        if kind is None:
            self._relist(list_watch)
