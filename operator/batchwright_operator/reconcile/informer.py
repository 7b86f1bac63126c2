"""Informers: each keeps one list-watch of the cache current by a list, a watch with bookmarks, and another list when
the server no longer has our resourceVersion.

The product's own kinds are watched by kopf (`process/kopf_watch`); they are only listed here. Pods and the like are
not, because that is several times dearer: with 5,000 gated Pods on a real API server the first decision came after
6 to 7 s instead of 0.6 s, at 3.4 instead of 0.8 ms of CPU per Pod and 193 instead of 75 MB (measured).
"""

from __future__ import annotations

import asyncio
import logging
import time
from random import Random

from batchwright_operator.errors import ApiError, Gone
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.reconcile.cache import ListWatch, Store, version_of
from batchwright_operator.reconcile.reduced import decoder_of
from batchwright_operator.reconcile.workqueue import backoff_s

logger = logging.getLogger(__name__)

FIRST_DELAY_S = 0.1
LAST_DELAY_S = 5.0
SLICE_S = 0.005
"""Events that came together enter the cache for so long before anybody else has a turn."""


class Informer:
    """The informer of one list-watch. `watches=False`: it lists at the start and on demand only."""

    def __init__(
        self, client: ApiClient, store: Store, list_watch: ListWatch, *, stale_s: float, watches: bool = True
    ) -> None:
        self._client = client
        self._store = store
        self._list_watch = list_watch
        self._stale_s = stale_s
        self._watches = watches
        self._decode = None if list_watch.metadata_only else decoder_of(list_watch.resource)
        self._rng = Random()  # noqa: S311 - jitter
        self._failures = 0
        self.synced = asyncio.Event()

    @property
    def list_watch(self) -> ListWatch:
        """The list-watch that it keeps current."""
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
                await asyncio.sleep(self._rng.random() * FIRST_DELAY_S)  # jitter: not all watches at once
            except Gone as expired:
                logger.info("%s: listing again: %s", self._list_watch, expired)
                listed = False
                await self._pause()
            except ApiError as error:
                await self._pause(error)

    async def relist(self) -> None:
        """Puts a whole list into the cache; a watch may run meanwhile. Raises ApiError."""
        try:
            await self._list(whole=False)
        except Gone:
            await self._list(whole=True)
        self.synced.set()

    async def matches(self) -> bool:
        """Whether the cache has as many objects as the API server: one that was deleted unseen would be too many. For
        list-watches without a selector. Raises ApiError."""
        resource, namespace = self._list_watch.resource, self._list_watch.namespace
        return await self._client.count(resource, namespace) == self._store.count(resource, namespace)

    async def _list(self, *, whole: bool) -> None:
        list_watch = self._list_watch
        pages = self._client.pages(
            list_watch.resource,
            namespace=list_watch.namespace,
            label_selector=list_watch.label_selector,
            field_selector=list_watch.field_selector,
            metadata_only=list_watch.metadata_only,
            whole=whole,
            decode=self._decode,
        )
        replacement = None
        async for page in pages:
            replacement = replacement or self._store.replacement(list_watch, page.version)
            replacement.add(page.items)
            await asyncio.sleep(0)
        assert replacement is not None, "an empty list is a page too"
        replacement.finish()

    async def _watch(self) -> None:
        list_watch = self._list_watch
        stream = self._client.watch(
            list_watch.resource,
            list_watch.progress,
            namespace=list_watch.namespace,
            label_selector=list_watch.label_selector,
            field_selector=list_watch.field_selector,
            metadata_only=list_watch.metadata_only,
            stale_s=self._stale_s,
            decode=self._decode,
        )
        pause_at = time.monotonic() + SLICE_S
        async for event in stream:
            self._failures = 0
            if event.type == "BOOKMARK":
                self._store.bookmark(list_watch, version_of(event.object))
            elif event.type == "DELETED":
                self._store.deleted(list_watch, event.object)
            else:
                self._store.changed(list_watch, event.object)
            # What the socket has at once are some dozens of pods, and the stream waits for nothing between them.
            if time.monotonic() >= pause_at:
                await asyncio.sleep(0)
                pause_at = time.monotonic() + SLICE_S

    async def _pause(self, error: ApiError | None = None) -> None:
        self._failures += 1
        delay = backoff_s(self._failures, self._rng.random(), first_s=FIRST_DELAY_S, last_s=LAST_DELAY_S)
        if error is not None:
            level = logging.WARNING if self._failures in (3, 30) else logging.DEBUG
            logger.log(level, "%s: %s; next try in %.1f s", self._list_watch, error, delay)
        await asyncio.sleep(delay)
