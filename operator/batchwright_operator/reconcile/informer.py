"""Keeps one feed of the store true: list, watch, bookmarks, list anew when the server has forgotten our version.

The product's own kinds are watched by kopf (process/kopf_watch.py); their feeds are only listed here.
"""

from __future__ import annotations

import asyncio
import logging
from random import Random

from batchwright_operator.errors import ApiError, Gone
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.reconcile.cache import ListWatch, Store, version_of
from batchwright_operator.reconcile.workqueue import backoff_s

logger = logging.getLogger(__name__)

FIRST_DELAY_S = 0.1
LAST_DELAY_S = 5.0


class Informer:
    """One feed. `watches=False`: listed at the start and on demand only."""

    def __init__(
        self, client: ApiClient, store: Store, list_watch: ListWatch, *, stale_s: float, watches: bool = True
    ) -> None:
        self._client = client
        self._store = store
        self._list_watch = list_watch
        self._stale_s = stale_s
        self._watches = watches
        self._rng = Random()  # noqa: S311 - jitter
        self._failures = 0
        self.synced = asyncio.Event()

    @property
    def list_watch(self) -> ListWatch:
        """What it feeds."""
        return self._list_watch

    async def run(self) -> None:
        """Runs until cancelled."""
        listed = False
        while True:
            try:
                await self._client.reads.ready()
                if not listed:
                    await self.relist()
                    listed = True
                if not self._watches:
                    return
                await self._watch()
                self._failures = 0
                await asyncio.sleep(self._rng.random() * FIRST_DELAY_S)
            except Gone as expired:
                logger.info("%s: listing again: %s", self._list_watch, expired)
                listed = False
                await self._pause()
            except ApiError as error:
                await self._pause(error)

    async def relist(self) -> None:
        """A whole list into the store; fine beside a running watch. Raises ApiError."""
        list_watch = self._list_watch
        listing = await self._client.list(
            list_watch.resource, label_selector=list_watch.label_selector, field_selector=list_watch.field_selector
        )
        self._store.replace(list_watch, listing.items, listing.version)
        self.synced.set()

    async def _watch(self) -> None:
        list_watch = self._list_watch
        stream = self._client.watch(
            list_watch.resource,
            list_watch.progress,
            label_selector=list_watch.label_selector,
            field_selector=list_watch.field_selector,
            stale_s=self._stale_s,
        )
        async for event in stream:
            self._failures = 0
            if event.type == "BOOKMARK":
                self._store.bookmark(list_watch, version_of(event.object))
            elif event.type == "DELETED":
                self._store.deleted(list_watch, event.object)
            else:
                self._store.changed(list_watch, event.object)

    async def _pause(self, error: ApiError | None = None) -> None:
        self._failures += 1
        delay = backoff_s(self._failures, self._rng.random(), first_s=FIRST_DELAY_S, last_s=LAST_DELAY_S)
        if error is not None:
            level = logging.WARNING if self._failures in (3, 30) else logging.DEBUG
            logger.log(level, "%s: %s; next try in %.1f s", self._list_watch, error, delay)
        await asyncio.sleep(delay)
